"""Docker: a daemon of the run's own by default, through its socket or its command line.

The image is imported from the store as one layer, without a network. Security is as Docker's users have it: its own
capabilities, seccomp profile and masks.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from harness.backends import _containerd, _daemon, _docker_left, _network, _peer
from harness.backends._aside import beside
from harness.backends._command import Command, Running
from harness.backends._docker_api import Api
from harness.backends._docker_left import HOST_SOCKET, LABEL
from harness.backends._door import ARGV, INSIDE
from harness.errors import BackendError, CapabilityError, CommandError
from harness.host.netns import RunNetwork
from harness.host.process import find_program, run
from harness.interfaces import Arm, ArmSpec, Capability, Json, RunContext
from harness.model.spec import MountSpec

_TAR_NS = 600_000_000_000
_NOT_OURS = "a daemon that is there already is not in the run's network"
_ADDRESSES = ipaddress.IPv4Network("10.213.0.128/25")
"""The part of the run's subnet that Docker gives to its containers."""


class Options(BaseModel):
    """`via`: through the API, or `docker run`; `engine`: a daemon of the run's own, the host's, or one by its socket.

    `runtime` is the OCI runtime, by a name that the daemon knows; None: its default, runc. `trace`: see `_exec_trace`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    via: Literal["api", "cli"] = "api"
    engine: str = "private"
    runtime: str | None = None
    trace: bool = False

    @property
    def socket(self) -> Path | None:
        """The daemon's socket, None where the run starts a daemon."""
        if self.engine == "private":
            return None
        return HOST_SOCKET if self.engine == "host" else Path(self.engine)


# -- a daemon of the run's own ---------------------------------------------------------------------------------------


def _daemon_argv(data: Path, socket: Path, network: Sequence[str] = ("--bridge=none",)) -> list[str]:
    (data / "daemon.json").write_text("{}")
    return [
        str(find_program("dockerd")), "--config-file", f"{data}/daemon.json", "--data-root", f"{data}/root",
        "--exec-root", "/run/engine", "--pidfile", "/run/engine.pid", "--host", f"unix://{socket}",
        "--iptables=false", "--ip6tables=false", "--ip-forward=false", *network,
        "--exec-opt", "native.cgroupdriver=cgroupfs",
    ]  # fmt: skip


def _answers(socket: Path) -> bool:
    with closing(Api(socket)) as api:
        try:
            api.call("GET", "/_ping")
        except BackendError:
            return False
    return True


DAEMON = _daemon.Kind("dockerd", _daemon_argv, _answers)


def _bridged(network: RunNetwork) -> _daemon.Kind:
    """Return a daemon that connects its containers to the run's bridge, in whose namespace it is started."""
    words = (f"--bridge={network.bridge}", f"--fixed-cidr={_ADDRESSES}", "--ip-masq=false")
    return _daemon.Kind("dockerd-net", lambda data, socket: _daemon_argv(data, socket, words), _answers)


# -- what is asked for, in two languages -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What both say: the image, whether the run's group may be above the container's, the OCI runtime."""

    image: str
    grouped: bool
    runtime: str | None


def create_document(ground: _peer.Ground, start: _peer.Start, wanted: Wanted) -> dict[str, Any]:
    """Return the body of POST /containers/create."""
    spec, limits = ground.spec, ground.limits
    host = {
        "AutoRemove": True,
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": round(limits.cpus * 1e9),
        "PidsLimit": limits.pids,
        "NetworkMode": ground.network,
        "CgroupnsMode": "private",
        **({"CgroupParent": ground.parent} if wanted.grouped else {}),
        **({"Runtime": wanted.runtime} if wanted.runtime else {}),
        "Mounts": [
            {"Type": "bind", "Source": str(start.door), "Target": INSIDE, "ReadOnly": True},
            *(_mount(mount, start.volumes) for mount in spec.mounts if mount.kind != "tmpfs"),
        ],
        "Tmpfs": {mount.target: _tmpfs(mount) for mount in spec.mounts if mount.kind == "tmpfs"},
    }
    return {
        "Image": wanted.image,
        "Entrypoint": [ARGV[0]],
        "Cmd": list(ARGV[1:]),
        "User": "0:0",
        "WorkingDir": "/",
        "Labels": {LABEL: ground.context.token},
        "HostConfig": host,
        **({} if ground.network == "host" else {"Hostname": spec.runtime}),
    }


def _source(mount: MountSpec, volumes: Mapping[str, Path]) -> str:
    return str(volumes[mount.source]) if mount.kind == "volume" else mount.source


def _mount(mount: MountSpec, volumes: Mapping[str, Path]) -> dict[str, Any]:
    source = _source(mount, volumes)
    return {"Type": "bind", "Source": source, "Target": mount.target, "ReadOnly": mount.read_only}


def _tmpfs(mount: MountSpec) -> str:
    return f"rw,nosuid,nodev,mode=1777,size={mount.size_bytes}"


def run_words(ground: _peer.Ground, start: _peer.Start, wanted: Wanted) -> list[str]:
    """Return the arguments of `docker run`: the same as `create_document`."""
    spec, limits = ground.spec, ground.limits
    words = [
        "run", "--rm", "--name", start.name, "--memory", str(limits.memory_bytes), "--memory-swap",
        str(limits.memory_bytes), "--cpus", str(limits.cpus), "--pids-limit", str(limits.pids), "--network",
        ground.network, "--cgroupns", "private", "--user", "0:0", "--workdir", "/", "--label",
        f"{LABEL}={ground.context.token}", "--entrypoint", ARGV[0],
        "--mount", f"type=bind,source={start.door},target={INSIDE},readonly",
    ]  # fmt: skip
    if ground.network != "host":
        words += ["--hostname", spec.runtime]
    if wanted.grouped:
        words += ["--cgroup-parent", ground.parent]
    if wanted.runtime:
        words += ["--runtime", wanted.runtime]
    for mount in spec.mounts:
        if mount.kind == "tmpfs":
            words += ["--tmpfs", f"{mount.target}:{_tmpfs(mount)}"]
        else:
            source = _source(mount, start.volumes)
            words += ["--mount", f"type=bind,source={source},target={mount.target}" + ",readonly" * mount.read_only]
    return [*words, wanted.image, *ARGV[1:]]


@dataclass(frozen=True, slots=True)
class Store:
    """Where an engine keeps its images, whose containerd it is asked of."""

    socket: Path
    namespace: str
    snapshotter: str


def containerd_store(info: Mapping[str, Any], usual: Path) -> Store | None:
    """Return containerd's image store, None where Docker has its own, by the answer to GET /info.

    Source: Docker Engine API: DriverStatus since Docker 23, `Containerd` since v1.46; before it the `usual` socket.
    """
    if ["driver-type", "io.containerd.snapshotter.v1"] not in (info.get("DriverStatus") or []):
        return None
    told = info.get("Containerd") or {}
    namespace = (told.get("Namespaces") or {}).get("Containers") or "moby"
    return Store(Path(told.get("Address") or usual), namespace, info["Driver"])


# -- the engine ------------------------------------------------------------------------------------------------------


class _Recipe:
    def __init__(self, ground: _peer.Ground, options: Options) -> None:
        self._ground, self._options = ground, options
        with ExitStack() as undo:
            self._own = self._daemon(undo) if options.socket is None else None
            socket = self._own.socket if self._own else beside(options.socket or HOST_SOCKET)
            self._socket = socket
            self._api = Api(socket)
            undo.callback(self._api.close)
            self._image = f"{_docker_left.repository(ground.context.token)}:{_tag(ground.spec)}"
            self._docker = [str(find_program("docker")), "--host", f"unix://{socket}"] if options.via == "cli" else []
            with _prepared():
                self._import()
                undo.callback(self._drop_image)
                self.tree = self._layer()
                self.facts: Mapping[str, Json] = self._facts()
            # A daemon that leaves cgroups to systemd takes slices alone.
            self._wanted = Wanted(self._image, self.facts["cgroup_driver"] == "cgroupfs", options.runtime)
            self._undo = undo.pop_all()

    def _daemon(self, undo: ExitStack) -> _daemon.Daemon:
        context = self._ground.context
        network, kind = None, DAEMON
        if self._ground.network == "bridge":
            network = _network.acquire(context.token)
            undo.callback(_network.release, context.token)
            network.withhold(_ADDRESSES)
            kind = _bridged(network)
        daemon = _daemon.acquire(context, kind, network)
        undo.callback(_daemon.release, context, kind)
        return daemon

    def _import(self) -> None:
        """Give the engine the image's tree as one layer; each arm has a name of its own for it, by which it goes."""
        archive = self._ground.context.work / f"{self._ground.spec.runtime}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        tree = str(self._ground.spec.tree.path)
        self._ground.context.say(f"{self._ground.spec.runtime}: importing the image")
        try:
            run(["tar", "-C", tree, "--xattrs", "--numeric-owner", "-cf", str(archive), "."], timeout_ns=_TAR_NS)
            repository, tag = self._image.split(":")
            with archive.open("rb") as body:
                self._api.call("POST", "/images/create", {"fromSrc": "-", "repo": repository, "tag": tag}, body)
        finally:
            archive.unlink(missing_ok=True)

    def _layer(self) -> Path:
        """Return the directory that holds the image's only layer. Raises: CapabilityError where nobody tells it."""
        image, info = self._api.call("GET", f"/images/{self._image}/json"), self._api.call("GET", "/info")
        upper = ((image.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
        if upper:
            return Path(upper)
        usual = Path("/run/engine/containerd" if self._own else "/run/containerd", "containerd.sock")
        store = containerd_store(info, usual)
        if store is None:
            raise CapabilityError(
                f"docker: storage driver {info.get('Driver')}: does not tell where the image's layer is",
                hint="the agent attests that directory; overlay2 tells it, and containerd's image store",
            )
        socket = self._own.outside(store.socket) if self._own else beside(store.socket)
        command = _containerd.ctr(socket, store.namespace)
        view = f"harness-{self._ground.context.token}"
        return _containerd.layer(command, store.snapshotter, view, image["RootFS"]["Layers"][0])

    def _facts(self) -> dict[str, Json]:
        version, info = self._api.call("GET", "/version"), self._api.call("GET", "/info")
        own = self._options.engine == "private"
        programs: dict[str, Json] = {"dockerd": _peer.program_facts("dockerd")} if own else {}
        if self._docker:
            programs["docker"] = _peer.program_facts("docker")
        components: Json = {entry["Name"]: entry["Version"] for entry in version.get("Components", [])}
        return {
            "via": self._options.via,
            "engine": self._options.engine,
            "engine_version": version["Version"],
            "components": components,
            "programs": programs,
            "oci_runtime": self._options.runtime or info.get("DefaultRuntime"),
            "cgroup_driver": info.get("CgroupDriver"),
            "security": info.get("SecurityOptions"),
            "storage": {"driver": info.get("Driver"), "upper": "disk"},
        }

    def ready(self, start: _peer.Start) -> None:
        return

    def start(self, start: _peer.Start) -> Running:
        if self._docker:
            words = run_words(self._ground, start, self._wanted)
            return Command([*self._docker, *words], start.scratch / "log")
        document = create_document(self._ground, start, self._wanted)
        identity = self._api.call("POST", "/containers/create", {"name": start.name}, document)["Id"]
        try:
            waiting = self._api.wait(identity)
            try:
                self._api.call("POST", f"/containers/{identity}/start")
            except BaseException:
                waiting.close()
                raise
        except BaseException:
            self.remove(start)
            raise
        return waiting

    def remove(self, start: _peer.Start) -> None:
        with suppress(BackendError):  # it is not there, or the daemon is gone
            self._api.call("DELETE", f"/containers/{start.name}", {"force": "1", "v": "1"})

    def address(self, start: _peer.Start) -> str | None:
        if self._ground.network != "bridge":
            return None
        networks = self._api.call("GET", f"/containers/{start.name}/json")["NetworkSettings"]["Networks"]
        return networks["bridge"]["IPAddress"] or None

    def _drop_image(self) -> None:
        if self._options.engine != "private":  # a private daemon's data go with it
            with suppress(BackendError):
                self._api.call("DELETE", f"/images/{self._image}", {"force": "1"})

    def close(self) -> None:
        self._undo.close()


def _tag(spec: ArmSpec) -> str:
    """Return what follows the colon of an image's name: the tree and the arm (at most 128 of `[A-Za-z0-9_.-]`)."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{spec.tree.digest.rpartition(':')[2][:16]}-{spec.runtime}")[:128]


@contextmanager
def _prepared() -> Iterator[None]:
    """Before a run, what the daemon refuses is a missing prerequisite. Raises: CapabilityError."""
    try:
        yield
    except (BackendError, CommandError) as error:
        raise CapabilityError(error.message, hint=error.hint) from error


# -- the backend -----------------------------------------------------------------------------------------------------


def _need_socket(path: Path) -> Capability:
    if not _answers(path):
        hint = "start it, or leave `engine` out"
        return Capability("docker", available=False, reason=f"{path}: does not answer", hint=hint)
    return Capability("docker", available=True, reason=str(path))


class DockerBackend:
    name = "docker"
    doc = "Docker through its API or command line, with a daemon of the run's own or the host's"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        cli = ["docker"] if options.via == "cli" else []
        if options.socket is None:
            return _peer.needs("dockerd", "runc", "containerd", *cli, trace=options.trace)
        return (*_peer.needs(*cli, trace=options.trace), _need_socket(options.socket))

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        return _peer.mount_needs(mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        return _peer.prepare(
            spec,
            context,
            lambda ground: _Recipe(ground, options),
            wants=_peer.Wants(joins=False, trace=options.trace),
            refused={"bridge": _NOT_OURS} if options.socket else {},
        )

    def tokens(self) -> set[str]:
        return _peer.tokens() | {thing.token for thing in _docker_left.find()}

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        lines = _peer.reap(token, dry_run=dry_run)
        left = [thing for thing in _docker_left.find() if thing.token == token]
        if left and not dry_run:
            _docker_left.remove(left)
        return [*lines, *(thing.line for thing in left)]


PLUGIN = DockerBackend()
