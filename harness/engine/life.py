"""The life of a container made by hand: prepare, run, exec, stop, remove."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from harness.container import attach, config, plan
from harness.container.create import CreateOptions, Streams
from harness.container.errors import ContainerError
from harness.container.launcher import Launched
from harness.container.spec import Overlay, Process, Seccomp
from harness.engine import bundle
from harness.engine.logs import LogWriter
from harness.engine.record import Ending, Home, Record, Shelf, Sight, now
from harness.engine.relay import Relay, exit_code, passing_signals, standard_streams, window_size
from harness.engine.request import MountWish, Request
from harness.engine.users import resolve
from harness.errors import CapabilityError, HarnessError, UsageError
from harness.host.paths import data_dir
from harness.images import oci
from harness.images.oci import Image
from harness.images.roots import open_tree
from harness.images.store import Store

EXIT_FAILED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 125, 126, 127
_END_NS = 10 * 10**9
_LOOK_S = 0.02
Say = Callable[[str], None]


class ContainerFailed(HarnessError):
    """A container that did not come to execute its program; `exit_code` is 125, 126 or 127, as Docker has them."""

    exit_code = EXIT_FAILED


def failed(error: ContainerError, what: str) -> ContainerFailed:
    """Return what a person is told of an error of the runtime, with the exit code that says whose fault it is."""
    step = error.step.partition("(")[2].rstrip(")")
    made = ContainerFailed(f"container: {what}: {error}", hint=_hint(error, step))
    if step in {"find", "exec"}:
        made.exit_code = EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_EXECUTABLE
    return made


def _hint(error: ContainerError, step: str) -> str | None:
    if step == "find" and error.errno == errno.ENOENT:
        return "is it in the image, and in a directory of its PATH? harness container run IMAGE ls /bin"
    if step == "exec" and error.errno == errno.ENOENT:
        return "the file is there, but not the interpreter that its first line or its ELF header names"
    if step == "exec" and error.errno == errno.ENOEXEC:
        return "a program of another architecture, or a script without #!"
    if step == "overlay":
        return "the writable layer needs a disk such as ext4, xfs, btrfs or tmpfs below it: set HARNESS_HOME to one"
    return None


# -- prepare ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Prepared:
    """A container that could be made: nothing of it exists yet. `store` keeps its tree while this object lives."""

    request: Request
    image: Image
    store: Store
    record: Record
    place: bundle.Place
    document: bundle.Document
    times_ns: dict[str, int] = field(default_factory=dict)
    """What each part of the work took, in the order in which it was done."""

    @property
    def overlay(self) -> Overlay:
        at = self.place.directory
        return Overlay((str(self.place.tree),), str(at / "upper"), str(at / "work"), volatile=False)


def prepare(shelf: Shelf, request: Request) -> Prepared:
    """Find the image and decide everything. Raises: UsageError, ImageError, CapabilityError."""
    if os.geteuid() != 0:
        raise CapabilityError("container: root: not root", hint="run as root: the overlay and the cgroup need it")
    began_ns = time.monotonic_ns()
    store = Store(data_dir() / "images")
    image = store.find(request.image)
    tree = open_tree(store, image, request.image)
    opened_ns = time.monotonic_ns()
    container_id = shelf.new_id()
    wishes = bundle.wishes(request, image)
    sources, nameless = _sources(shelf, wishes)
    network = _network_path(shelf, request.network)
    place = bundle.Place(container_id, shelf.path / container_id, tree.path, sources, network)
    document = bundle.document(request, image, place)
    if request.tty and (size := window_size()):
        document["process"]["consoleSize"] = {"height": size[0], "width": size[1]}
    record = Record(
        container_id, request.name, oci.full_name(request.image), image.manifest.digest, str(tree.path),
        bundle.arguments(request, image), now(), request.labels, request.network, request.tty, request.interactive,
        request.detach, request.remove, nameless, bundle.stop_signal(request, image), request.stop_timeout_s,
    )  # fmt: skip
    signal_number(record.stop_signal)
    times = {"find and check the image": opened_ns - began_ns, "decide": time.monotonic_ns() - opened_ns}
    return Prepared(request, image, store, record, place, document, times)


def _sources(shelf: Shelf, wishes: tuple[MountWish, ...]) -> tuple[dict[int, Path], tuple[str, ...]]:
    """Return where each bind and volume is, and the names that volumes without one get. Raises: UsageError."""
    sources: dict[int, Path] = {}
    nameless = []
    for number, wish in enumerate(wishes):
        if wish.kind == "bind":
            if not Path(wish.source).exists():
                hint = f"mkdir -p {wish.source}; or a volume: a name without a slash"
                raise UsageError(f"-v: {wish.source}: no such file or directory on the host", hint=hint)
            sources[number] = Path(wish.source)
        elif wish.kind == "volume":
            name = wish.source or shelf.new_id() + shelf.new_id()
            nameless += [] if wish.source else [name]
            sources[number] = shelf.volumes / name
    return sources, tuple(nameless)


def _network_path(shelf: Shelf, network: str) -> str:
    kind, _, name = network.partition(":")
    if kind != "container":
        return ""
    sight = shelf.look(shelf.home(shelf.find(name)).read())
    if not sight.pid:
        raise UsageError(
            f"--network: {network}: it is {sight.status}", hint="only one that runs has a network to share"
        )
    return f"/proc/{sight.pid}/ns/net"


def describe(prepared: Prepared) -> str:
    """Return what would be done, in order: directories, the cgroup, and the numbered steps of the launcher.

    Raises: ContainerFailed for what could not be made.
    """
    from harness.container import cgroup_mounts, cgroups, seccomp  # noqa: PLC0415
    from harness.container.cgroup_layout import directories_at  # noqa: PLC0415

    place, layout = prepared.place, cgroups.detect()
    try:
        read = config.read(prepared.document, str(place.directory), f"{place.directory}/workspace")
        groups = directories_at(layout.full(), read.cgroups_path or "")
        process = read.container.process
        if read.seccomp is not None:
            process = replace(process, seccomp=Seccomp(b"", seccomp.flags(read.seccomp)))
        spec = cgroup_mounts.expand(replace(read.container, root=prepared.overlay, process=process), layout, groups)
        joins = plan.Joins(sum(tree.version == 1 for tree in layout.full()), layout.unified is not None)
        launch = plan.Launch(joins=joins, waits=True, seccomp=read.seccomp is not None, keyring=f"_ses.{place.id}",
                             dies_with_parent=not prepared.request.detach)  # fmt: skip
        steps = plan.container_steps(spec, launch)
    except ContainerError as error:
        raise failed(error, prepared.request.image) from error
    made = [str(place.directory / name) for name in ("upper", "work", "log")]
    made += [str(path) for path in prepared.place.sources.values() if not path.exists()]
    lines = [
        f"image     {prepared.record.image} {prepared.record.digest}", f"tree      {place.tree}",
        *(f"make      {path}" for path in made), *(f"cgroup    {path}" for path in groups),
        f"limits    {prepared.document['linux']['resources']}", f"run       {list(prepared.record.command)}", "",
    ]  # fmt: skip
    return "\n".join(lines) + plan.describe(steps)


# -- make and run ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Made:
    """A container whose directory is there and which this process watches, as long as `lock` is open."""

    prepared: Prepared
    home: Home
    lock: int


def make(shelf: Shelf, prepared: Prepared) -> Made:
    """Make its directory, under its name all at once, and its volumes. Raises: UsageError for a name that is taken."""
    began_ns = time.monotonic_ns()
    place = prepared.place
    with shelf.changing():
        prepared.record = replace(prepared.record, name=shelf.free_name(prepared.record.name))
        home = Home(shelf.path / f".{place.id}")
        home.path.mkdir(mode=0o700)
        status = place.tree.stat()
        for name, mode in (("upper", status.st_mode & 0o7777), ("work", 0o700)):
            (home.path / name).mkdir()
            (home.path / name).chmod(mode)
        os.chown(home.path / "upper", status.st_uid, status.st_gid)
        for name, text in bundle.file_contents(prepared.request, place.id).items():
            home.write(name, text)
            (home.path / name).chmod(0o644)
        home.write("config.json", prepared.document)
        home.write("container.json", asdict(prepared.record))
        for path in place.sources.values():
            if path.is_relative_to(shelf.volumes):
                path.mkdir(parents=True, exist_ok=True)
        lock = home.lock()
        home.path.rename(place.directory)
    prepared.times_ns["write the bundle"] = time.monotonic_ns() - began_ns
    return Made(prepared, Home(place.directory), lock)


@dataclass(slots=True)
class Started:
    """A container whose program was executed, the relay that carries its streams, and when each part was done."""

    launched: Launched
    relay: Relay
    asked_ns: int
    created_ns: int
    started_ns: int


def start(shelf: Shelf, made: Made, *, trace: bool = False) -> Started:
    """Start it; return when its program was executed. Raises: ContainerFailed; nothing of it is left then."""
    prepared, request = made.prepared, made.prepared.request
    options = CreateOptions(
        prepared.overlay, proxied=True, trace=trace, dies_with_parent=not request.detach
    )  # fmt: skip
    container_id = prepared.place.id
    asked_ns = time.monotonic_ns()
    try:
        with standard_streams(interactive=request.interactive) as ends:
            launched = shelf.runtime.create(container_id, str(prepared.place.directory), Streams(), options)
            ends.terminal = launched.fds.pop("terminal", -1)
            created_ns = time.monotonic_ns()
            shelf.runtime.start(container_id)
            started_ns = time.monotonic_ns()
    except BaseException as error:
        shelf.remove(prepared.record, container_id)
        os.close(made.lock)
        if isinstance(error, ContainerError):
            raise failed(error, prepared.record.name) from error
        raise
    log = LogWriter(made.home.log)
    relay = Relay(ends, attached=not request.detach, log=log.write)
    return Started(launched, relay, asked_ns, created_ns, started_ns)


def watch(shelf: Shelf, made: Made, started: Started, say: Say) -> int:
    """Stay until it ends, clean up, and return its exit code."""
    record = made.prepared.record
    pid = started.launched.pid
    with passing_signals(pid, lambda text: say(f"{record.name}: {text}")):
        started.relay.run(pid)
        code = exit_code(pid)
        kills = _oom_kills(shelf, record.id)
        if record.remove:
            shelf.remove(record, record.id)
        else:
            made.home.end(Ending(code, now(), kills))
            shelf.runtime.delete(record.id, force=True)
    os.close(made.lock)
    if kills and code == 128 + signal.SIGKILL and not made.prepared.request.detach:
        say(f"{record.name}: the kernel killed it: it used more memory than -m allows")
    return code


def _oom_kills(shelf: Shelf, container_id: str) -> int | None:
    with suppress(ContainerError, OSError):
        seen, _ = shelf.runtime.state(container_id)
        return shelf.runtime.group(seen, "stats").stats().memory.oom_kills_count
    return None


# -- what runs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A process that is to be added to a container; what is empty is the container's own."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    interactive: bool = False
    tty: bool = False
    detach: bool = False


def execute(shelf: Shelf, sight: Sight, request: ExecRequest) -> tuple[int, Relay]:
    """Start another process in a container; return its pid and the relay. Raises: UsageError, ContainerFailed."""
    record = sight.record
    if sight.status != "running":
        hint = f"harness container logs {record.name}" if sight.status == "exited" else None
        raise UsageError(f"container: {record.name}: is {sight.status}, so nothing can be run in it", hint=hint)
    try:
        process = _added(attach.base_process(shelf.runtime, record.id), request, sight.pid)
        how = attach.ExecOptions(proxied=True, dies_with_parent=not request.detach)
        with standard_streams(interactive=request.interactive) as ends:
            launched = attach.execute(shelf.runtime, record.id, process, Streams(), how)
            ends.terminal = launched.fds.pop("terminal", -1)
    except ContainerError as error:
        raise failed(error, record.name) from error
    return launched.pid, Relay(ends, attached=not request.detach)


def attend(pid: int, relay: Relay, say: Say) -> int:
    """Stay with a process until it ends; return its exit code."""
    with passing_signals(pid, say):
        relay.run(pid)
        return exit_code(pid)


def _added(base: Process, request: ExecRequest, pid: int) -> Process:
    """Return the container's own process with what was asked for; HOME follows the user."""
    process = replace(base, args=request.command, terminal=request.tty, console_size=window_size(), seccomp=None)
    own = dict(word.split("=", 1) for word in base.env)
    user = resolve(Path(f"/proc/{pid}/root"), request.user or str(base.uid))
    if request.user:
        process = replace(process, uid=user.uid, gid=user.gid, additional_gids=user.groups)
        own.pop("HOME", None)
    env = bundle.environment(own, request.env, user, tty=request.tty)
    return replace(process, env=tuple(env), cwd=request.workdir or base.cwd)


def signal_number(word: str) -> int:
    """Return the number of `9`, `KILL` or `SIGKILL`. Raises: UsageError."""
    name = word.upper()
    if word.isascii() and word.isdigit() and 1 <= int(word) <= 64:
        return int(word)
    try:
        return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except KeyError:
        raise UsageError(f"signal: {word}: unknown", hint="such as TERM, SIGINT or 9") from None


def stop(shelf: Shelf, sight: Sight, timeout_s: int | None) -> None:
    """Ask it to end, wait, then kill it; return when it is over and cleaned up. One that does not run stays so."""
    record = sight.record
    wait_s = record.stop_timeout_s if timeout_s is None else timeout_s
    if not sight.is_running:
        return
    if wait_s and sight.status == "running":
        kill(shelf, sight, signal_number(record.stop_signal))
        deadline_ns = time.monotonic_ns() + wait_s * 10**9
        while _still_runs(shelf, record) and time.monotonic_ns() < deadline_ns:
            time.sleep(_LOOK_S)
    end(shelf, record)


def _still_runs(shelf: Shelf, record: Record) -> bool:
    with suppress(ContainerError):
        return shelf.runtime.state(record.id)[1] in {"created", "running", "paused"}
    return False


def kill(shelf: Shelf, sight: Sight, number: int) -> None:
    """Send a signal to its first process. Raises: UsageError for one that does not run."""
    try:
        shelf.runtime.kill(sight.record.id, number)
    except ContainerError as error:
        raise UsageError(f"container: {sight.record.name}: is {sight.status}: no signal can be sent") from error


def end(shelf: Shelf, record: Record) -> None:
    """Kill what runs of a container and see that it is cleaned up, by whoever watches it or by us."""
    home = shelf.home(record.id)
    with suppress(ContainerError):
        if _still_runs(shelf, record):
            shelf.runtime.kill(record.id, signal.SIGKILL, everything=True)
            shelf.runtime.kill(record.id, signal.SIGKILL)
    if not home.wait_unwatched(_END_NS):
        hint = "a process that hangs in the kernel (on a dead disk or network) keeps it"
        raise ContainerFailed(f"container: {record.name}: does not end", hint=hint)
    if home.path.exists() and home.ending() is None:  # whoever watched it was killed
        home.end(Ending(None, now()))
    with suppress(ContainerError):
        shelf.runtime.delete(record.id, force=True)


def remove(shelf: Shelf, container_id: str, *, force: bool) -> None:
    """Remove a container and what it wrote. Raises: UsageError for one that runs, unless `force` ends it first."""
    try:
        record = shelf.home(container_id).read()
    except CapabilityError:
        if not force:
            raise
        shelf.remove(None, container_id)
        return
    if shelf.look(record).is_running:
        if not force:
            hint = f"harness container stop {record.name}, or rm -f"
            raise UsageError(f"container: {record.name}: is running", hint=hint)
        end(shelf, record)
    shelf.home(container_id).wait_unwatched(_END_NS)
    shelf.remove(record, container_id)
