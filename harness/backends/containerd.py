"""containerd by its own command line, `ctr run`, with a daemon of the run's own: Docker without Docker.

`ctr` has no option for a limit of processes: the harness makes a group with it above the container's.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness.backends import _containerd, _daemon, _peer
from harness.backends._command import Command, Running
from harness.backends._door import ARGV, INSIDE
from harness.errors import CapabilityError, CommandError
from harness.host.process import find_program, run
from harness.images import oci
from harness.interfaces import Arm, ArmSpec, Capability, Json, RunContext
from harness.model.spec import MountSpec, NetworkKind

_TIMEOUT_NS = 600_000_000_000
_ASK_NS = 10_000_000_000
_FORCE_NS = 20_000_000_000
_NAMESPACE = "harness"
_CONFIG = """version = 2
root = "{data}/root"
state = "/run/engine"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
"""


class Options(BaseModel):
    """`args` are further options of `ctr run`; `trace`: see `_exec_trace`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    args: tuple[str, ...] = ()
    trace: bool = False


def _daemon_argv(data: Path, socket: Path) -> list[str]:
    (data / "config.toml").write_text(_CONFIG.format(data=data, socket=socket))
    return [str(find_program("containerd")), "--config", f"{data}/config.toml", "--log-level", "warn"]


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    try:
        run([*_containerd.ctr(socket, _NAMESPACE), "version"], timeout_ns=_ASK_NS)
    except CommandError:
        return False
    return True


DAEMON = _daemon.Kind("containerd", _daemon_argv, _answers)


def run_words(ground: _peer.Ground, start: _peer.Start, image: str, args: Sequence[str]) -> list[str]:
    """Return the arguments of `ctr run`."""
    spec, limits = ground.spec, ground.limits
    joined: dict[NetworkKind, list[str]] = {
        "none": [], "host": ["--net-host"], "bridge": ["--with-ns", f"network:{start.network}"],
    }  # fmt: skip
    mounts = [f"type=bind,src={start.door},dst={INSIDE},options=rbind:ro"]
    mounts += [_mount(mount, start.volumes) for mount in spec.mounts]
    return [
        "run", "--rm", "--null-io", "--snapshotter", "overlayfs", "--seccomp", "--cwd", "/",
        "--cgroup", f"{ground.parent}/{start.scratch.name}/c", "--memory-limit", str(limits.memory_bytes),
        "--cpus", str(limits.cpus), *joined[ground.network],
        *(word for mount in mounts for word in ("--mount", mount)),
        *args, image, start.name, *ARGV,
    ]  # fmt: skip


def _mount(mount: MountSpec, volumes: Mapping[str, Path]) -> str:
    mode = ":ro" if mount.read_only else ""
    if mount.kind == "tmpfs":
        return f"type=tmpfs,src=tmpfs,dst={mount.target},options=nosuid:nodev:mode=1777:size={mount.size_bytes}{mode}"
    source = str(volumes[mount.source]) if mount.kind == "volume" else mount.source
    return f"type=bind,src={source},dst={mount.target},options=rbind{mode or ':rw'}"


def write_archive(archive: Path, layer: Path, image: str) -> str:
    """Write an image of one layer as `docker save` does, which every engine reads; return the layer's diff id."""
    with layer.open("rb") as file:
        diff_id = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    config = {
        "architecture": oci.host_architecture(),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for name, document in (("config.json", config), ("manifest.json", manifest)):
            content = json.dumps(document).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        tar.add(layer, "layer.tar")
    return diff_id


class _Recipe:
    def __init__(self, ground: _peer.Ground, options: Options) -> None:
        self._ground, self._options = ground, options
        with ExitStack() as undo:
            daemon = _daemon.acquire(ground.context, DAEMON)
            undo.callback(_daemon.release, ground.context, DAEMON)
            self._command = _containerd.ctr(daemon.socket, _NAMESPACE)
            self._image = f"harness.local/image:{ground.spec.tree.digest.rpartition(':')[2][:16]}"
            try:
                diff_id = self._import()
                self.tree = _containerd.layer(self._command, "overlayfs", f"view-{ground.spec.runtime}", diff_id)
            except CommandError as error:
                raise CapabilityError(f"{ground.spec.runtime}: {error.message}") from error
            self.facts: Mapping[str, Json] = {
                "args": list(options.args),
                "programs": {name: _peer.program_facts(name) for name in ("containerd", "ctr", "runc")},
                "cgroup": "made by runc, below one that the harness makes for the limit of processes",
                "storage": {"driver": "overlayfs", "upper": "disk"},
            }
            self._undo = undo.pop_all()

    def _import(self) -> str:
        work, name = self._ground.context.work, self._ground.spec.runtime
        layer, archive = work / f"{name}.layer.tar", work / f"{name}.tar"
        self._ground.context.say(f"{name}: importing the image")
        tree = str(self._ground.spec.tree.path)
        try:
            run(["tar", "-C", tree, "--xattrs", "--numeric-owner", "-cf", str(layer), "."], timeout_ns=_TIMEOUT_NS)
            diff_id = write_archive(archive, layer, self._image)
            words = ["images", "import", "--snapshotter", "overlayfs", str(archive)]
            run([*self._command, *words], timeout_ns=_TIMEOUT_NS)
        finally:
            layer.unlink(missing_ok=True)
            archive.unlink(missing_ok=True)
        return diff_id

    def ready(self, start: _peer.Start) -> None:
        return

    def start(self, start: _peer.Start) -> Running:
        words = run_words(self._ground, start, self._image, self._options.args)
        return Command([*self._command, *words], start.scratch / "log")

    def remove(self, start: _peer.Start) -> None:
        for words in (["tasks", "kill", "--signal", "9"], ["tasks", "rm", "--force"], ["containers", "rm"]):
            with suppress(CommandError):  # it is not there any more
                run([*self._command, *words, start.name], timeout_ns=_FORCE_NS)

    def address(self, start: _peer.Start) -> str | None:
        return None

    def close(self) -> None:
        self._undo.close()


class ContainerdBackend:
    name = "containerd"
    doc = "containerd by `ctr run`, with a daemon of the run's own"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        return _peer.needs("containerd", "ctr", "runc", trace=options.trace)

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        return _peer.mount_needs(mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        wants = _peer.Wants(group="above", trace=options.trace)
        return _peer.prepare(spec, context, lambda ground: _Recipe(ground, options), wants=wants)

    def tokens(self) -> set[str]:
        return _peer.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        return _peer.reap(token, dry_run=dry_run)


PLUGIN = ContainerdBackend()
