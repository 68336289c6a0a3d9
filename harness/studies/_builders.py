"""The engines of the study `build-cache`: each builds by the command that a person would type, from start to end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from harness.errors import CapabilityError, CommandError
from harness.host.process import find_program, run
from harness.images.storage.usage import allocated_bytes

Engine = Literal["harness", "docker", "podman"]

_TIMEOUT_NS = 300 * 10**9
_CACHED = re.compile(r"^(?: *-+> Using cache\b|#\d+ CACHED)", re.MULTILINE)  # classic Docker, Podman; BuildKit


@dataclass(frozen=True, slots=True)
class Built:
    """One build: how long its command took, how many steps came from the cache, what it left on the disk.

    `written_bytes` is None where the engine's directory cannot be told from that of its other work.
    """

    duration_ns: int
    cached: int
    written_bytes: int | None


class Builder(Protocol):
    """One engine with a store that has the base. Every call may raise CapabilityError."""

    def build(self, context: Path, name: str, *, use_cache: bool = True) -> Built: ...
    def close(self) -> None: ...


def base_name(token: str) -> str:
    """Return what the base is called in an engine: no name that anybody else's image has."""
    return f"harness-study-{token}"


def open_builder(engine: Engine, archive: Path, place: Path, scratch: Path) -> Builder:
    """Return an engine whose store, below `place`, holds the base image of a `docker save` archive and nothing else.

    Docker's store is its daemon's: what is built there carries the run's token, the name of `scratch`.

    Raises: CapabilityError where the engine does not work here.
    """
    place.mkdir(parents=True)
    if engine == "harness":
        return _Harness(archive, place)
    return _Podman(archive, place, scratch) if engine == "podman" else _Docker(archive, scratch.name)


def _timed(argv: Sequence[str], env: dict[str, str] | None = None) -> tuple[int, str, str]:
    started_ns = time.monotonic_ns()
    done = run(argv, timeout_ns=_TIMEOUT_NS, env=env)
    took_ns = time.monotonic_ns() - started_ns
    return took_ns, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


class _Harness:
    def __init__(self, archive: Path, place: Path) -> None:
        self._place = place
        self._env = {**os.environ, "LC_ALL": "C", "HARNESS_HOME": str(place)}
        self._argv = [sys.executable, "-m", "harness", "image"]
        _timed([*self._argv, "import", str(archive)], self._env)

    def build(self, context: Path, name: str, *, use_cache: bool = True) -> Built:
        before_bytes = allocated_bytes(self._place)
        options = [] if use_cache else ["--no-cache"]
        took_ns, out, _ = _timed([*self._argv, "build", str(context), "-t", name, "--json", *options], self._env)
        steps = json.loads(out)["build"]["steps"]
        cached = sum(1 for step in steps if step["cached"])
        return Built(took_ns, cached, allocated_bytes(self._place) - before_bytes)

    def close(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)


class _Podman:
    """A store of its own, and mounts that only its own commands see: nothing of it is on the host afterwards."""

    def __init__(self, archive: Path, place: Path, scratch: Path) -> None:
        find_program("podman")
        self._place = place
        self._short = Path(tempfile.mkdtemp(prefix="p", dir=scratch))  # 50 characters at most, or Podman refuses it
        private = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        self._argv = [
            "unshare", "--mount", "--propagation", "private", "sh", "-c", private, "sh", "podman",
            "--root", str(place / "root"), "--runroot", str(self._short / "run"), "--tmpdir", str(self._short / "tmp"),
            "--events-backend", "file", "--cgroup-manager", "cgroupfs",
        ]  # fmt: skip
        _timed([*self._argv, "load", "--quiet", "--input", str(archive)])

    def build(self, context: Path, name: str, *, use_cache: bool = True) -> Built:
        before_bytes = allocated_bytes(self._place)
        options = [] if use_cache else ["--no-cache"]
        took_ns, out, err = _timed([*self._argv, "build", "--isolation", "chroot", *options, "-t", name, str(context)])
        return Built(took_ns, len(_CACHED.findall(out + err)), allocated_bytes(self._place) - before_bytes)

    def close(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
        shutil.rmtree(self._short, ignore_errors=True)


class _Docker:
    """The daemon that DOCKER_HOST or the default socket names."""

    def __init__(self, archive: Path, token: str) -> None:
        find_program("docker")
        try:
            run(["docker", "version", "--format", "{{.Server.Version}}"], timeout_ns=10 * 10**9)
        except CommandError as error:
            raise CapabilityError("docker: its daemon does not answer", hint="start it, or set DOCKER_HOST") from error
        self._base = base_name(token)
        self._names: list[str] = []
        _timed(["docker", "load", "--quiet", "--input", str(archive)])

    def build(self, context: Path, name: str, *, use_cache: bool = True) -> Built:
        # Each its own name: an image that loses its name to the next could not be found again.
        self._names.append(f"{self._base}-{name}:{secrets.token_hex(4)}")
        options = ["--network", "host", *([] if use_cache else ["--no-cache"])]
        took_ns, out, err = _timed(["docker", "build", *options, "-t", self._names[-1], str(context)])
        return Built(took_ns, len(_CACHED.findall(out + err)), None)

    def close(self) -> None:
        """Take away what this run built and brought; another arm of the run may have done so before."""
        for name in (*self._names, self._base):
            with contextlib.suppress(CommandError):
                run(["docker", "image", "rm", "--force", name], timeout_ns=_TIMEOUT_NS)
