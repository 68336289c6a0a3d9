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

from harness.container import cgroups, defaults, seccomp_default
from harness.container.cgroups import Limits
from hatch_build import FLAGS, compiler

MIB = 1 << 20
LIMITS = Limits(256 * MIB, 1.0, 128)
UPPER_BYTES = 64 * MIB
PROGRAM = "/bin/stamp"
_DIRECTORIES = ("bin", "dev", "proc", "sys", "etc", "tmp", "run")
_QUIET = ["nosuid", "noexec", "nodev"]


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
    profile = seccomp_default.default_profile(defaults.DOCKER_CAPABILITIES)
    native = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[os.uname().machine]
    return {
        "defaultAction": profile.default_action,
        "defaultErrnoRet": profile.default_errno,
        "architectures": [native, *profile.architectures],
        "syscalls": [
            {
                "names": list(rule.names),
                "action": rule.action,
                **({} if rule.errno is None else {"errnoRet": rule.errno}),
                "args": [
                    {"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op}
                    for arg in rule.args
                ],
            }
            for rule in profile.rules
        ],
    }


def config(cgroup: str) -> dict[str, Any]:
    """Return a config.json (runtime-spec 1.0) with what the built-in container's plan has."""
    names = [f"CAP_{name.upper()}" for name in defaults.DOCKER_CAPABILITIES]
    capabilities = {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []}
    memory = LIMITS.memory_bytes
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False, "user": {"uid": 0, "gid": 0}, "args": [PROGRAM], "env": ["PATH=/bin"], "cwd": "/",
            "capabilities": capabilities, "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "benchmark",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": _QUIET},
            _mount("/dev", "tmpfs", ["nosuid", "mode=755", "size=64k"]),
            _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            _mount("/dev/shm", "tmpfs", [*_QUIET, "mode=1777", "size=65536k"]),
            _mount("/dev/mqueue", "mqueue", _QUIET),
            _mount("/sys", "sysfs", [*_QUIET, "ro"]),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {
                "memory": {"limit": memory, "swap": memory},
                "cpu": {"quota": round(LIMITS.cpus * 100_000), "period": 100_000},
                "pids": {"limit": LIMITS.pids},
            },
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(defaults.MASKED_PATHS),
            "readonlyPaths": list(defaults.READONLY_PATHS),
            "seccomp": seccomp_document(),
        },
    }  # fmt: skip


def _mount(destination: str, fs_type: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": fs_type, "source": fs_type, "options": options}
