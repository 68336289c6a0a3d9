"""Bubblewrap, the sandbox of Flatpak: namespaces and mounts by one small program, and nothing else.

It has no cgroup, no image and no masks of its own: the harness holds it in a group with the same limits, mounts the
image's overlay for it, and leaves the rest as `bwrap` leaves it, since that is what its users have. Capabilities are
those of Docker's containers, as for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness.backends import _peer
from harness.backends._command import Command, Running
from harness.backends._door import ARGV, INSIDE
from harness.container import defaults
from harness.host.process import find_program
from harness.interfaces import Arm, ArmSpec, Capability, Json, RunContext
from harness.model.spec import MountSpec, NetworkKind

_OWN = ("--unshare-pid", "--unshare-uts", "--unshare-ipc", "--unshare-cgroup", "--as-pid-1", "--die-with-parent")


class Options(BaseModel):
    """`args` are further options of bwrap, before the program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    args: tuple[str, ...] = ()


def argv(spec: ArmSpec, network: NetworkKind, start: _peer.Start, args: Sequence[str]) -> list[str]:
    """Return bwrap's own part of the command line: what is mounted in which order, what is kept."""
    capabilities = [f"CAP_{name.upper()}" for name in defaults.DOCKER_CAPABILITIES]
    return [
        *_OWN,
        *(["--unshare-net"] if network == "none" else []),
        "--hostname", spec.runtime,
        "--cap-drop", "ALL", *(word for name in capabilities for word in ("--cap-add", name)),
        "--bind", str(start.root), "/", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys",
        *(word for mount in spec.mounts for word in _mount(mount, start.volumes)),
        "--ro-bind", str(start.door), INSIDE,
        *args,
        "--", *ARGV,
    ]  # fmt: skip


def _mount(mount: MountSpec, volumes: Mapping[str, Path]) -> list[str]:
    if mount.kind == "tmpfs":
        return ["--perms", "1777", "--size", str(mount.size_bytes), "--tmpfs", mount.target]
    source = str(volumes[mount.source]) if mount.kind == "volume" else mount.source
    return ["--ro-bind" if mount.read_only else "--bind", source, mount.target]


class _Recipe:
    """bwrap for one arm. It joins no network by itself: nsenter starts it in the run's."""

    def __init__(self, ground: _peer.Ground, options: Options) -> None:
        self._ground, self._options = ground, options
        self._program = str(find_program("bwrap"))
        self._enter = str(find_program("nsenter")) if ground.network == "bridge" else ""
        self.tree = ground.spec.tree.path
        self.facts: Mapping[str, Json] = {
            "program": _peer.program_facts("bwrap"),
            "args": list(options.args),
            "cgroup": "made by the harness: bwrap has none",
            "storage": {"driver": "overlay", "upper": "tmpfs"},
        }

    def ready(self, start: _peer.Start) -> None:
        return

    def start(self, start: _peer.Start) -> Running:
        enter = [self._enter, f"--net={start.network}", "--"] if start.network else []
        own = argv(self._ground.spec, self._ground.network, start, self._options.args)
        return Command([*enter, self._program, *own], start.scratch / "log")

    def remove(self, start: _peer.Start) -> None:
        """Its group is killed; nothing else is left of it."""

    def address(self, start: _peer.Start) -> str | None:
        return None

    def close(self) -> None:
        return


class BwrapBackend:
    name = "bwrap"
    doc = "bubblewrap by its command line, in a cgroup that the harness makes, on an overlay mounted for it"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        return _peer.needs("bwrap")

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        return _peer.mount_needs(mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        wants = _peer.Wants(root=True, group="inside")
        return _peer.prepare(spec, context, lambda ground: _Recipe(ground, options), wants=wants)

    def tokens(self) -> set[str]:
        return _peer.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        return _peer.reap(token, dry_run=dry_run)


PLUGIN = BwrapBackend()
