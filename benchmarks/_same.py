"""What all rows of the start benchmark share: tree, workload, limits, mounts, seccomp rules, a start's times."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.backends import _oci
from harness.container import cgroups
from harness.container.cgroups import Limits
from harness.model import spec
from hatch_build import FLAGS, compiler

MIB = 1 << 20
LIMITS = Limits(256 * MIB, 1.0, 128)
SPEC_LIMITS = spec.Limits(LIMITS.cpus, LIMITS.memory_bytes, LIMITS.pids)
UPPER_BYTES = 64 * MIB
PROGRAM = "/bin/stamp"
_DIRECTORIES = ("bin", "dev", "proc", "sys", "etc", "tmp", "run")


@dataclass(frozen=True, slots=True)
class Sample:
    """One start, in ns since it was asked for.

    `prepared`: its root is mounted, where the caller does that (0 where the runtime does); `execed`: the first
    instructions of the workload, by its own clock reading; `exited`: its end is known to the caller (for a command line
    that deletes by itself, the end of that); `deleted`: mounts, directories and cgroups are gone.
    """

    prepared_ns: int
    execed_ns: int
    exited_ns: int
    deleted_ns: int
    trace_ns: tuple[int, ...] = ()


class Row(Protocol):
    """One way to start the workload."""

    name: str

    def start(self, number: int) -> Sample: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """The directories and the name that one run of the benchmark owns."""

    scratch: Path
    tree: Path
    token: str

    @property
    def parent(self) -> str:
        """The name of the group that holds all groups of the run."""
        return f"harness-{self.token}"

    def directory(self, name: str) -> Path:
        made = self.scratch / name
        made.mkdir()
        return made


@contextmanager
def place() -> Iterator[Place]:
    """Yield a place with the root tree in it; its directories and groups are removed afterwards."""
    token, layout = secrets.token_hex(4), cgroups.detect()
    scratch = Path(tempfile.mkdtemp(prefix=f"harness-{token}-"))
    parent = f"harness-{token}"
    try:
        tree = scratch / "tree"
        for name in _DIRECTORIES:
            (tree / name).mkdir(parents=True)
        source = Path(__file__).with_name("stamp.c")
        subprocess.run([*compiler().split(), *FLAGS, "-o", str(tree / PROGRAM[1:]), str(source)], check=True)
        cgroups.prepare_parent(layout, parent)
        yield Place(scratch, tree, token)
    finally:
        for tree_of_groups in layout.hierarchies:
            directory = Path(tree_of_groups.path, parent)
            if directory.is_dir():
                directory.rmdir()
        shutil.rmtree(scratch)


# -- the workload's word ---------------------------------------------------------------------------------------------


class Channel:
    """Where the workload says when it began: stdin is null, stdout a pipe, stderr a file for what went wrong."""

    def __init__(self) -> None:
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.errors = os.memfd_create("stderr", os.MFD_CLOEXEC)

    @contextmanager
    def pipe(self) -> Iterator[tuple[int, int]]:
        """Yield the end to read and the end for the workload, which the caller closes once it is started."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            yield reader, writer
        finally:
            os.close(reader)

    def stamp(self, reader: int) -> int:
        """Return when the workload began. Raises RuntimeError with what the runtime said instead."""
        text = os.read(reader, 64)
        if text:
            return int(text)
        os.lseek(self.errors, 0, os.SEEK_SET)
        raise RuntimeError(os.read(self.errors, 4096).decode(errors="replace") or "the workload said nothing")

    def actions(self, writer: int) -> list[tuple[int, ...]]:
        """Return the file actions of posix_spawn."""
        return [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((self.null, writer, self.errors))]

    def close(self) -> None:
        os.close(self.null)
        os.close(self.errors)


# -- the configuration -----------------------------------------------------------------------------------------------


def seccomp_document() -> dict[str, Any]:
    """Return the rules of the built-in default profile as `linux.seccomp` of config.json."""
    return _oci.seccomp_document(os.uname().machine)


def config(cgroup: str) -> dict[str, Any]:
    """Return a config.json (runtime-spec 1.0) with what the built-in container's plan has."""
    document = _oci.config([PROGRAM], SPEC_LIMITS, cgroup, seccomp_document())
    document["hostname"] = "benchmark"
    return document
