"""The life of an OCI container across processes: create, start, state, kill, delete, pause, resume, update.

A Runtime is a `--root`; what one call leaves behind is in `state.py`'s directory, so that the next finds it. What a
start costs is in `launcher.py`; nothing here is on the path that the harness times. What only `create` needs, it alone
imports: `state`, `kill` and `delete` spend most of their time in imports.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from harness.container import _fields, hooks
from harness.container.cgroups import Group, detect
from harness.container.endings import end_group, kill_pid, reap
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.state import Home, Homes, Record, boot_id, is_alive

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import Any

    from harness.container.config import Config
    from harness.container.create import CreateOptions, Streams
    from harness.container.launcher import Launched
    from harness.container.resources import Resources
    from harness.container.spec import Hook, HookPoint

__all__ = ["Runtime", "found_in", "group_of", "status_of"]

_END_NS = 10_000_000_000


def status_of(record: Record, home: Home) -> str:
    """Return `creating`, `created`, `running`, `paused` or `stopped` (runtime.md, "State")."""
    if not record.pid:
        return "creating" if is_alive(int(record.owner or 0), 0) else "stopped"
    if record.boot_id != boot_id() or not is_alive(record.pid, record.start_ticks):
        return "stopped"
    group = group_of(record)
    if group is not None and group.is_frozen():
        return "paused"
    return "created" if home.is_waiting() else "running"


def found_in(home: Home) -> tuple[Record, str]:
    """Return what is known of a container and its status. Raises ContainerError where nothing is written down."""
    record = home.load()
    return record, status_of(record, home)


def group_of(record: Record) -> Group | None:
    """Return the container's cgroup, None where it has none (or its trees are gone)."""
    if not record.group_directories:
        return None
    with suppress(ContainerError):
        return Group.restored(detect(), record.group_directories, record.group_made)
    return None


class Runtime:
    """All containers below one root directory.

    `cache_dir` keeps compiled filters; None: compile every time. `warn` hears of what is wrong and no failure.
    """

    def __init__(
        self, root: str, *, cache_dir: str | None = None, warn: Callable[[str], None] = lambda _text: None
    ) -> None:
        self.homes = Homes(root)
        self.cache_dir = cache_dir
        self.warn = warn
        self.debug: Callable[[str], None] | None = None
        """Hears each step of a plan before it is taken."""
        self.rootless = os.geteuid() != 0

    def create(
        self, container_id: str, bundle: str, streams: Streams | None = None, options: CreateOptions | None = None
    ) -> Launched:
        """Make a container that waits for `start`: see `create.create`."""
        from harness.container.create import CreateOptions, Streams, create

        return create(self, container_id, bundle, streams or Streams(), options or CreateOptions())

    # -- start -------------------------------------------------------------------------------------------------------

    def start(self, container_id: str) -> None:
        """Let a created container execute its program. Raises ContainerError, of the launcher's steps as well."""
        with self.homes.open(container_id) as home:
            record, status = found_in(home)
            if status != "created":
                raise ContainerError("start", 0, f"{container_id}: cannot start a container that is {status}")
            document = _document(home)
            if document.get("process") is None:
                raise ContainerError("start", 0, f"{container_id}: its config.json has no process")
            after = self._hooks(document, home, record, "poststart")
            _release(home, hooks.state_document(record, "created"), (document.get("linux") or {}).get("seccomp") or {})
            hooks.run_all(after, hooks.state_document(record, "running"), self.warn)

    def loaded(self, home: Home, record: Record) -> Config:
        """Return the configuration that the container was created with."""
        from harness.container import config

        return config.read(_document(home), record.bundle, home.at("workspace"))

    def _hooks(self, document: dict[str, Any], home: Home, record: Record, point: HookPoint) -> Sequence[Hook]:
        """Return the hooks of one kind; mostly there are none, and then nothing else of config.json is looked at."""
        if not (document.get("hooks") or {}).get(point):
            return ()
        return self.loaded(home, record).container.hooks.get(point, ())

    # -- what runs ---------------------------------------------------------------------------------------------------

    def state(self, container_id: str) -> tuple[Record, str]:
        """Return what is known of a container and its status. Raises ContainerError.

        Without the lock, which `create` holds while hooks run that may ask for it: what is read is replaced as a whole.
        """
        home = self.homes.peek(container_id)
        with suppress(ContainerError):
            return found_in(home)
        with self.homes.open(container_id) as home:  # it is not written down yet, or it is going away
            return found_in(home)

    def kill(self, container_id: str, number: int, *, everything: bool = False) -> None:
        """Send a signal to its first process, or to all. Raises ContainerError for a container that does not run."""
        with self.homes.open(container_id) as home:
            record, status = found_in(home)
            group = group_of(record)
            if everything and group is not None:
                if number == signal.SIGKILL:
                    group.kill(time.monotonic_ns() + _END_NS)
                for pid in group.pids() if number != signal.SIGKILL else ():
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                return
            if status not in {"created", "running", "paused"}:
                raise ContainerError("kill", 0, f"{container_id}: container not running")
            _signal(record, number)
            if number == signal.SIGKILL and status == "paused" and group is not None:
                group.thaw()  # a frozen v1 group keeps even this signal

    def pause(self, container_id: str) -> None:
        """Freeze every process of a container. Raises ContainerError.

        Under the lock: frozen in the middle of `start`, the launcher would not answer, nor `start` give the lock back.
        """
        with self.homes.open(container_id) as home:
            self._group_in(found_in(home), {"running", "created"}, "pause").freeze(time.monotonic_ns() + _END_NS)

    def resume(self, container_id: str) -> None:
        """Thaw a paused container. Raises ContainerError."""
        self._group_in(self.state(container_id), {"paused"}, "resume").thaw()

    def update(self, container_id: str, resources: Resources) -> None:
        """Change the limits of a container. Raises ContainerError."""
        group = self._group_in(self.state(container_id), {"running", "created", "paused"}, "update")
        memory = resources.memory
        if memory.swap_bytes and memory.swap_bytes > 0 and not memory.limit_bytes:  # it is both together
            memory = replace(memory, limit_bytes=group.stats().memory.limit_bytes)
            resources = replace(resources, memory=memory)
        group.update(resources)

    def _group_in(self, found: tuple[Record, str], allowed: set[str], verb: str) -> Group:
        """Return the group of a container whose status allows the verb."""
        record, status = found
        if status not in allowed:
            raise ContainerError(verb, 0, f"{record.id}: cannot {verb} a container that is {status}")
        return self.group(record, verb)

    def group(self, record: Record, verb: str) -> Group:
        """Return a container's cgroup. Raises ContainerError where it has none."""
        group = group_of(record)
        if group is None:
            raise ContainerError(verb, 0, f"{record.id}: the container has no cgroup")
        return group

    # -- delete ------------------------------------------------------------------------------------------------------

    def delete(self, container_id: str, *, force: bool = False) -> None:
        """Remove a container that stopped; `force` ends it first. Raises ContainerError for what stays."""
        with self.homes.open(container_id) as home:
            try:
                record = home.load()
            except ContainerError:  # a runtime that was killed before it made anything else
                if not force:
                    raise
                home.remove()
                return
            status = status_of(record, home)
            if status not in {"stopped", "created"} and not force:  # a created one never ran: as runc and crun do
                raise ContainerError("delete", 0, f"{container_id}: cannot delete a container that is {status}")
            if record.pid and status != "stopped":
                kill_pid(record.pid, record.start_ticks)
            elif record.pid:
                reap(record.pid, record.start_ticks)
            group = group_of(record)
            if group is not None:
                end_group(group)
            after = self._poststop(home, record)
            home.remove()
        hooks.run_all(after, hooks.state_document(record, "stopped"), self.warn)

    def _poststop(self, home: Home, record: Record) -> Sequence[Hook]:
        try:
            return self._hooks(_document(home), home, record, "poststop")
        except ContainerError:
            return ()


def _document(home: Home) -> dict[str, Any]:
    """Return config.json as `create` kept it, which has checked it. Raises ContainerError."""
    document = _fields.load(home.at("config.json"), "config.json")
    assert isinstance(document, dict)
    return document


def _release(home: Home, state: dict[str, object], seccomp: dict[str, str]) -> None:
    """Tell the waiting launcher to go on; return when it executed the program, which closes the connection.

    The fd of a seccomp listener goes to where `linux.seccomp` says.
    """
    import json
    import socket

    from harness.container import launcher

    directory = os.open(home.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(f"/proc/self/fd/{directory}/start.sock")
            os.unlink(home.at("start.sock"))
            peer.send(json.dumps(state).encode())
            while data := launcher.receive(peer):
                text, fd = data
                if fd is not None:
                    from harness.container.create import send_listener

                    send_listener(seccomp.get("listenerPath"), seccomp.get("listenerMetadata", ""), fd, state)
                if text.startswith("error "):
                    raise launcher.parse_error(text.partition(" ")[2])
    except OSError as error:
        raise ContainerError("start", error.errno or 0, home.at("start.sock")) from error
    finally:
        os.close(directory)


def _signal(record: Record, number: int) -> None:
    """Send a signal to the very process that was started, not to a later one of its number."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError as error:
        raise ContainerError("kill", errno.ESRCH, f"{record.id}: container not running") from error
    try:
        if not is_alive(record.pid, record.start_ticks):
            raise ContainerError("kill", errno.ESRCH, f"{record.id}: container not running")
        signal.pidfd_send_signal(pidfd, number)
    except OSError as error:
        raise ContainerError("kill", error.errno or 0, record.id) from error
    finally:
        os.close(pidfd)
