"""The one specification of a workload that every backend compiles: nothing here knows of VMs or containers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ReadyKind = Literal["exit", "line", "tcp", "http"]
NetworkKind = Literal["none", "host", "bridge"]
"""none: loopback alone. host: the host's own network. bridge: an interface on a bridge that the run has for itself."""
MountKind = Literal["volume", "bind", "tmpfs"]


@dataclass(frozen=True, slots=True)
class Ready:
    """When a workload counts as ready. The agent checks it from inside, the same way on every side.

    exit: it ended with code 0. line: a line of stdout contains `text`. tcp: 127.0.0.1:`port` accepts.
    http: GET `path` on 127.0.0.1:`port` is answered with a status below 500.
    """

    kind: ReadyKind = "exit"
    text: str = ""
    port: int = 0
    path: str = "/"


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What runs: `argv[0]` is looked up in PATH of `env` inside the image; `uid`/`gid` are numbers inside it."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    ready: Ready = Ready()
    timeout_ns: int = 60_000_000_000
    hold: bool = False
    """Everything is made, and the workload runs when the host says so (`start: warm`)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The same limits on every side: a cgroup for processes and containers, the machine's size for VMs."""

    cpus: float = 1.0
    memory_bytes: int = 256 * 1024 * 1024
    pids: int = 128


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The part of an OCI image configuration that says how to run it (image-spec v1, `config`)."""

    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    workdir: str = "/"
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RootTree:
    """One root file system, unpacked and read-only by agreement: the only source of every arm's root.

    `path` is the directory, `digest` its root digest (`harness.images.tree`), `size_bytes` the sum of file sizes.
    """

    path: Path
    digest: str
    size_bytes: int
    config: ImageConfig = ImageConfig()
    reference: str = ""


@dataclass(frozen=True, slots=True)
class MountSpec:
    """One mount of every instance, in the order in which they are made.

    `source` is the name of a volume, or an absolute path of the host, or empty. `size_bytes` is what a volume's disk or
    a tmpfs holds; 0 for a bind.
    """

    kind: MountKind
    target: str
    source: str = ""
    read_only: bool = False
    size_bytes: int = 0
