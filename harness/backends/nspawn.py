"""systemd-nspawn without systemd: `--register=no --keep-unit`, so that it stays in the cgroup that the harness made.

It wants a root with /usr in it: where the image has none, the container's own writable layer gets an empty one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness.backends import _peer
from harness.backends._command import Command, Running
from harness.backends._door import ARGV, INSIDE
from harness.host.process import find_program
from harness.interfaces import Arm, ArmSpec, Capability, Json, RunContext
from harness.model.spec import MountSpec, NetworkKind

_PROGRAM = "systemd-nspawn"


class Options(BaseModel):
    """`args` are further options of systemd-nspawn, before the program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    args: tuple[str, ...] = ()


def argv(spec: ArmSpec, network: NetworkKind, start: _peer.Start, args: Sequence[str]) -> list[str]:
    """Return nspawn's own part of the command line."""
    joined: dict[NetworkKind, list[str]] = {
        "none": ["--private-network"],
        "host": [],
        "bridge": [f"--network-namespace-path={start.network}"],
    }
    return [
        "--quiet", "--register=no", "--keep-unit", "--console=pipe", "--settings=no", "--link-journal=no",
        "--resolv-conf=off", "--timezone=off", f"--directory={start.root}", f"--machine={start.name}",
        f"--hostname={spec.runtime}", *joined[network],
        f"--bind-ro={_escaped(str(start.door))}:{INSIDE}",
        *(_mount(mount, start.volumes) for mount in spec.mounts),
        *args,
        "--", *ARGV,
    ]  # fmt: skip


def _mount(mount: MountSpec, volumes: Mapping[str, Path]) -> str:
    if mount.kind == "tmpfs":
        return f"--tmpfs={_escaped(mount.target)}:mode=1777,size={mount.size_bytes}" + (",ro" * mount.read_only)
    source = str(volumes[mount.source]) if mount.kind == "volume" else mount.source
    return f"--bind{'-ro' * mount.read_only}={_escaped(source)}:{_escaped(mount.target)}"


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")


class _Recipe:
    def __init__(self, ground: _peer.Ground, options: Options) -> None:
        self._ground, self._options = ground, options
        self._program = str(find_program(_PROGRAM))
        self.tree = ground.spec.tree.path
        self.facts: Mapping[str, Json] = {
            "program": _peer.program_facts(_PROGRAM),
            "args": list(options.args),
            "cgroup": "made by the harness: --keep-unit",
            "storage": {"driver": "overlay", "upper": "tmpfs"},
        }

    def ready(self, start: _peer.Start) -> None:
        return

    def start(self, start: _peer.Start) -> Running:
        usr = start.root / "usr"
        if not usr.exists() and not usr.is_symlink():
            usr.mkdir()
        own = argv(self._ground.spec, self._ground.network, start, self._options.args)
        return Command([self._program, *own], start.scratch / "log")

    def remove(self, start: _peer.Start) -> None:
        """Its group is killed; nothing else is left of it."""

    def address(self, start: _peer.Start) -> str | None:
        return None

    def close(self) -> None:
        return


class NspawnBackend:
    name = "nspawn"
    doc = "systemd-nspawn by its command line, unregistered, in a cgroup and on an overlay that the harness makes"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        return _peer.needs(_PROGRAM)

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        return _peer.mount_needs(mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        wants = _peer.Wants(root=True, group="inside", boot_id=True)  # nspawn.c, setup_boot_id
        return _peer.prepare(spec, context, lambda ground: _Recipe(ground, options), wants=wants)

    def tokens(self) -> set[str]:
        return _peer.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        return _peer.reap(token, dry_run=dry_run)


PLUGIN = NspawnBackend()
