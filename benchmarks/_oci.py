"""Start the workload through an OCI runtime's command line (crun, runc, harness-oci), or through bubblewrap."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from benchmarks._same import PROGRAM, UPPER_BYTES, Channel, Place, Sample, config
from harness.container import cgroups, syscalls

_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_OVERLAY = "index=off,metacopy=off,redirect_dir=off,xino=off"
T = TypeVar("T")


class Aside:
    """A thread with mounts of its own: what it mounts no other process of the host sees."""

    def __init__(self, *, v1_only: bool = False) -> None:
        self._v1_only = v1_only
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)

    def _enter(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        layout = cgroups.detect()
        if self._v1_only and layout.mode == "hybrid" and layout.unified:
            syscalls.umount2(layout.unified.path, syscalls.MNT_DETACH)

    def run(self, function: Callable[..., T], *args: object) -> T:
        return self._thread.submit(function, *args).result()

    def close(self) -> None:
        self._thread.shutdown()


class CommandLine:
    """`PROGRAM run` of a bundle, whose overlay is mounted and unmounted for each start as an engine would.

    crun 1.8 refuses a hybrid host: it works where the cgroup2 mount is not.
    """

    def __init__(self, name: str, program: Sequence[str], place: Place, *, v1_only: bool = True) -> None:
        self.name = name
        self._program = list(program)
        self._place = place
        self._channel = Channel()
        self._state = str(place.directory(f"{name}-state"))
        self.directory = place.directory(name)
        self._aside = Aside(v1_only=v1_only)
        self._aside.run(self._prepare)

    def _prepare(self) -> None:
        syscalls.mount("tmpfs", str(self.directory), "tmpfs", 0, f"mode=0700,size={UPPER_BYTES}")

    def start(self, number: int) -> Sample:
        return self._aside.run(self._start, number)

    def _start(self, number: int) -> Sample:
        identity = f"{self._place.parent}-{number}"
        bundle = self.directory / identity
        bundle.mkdir()
        self.write(bundle, number)
        argv = self.argv(bundle, identity)
        with self._channel.pipe() as (reader, writer):
            requested_ns = time.monotonic_ns()
            with overlay(str(self._place.tree), bundle):
                prepared_ns = time.monotonic_ns()
                execed_ns, exited_ns = self._spawn(argv, reader, writer, identity)
            shutil.rmtree(bundle / "upper")
            shutil.rmtree(bundle / "work")
            deleted_ns = time.monotonic_ns()
        shutil.rmtree(bundle)
        return Sample(
            prepared_ns - requested_ns, execed_ns - requested_ns, exited_ns - requested_ns, deleted_ns - requested_ns
        )

    def _spawn(self, argv: list[str], reader: int, writer: int, identity: str) -> tuple[int, int]:
        pid = os.posix_spawn(argv[0], argv, _ENV, file_actions=self._channel.actions(writer))
        os.close(writer)
        try:
            execed_ns = self._channel.stamp(reader)
        finally:
            _, status = os.waitpid(pid, 0)
            if status:
                self.clean_up(identity)
        return execed_ns, time.monotonic_ns()

    def write(self, bundle: Path, number: int) -> None:
        """Write what the runtime reads, which is not timed."""
        document = config(f"/{self._place.parent}/{self.name}-{number}")
        (bundle / "config.json").write_text(json.dumps(document))

    def argv(self, bundle: Path, identity: str) -> list[str]:
        return [*self._program, "--root", self._state, "run", "--bundle", str(bundle), identity]

    def clean_up(self, identity: str) -> None:
        """Remove what a start that failed left."""
        argv = [*self._program, "--root", self._state, "delete", "--force", identity]
        subprocess.run(argv, env=_ENV, check=False, capture_output=True)

    def close(self) -> None:
        self._aside.close()
        self._channel.close()


class Bubblewrap(CommandLine):
    """bwrap: the namespaces, mounts, capabilities and filter, but no cgroup, no masks, no read-only paths."""

    def write(self, bundle: Path, number: int) -> None:
        return

    def argv(self, bundle: Path, identity: str) -> list[str]:
        options = "--unshare-pid --unshare-net --unshare-uts --unshare-ipc --unshare-cgroup --proc /proc --dev /dev"
        return [*self._program, "--bind", str(bundle / "rootfs"), "/", *options.split(), PROGRAM]

    def clean_up(self, identity: str) -> None:
        return


@contextmanager
def overlay(tree: str, bundle: Path) -> Iterator[None]:
    """Mount `rootfs` of a bundle; unmount it afterwards."""
    for name in ("upper", "work", "rootfs"):
        (bundle / name).mkdir(mode=0o755)
    options = f"lowerdir={tree},upperdir={bundle}/upper,workdir={bundle}/work,{_OVERLAY}"
    syscalls.mount("overlay", str(bundle / "rootfs"), "overlay", syscalls.MS_NODEV, options)
    try:
        yield
    finally:
        syscalls.umount2(str(bundle / "rootfs"), 0)


def harness_oci() -> list[str]:
    """Return the command line of the built-in runtime."""
    return [str(Path(sys.executable).with_name("harness-oci"))]


def find(program: str) -> str:
    """Return the path of a program, in $PATH or where root's programs are. Raises RuntimeError."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")
    if found is None:
        raise RuntimeError(f"{program}: not installed")
    return found


def version(program: Sequence[str]) -> str | None:
    """Return what a program says of itself on the first line, None where it is not there."""
    try:
        said = subprocess.run([find(program[0]), "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (RuntimeError, OSError, subprocess.SubprocessError):
        return None
    return (said.stdout.strip().splitlines() or ["?"])[0]
