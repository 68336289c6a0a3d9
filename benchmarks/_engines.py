"""Start the workload through an engine's command line: docker with a daemon of our own, podman.

Both work aside, with a /run of their own, so that what their helpers keep there never reaches the host's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks._oci import Aside
from benchmarks._same import LIMITS, PROGRAM, Channel, Place, Sample, seccomp_document
from harness.container import syscalls

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_READY_S = 60
_IMAGE = "harness-benchmark"


class Engine:
    """`ENGINE run --rm` of the tree as an image, with the limits and the filter of all rows; the root is its work."""

    name = "engine"

    def __init__(self, place: Place) -> None:
        self._place = place
        self.directory = place.directory(self.name)
        self._channel = Channel()
        self._filter = self.directory / "seccomp.json"
        self._filter.write_text(json.dumps(seccomp_document()))
        self._aside = Aside(v1_only=False)
        try:
            self._aside.run(self._prepare)
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        syscalls.mount("tmpfs", "/run", "tmpfs", 0, "mode=0755")
        for directory in ("/run/lock", "/run/engine"):
            Path(directory).mkdir()
        self.begin()
        archive = self.directory / "image.tar"
        with tarfile.open(archive, "w") as file:
            file.add(self._place.tree, ".")
        self.call("import", str(archive), _IMAGE)

    def begin(self) -> None:
        """Start what runs beside all containers."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {"PATH": _PATH, "HOME": str(self.directory)}

    def options(self) -> list[str]:
        return []

    def call(self, *args: str) -> None:
        """Run the engine's command. Raises RuntimeError with what it said."""
        done = subprocess.run(
            [*self.command(), *args], env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} {args[0]}: {done.stderr.strip()}")

    def start(self, number: int) -> Sample:
        return self._aside.run(self._start, number)

    def _start(self, number: int) -> Sample:
        memory = str(LIMITS.memory_bytes)
        argv = [
            *self.command(), "run", "--rm", "--network", "none", "--memory", memory, "--memory-swap", memory,
            "--cpus", str(LIMITS.cpus), "--pids-limit", str(LIMITS.pids), "--cgroupns", "private",
            "--security-opt", f"seccomp={self._filter}", "--security-opt", "no-new-privileges", *self.options(),
            _IMAGE, PROGRAM,
        ]  # fmt: skip
        with self._channel.pipe() as (reader, writer):
            requested_ns = time.monotonic_ns()
            pid = os.posix_spawnp(argv[0], argv, self.environment(), file_actions=self._channel.actions(writer))
            os.close(writer)
            try:
                execed_ns = self._channel.stamp(reader)
            finally:
                os.waitpid(pid, 0)
            deleted_ns = time.monotonic_ns()
        return Sample(0, execed_ns - requested_ns, deleted_ns - requested_ns, deleted_ns - requested_ns)

    def close(self) -> None:
        self._aside.close()
        self._channel.close()


class Docker(Engine):
    """docker with its daemon, started by hand and ended by its pid."""

    name = "docker"
    _daemon: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return ["docker", "--host", "unix:///run/engine/docker.sock"]

    def begin(self) -> None:
        log = (self.directory / "log").open("wb")
        (self.directory / "daemon.json").write_text("{}")
        argv = [
            "dockerd", "--config-file", f"{self.directory}/daemon.json", "--data-root", f"{self.directory}/data",
            "--exec-root", "/run/engine/exec", "--pidfile", "/run/engine/pid", "--host",
            "unix:///run/engine/docker.sock", "--iptables=false", "--ip6tables=false", "--bridge=none",
        ]  # fmt: skip
        with log:
            self._daemon = subprocess.Popen(argv, env={"PATH": _PATH}, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._daemon.poll() is None:
            with suppress(RuntimeError):
                return self.call("version")
            time.sleep(0.1)
        raise RuntimeError(f"dockerd: does not answer: {(self.directory / 'log').read_text()[-400:]}")

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGTERM)
            self._daemon.wait()
        super().close()


class Podman(Engine):
    """podman, which has no daemon; its default limits of open files are more than some hosts let even root have."""

    name = "podman"

    def command(self) -> list[str]:
        where = ("root", "runroot", "tmpdir", "volumepath")
        places = [f"--{name}={self.directory / name}" for name in where]
        return ["podman", *places, "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]

    def options(self) -> list[str]:
        return ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
