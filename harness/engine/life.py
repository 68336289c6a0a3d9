"""The life of a container made by hand: make, start, watch, exec, stop, remove."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.container import attach
from harness.container.create import CreateOptions, Streams
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.launcher import Launched
from harness.container.spec import Process
from harness.engine import bundle, volumes
from harness.engine.failure import ContainerFailed, failed
from harness.engine.logs import LogWriter
from harness.engine.prepare import Prepared, signal_number
from harness.engine.record import Ending, Home, Record, Shelf, Sight, now
from harness.engine.relay import Relay, exit_code, passing_signals, standard_streams, window_size
from harness.errors import CapabilityError, HarnessError, UsageError
from harness.images.users import resolve

_END_NS = 10 * 10**9
_LOOK_S = 0.02
Say = Callable[[str], None]


# -- make and run ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Made:
    """A container whose directory is there and which this process watches, as long as `lock` is open."""

    prepared: Prepared
    home: Home
    lock: int


def make(shelf: Shelf, prepared: Prepared) -> Made:
    """Make its directory, under its name all at once, and its volumes.

    Raises: UsageError for a name that is taken, CapabilityError where nothing can be written.
    """
    began_ns = time.monotonic_ns()
    place = prepared.place
    try:
        with shelf.changing():
            prepared.record = dataclasses.replace(prepared.record, name=shelf.free_name(prepared.record.name))
            home = Home(shelf.path / f".{place.id}")
            home.path.mkdir(mode=0o700)
            _write(home, prepared)
            volumes.prepare(shelf, prepared)
            lock = home.lock()
            home.path.rename(place.directory)
    except OSError as error:
        hint = "HARNESS_HOME says where containers and images are kept"
        raise CapabilityError(f"container: {error.filename}: {error.strerror}", hint=hint) from error
    prepared.times_ns["write the bundle"] = time.monotonic_ns() - began_ns
    return Made(prepared, Home(place.directory), lock)


def _write(home: Home, prepared: Prepared) -> None:
    """Write a container's files. The writable layer looks like the image's root: it is what is seen of both."""
    status = prepared.place.tree.stat()
    for name, mode in (("upper", status.st_mode & 0o7777), ("work", 0o700)):
        (home.path / name).mkdir()
        (home.path / name).chmod(mode)
    os.chown(home.path / "upper", status.st_uid, status.st_gid)
    for name, text in bundle.file_contents(prepared.request, prepared.place.id).items():
        home.write(name, text)
        (home.path / name).chmod(0o644)
    home.write("config.json", prepared.document)
    home.write("container.json", asdict(prepared.record))


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
    options = CreateOptions(prepared.overlay, proxied=True, trace=trace, dies_with_parent=not request.detach)
    container_id = prepared.place.id
    asked_ns = time.monotonic_ns()
    try:
        log = LogWriter(made.home.log)
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
        made.home.end(Ending(code, now(), kills))
        try:
            shelf.runtime.delete(record.id, force=True)
            if record.remove:
                shelf.remove(record, record.id)
        except (ContainerError, HarnessError) as error:  # its exit code is known, and `ps -a` still shows it
            say(f"{record.name}: {error}; try: harness container rm -f {record.name}")
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
