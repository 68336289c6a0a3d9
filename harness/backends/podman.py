"""Podman by its command line, with storage of the run's own; rootful, or as a user without privileges.

It has no daemon: `podman run --rm` starts conmon and an OCI runtime, and stays until the container is removed.
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness.backends import _peer
from harness.backends._command import Command, Running
from harness.backends._door import ARGV, INSIDE
from harness.container import syscalls
from harness.container.cgroups import Group
from harness.container.errors import ContainerError
from harness.container.runtime import end_group
from harness.errors import CapabilityError, CommandError
from harness.host.process import find_program, run
from harness.interfaces import Arm, ArmSpec, Capability, Json, RunContext
from harness.model.spec import MountSpec, NetworkKind

_HOME = Path("/run/podman")
"""Where the run's storage is seen by podman: short, and reachable for a user who may not look below root's home."""
_TIMEOUT_NS = 600_000_000_000
_FORCE_NS = 30_000_000_000


class Options(BaseModel):
    """`runtime`: the OCI runtime, by name or path; None: podman's default. `user`: who starts it, rootless.

    `args` are further options of `podman run`; `trace`: see `_exec_trace`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str | None = None
    user: str | None = None
    args: tuple[str, ...] = ()
    trace: bool = False


def run_words(ground: _peer.Ground, start: _peer.Start, image: str, options: Options) -> list[str]:
    """Return `podman run`'s arguments.

    Its own rlimits (1,048,576 files) are more than some hosts let even root have: no more is asked for than we have,
    and no more processes than the 32,768 to which podman lowers its own limit (seen with 4.3.1).
    Without privileges the harness's group around podman holds the limits, since podman sets none on cgroup v1.
    """
    spec, limits = ground.spec, ground.limits
    network = f"ns:{start.network}" if start.network else ground.network
    memory = str(limits.memory_bytes)
    limited = [
        "--memory", memory, "--memory-swap", memory, "--cpus", str(limits.cpus), "--pids-limit", str(limits.pids),
        "--cgroup-parent", ground.parent, "--cgroupns", "private",
    ]  # fmt: skip
    words = [
        "run", "--rm", "--name", start.name, "--network", network, "--pull", "never", *_rlimits(),
        *(["--cgroups", "disabled"] if options.user else limited),
        *([] if ground.network == "host" else ["--hostname", spec.runtime]),
        "--user", "0:0", "--workdir", "/", "--entrypoint", f'["{ARGV[0]}"]',
        "--mount", f"type=bind,source={start.door},target={INSIDE},ro=true",
    ]  # fmt: skip
    for mount in spec.mounts:
        words += _mount(mount, start.volumes)
    return [*words, *options.args, image, *ARGV[1:]]


def _rlimits() -> list[str]:
    most = {"nofile": (resource.RLIMIT_NOFILE, 1 << 20), "nproc": (resource.RLIMIT_NPROC, 1 << 15)}
    words = []
    for name, (kind, wanted) in most.items():
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        words += ["--ulimit", f"{name}={value}:{value}"]
    return words


def _mount(mount: MountSpec, volumes: Mapping[str, Path]) -> list[str]:
    mode = ",ro=true" if mount.read_only else ""
    if mount.kind == "tmpfs":
        return ["--tmpfs", f"{mount.target}:rw,nosuid,nodev,mode=1777,size={mount.size_bytes}"]
    source = str(volumes[mount.source]) if mount.kind == "volume" else mount.source
    return ["--mount", f"type=bind,source={source},target={mount.target}{mode}"]


def as_user(user: str) -> list[str]:
    """Return what comes before a command that a user shall run, with that user's environment. Raises KeyError."""
    entry = pwd.getpwnam(user)
    identity = ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--init-groups"]
    environment = [
        f"HOME={_HOME}/home", f"XDG_RUNTIME_DIR={_HOME}/xdg", f"PATH={os.environ.get('PATH', os.defpath)}", "LC_ALL=C",
    ]  # fmt: skip
    env = [str(find_program("env")), "-i", *environment]
    return [str(find_program("setpriv")), *identity, "--", *env]


class _Recipe:
    def __init__(self, ground: _peer.Ground, options: Options) -> None:
        self._ground, self._options = ground, options
        self._store = ground.context.work / f"podman.{ground.spec.runtime}"
        self._prefix = as_user(options.user) if options.user else []
        with ExitStack() as undo:
            self._make_home()
            undo.callback(self._remove_home)
            self._podman = [*self._prefix, str(find_program("podman")), *self._global_options()]
            self._image = f"localhost/harness:{ground.spec.tree.digest.rpartition(':')[2][:16]}"
            with self._held(undo):
                self._import()
                self.tree = self._layer()
                self.facts: Mapping[str, Json] = self._facts()
            self._undo = undo.pop_all()

    @contextmanager
    def _held(self, undo: ExitStack) -> Iterator[None]:
        """Have what prepares in a group, if it is rootless: its first command leaves a process that holds namespaces.

        Raises: CapabilityError for what podman refuses.
        """
        runtime = self._ground.spec.runtime
        try:
            if not self._options.user:
                yield
                return
            group = Group(self._ground.layout, f"{self._ground.kit.parent}/{runtime}.user")
            group.create(None)
            undo.callback(end_group, group)
            with group.caller_inside():
                yield
        except (CommandError, ContainerError) as error:
            raise CapabilityError(f"{runtime}: {error}") from error

    def _make_home(self) -> None:
        self._store.mkdir(parents=True)
        _HOME.mkdir()
        syscalls.mount(str(self._store), str(_HOME), None, syscalls.MS_BIND)
        uid, gid = (-1, -1)
        if self._options.user:
            entry = pwd.getpwnam(self._options.user)
            uid, gid = entry.pw_uid, entry.pw_gid
        for name in ("", "home", "xdg"):
            place = _HOME / name
            place.mkdir(exist_ok=True, mode=0o700)
            os.chown(place, uid, gid)

    def _remove_home(self) -> None:
        syscalls.umount2(str(_HOME), syscalls.MNT_DETACH)
        _HOME.rmdir()
        shutil.rmtree(self._store, ignore_errors=True)

    def _global_options(self) -> list[str]:
        places = [f"--{name}={_HOME}/{name}" for name in ("root", "runroot", "tmpdir", "volumepath")]
        runtime = [f"--runtime={self._options.runtime}"] if self._options.runtime else []
        return [*places, "--cgroup-manager=cgroupfs", "--events-backend=none", "--storage-driver=overlay", *runtime]

    def _import(self) -> None:
        self._ground.context.say(f"{self._ground.spec.runtime}: importing the image")
        archive = _HOME / "image.tar"
        tree = str(self._ground.spec.tree.path)
        run(["tar", "-C", tree, "--xattrs", "--numeric-owner", "-cf", str(archive), "."], timeout_ns=_TIMEOUT_NS)
        archive.chmod(0o644)
        run([*self._podman, "import", "--quiet", str(archive), self._image], timeout_ns=_TIMEOUT_NS)
        archive.unlink()

    def _layer(self) -> Path:
        """Return the directory that holds the image's only layer. Raises: CapabilityError where podman tells none."""
        words = ["image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", self._image]
        path = Path(run([*self._podman, *words], timeout_ns=_TIMEOUT_NS).stdout.decode().strip())
        if not path.is_absolute():
            raise CapabilityError(f"podman: storage: does not tell where the image's layer is: {path}")
        return path

    def _facts(self) -> dict[str, Json]:
        keys = ("Host.OCIRuntime.Name", "Host.OCIRuntime.Path", "Store.GraphDriverName", "Host.Conmon.Path")
        template = "\t".join(f"{{{{.{key}}}}}" for key in keys)
        told = run([*self._podman, "info", "--format", template], timeout_ns=_TIMEOUT_NS).stdout.decode()
        name, path, driver, conmon = told.strip().split("\t")
        return {
            "user": self._options.user,
            "args": list(self._options.args),
            "programs": {program: _peer.program_facts(program) for program in ("podman", path, conmon)},
            "oci_runtime": name,
            "storage": {"driver": driver, "upper": "disk"},
            "cgroup": "made by the harness: rootless" if self._options.user else "made by podman",
        }

    def ready(self, start: _peer.Start) -> None:
        return

    def start(self, start: _peer.Start) -> Running:
        words = run_words(self._ground, start, self._image, self._options)
        return Command([*self._podman, *words], start.scratch / "log")

    def remove(self, start: _peer.Start) -> None:
        with suppress(CommandError):  # it has removed it itself
            run([*self._podman, "rm", "--force", "--time", "0", start.name], timeout_ns=_FORCE_NS)

    def address(self, start: _peer.Start) -> str | None:
        return None

    def close(self) -> None:
        self._undo.close()


def _need_user(name: str) -> Capability:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return Capability("user", available=False, reason=f"{name}: no such user", hint=f"useradd {name}")
    if entry.pw_uid == 0:
        hint = "leave `user` out for rootful podman"
        return Capability("user", available=False, reason=f"{name}: is root", hint=hint)
    for path in ("/etc/subuid", "/etc/subgid"):
        lines = Path(path).read_text().splitlines() if Path(path).exists() else []
        if not any(line.split(":")[0] in {name, str(entry.pw_uid)} for line in lines):
            hint = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
            return Capability("user", available=False, reason=f"{name}: no range in {path}", hint=hint)
    return Capability("user", available=True, reason=name)


class PodmanBackend:
    name = "podman"
    doc = "Podman by its command line, rootful or (user: NAME) rootless, with storage of the run's own"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        if options.user is None:
            return _peer.needs("podman", "conmon", trace=options.trace)
        needed = _peer.needs("podman", "conmon", "newuidmap", "setpriv", trace=options.trace)
        return (*needed, _need_user(options.user))

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        return _peer.mount_needs(mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        wants = _peer.Wants(trace=options.trace)
        if options.user:
            wants = _peer.Wants(group="inside", owner=pwd.getpwnam(options.user).pw_uid, trace=options.trace)
        refused: dict[NetworkKind, str] = {"bridge": "a user may join no network of root's"} if options.user else {}
        return _peer.prepare(
            spec,
            context,
            lambda ground: _Recipe(ground, options),
            wants=wants,
            refused=refused,
            without_unified=True,
        )

    def tokens(self) -> set[str]:
        return _peer.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        return _peer.reap(token, dry_run=dry_run)


PLUGIN = PodmanBackend()
