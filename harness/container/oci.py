"""The life of an OCI container across processes: create, start, state, kill, delete, pause, resume, update.

A Runtime is a `--root`; what one call leaves behind is in `state.py`'s directory, so that the next finds it. What a
start costs is in `launcher.py`; nothing here is on the path that the harness times.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from harness.container import cgroup_mounts, config, hooks, launcher, plan, seccomp
from harness.container.cgroups import Group, detect
from harness.container.config import Config
from harness.container.errors import ContainerError
from harness.container.launcher import Launched
from harness.container.resources import ALLOWED_DEVICE_RULES, Resources
from harness.container.spec import ContainerSpec, Hook, Overlay, Process, Seccomp
from harness.container.state import Home, Homes, Record, boot_id, process_status

_END_NS = 10_000_000_000
_WORKSPACE_BYTES = 1 << 20
_TERMINAL_MESSAGE = b"/dev/ptmx"


@dataclass(frozen=True, slots=True)
class Streams:
    """What the process gets besides its standard streams, and where its terminal goes."""

    console_socket: str | None = None
    preserve_fds: int = 0
    pid_file: str | None = None


def status_of(record: Record, home: Home) -> str:
    """Return `creating`, `created`, `running`, `paused` or `stopped` (runtime.md, "State")."""
    if not record.pid:
        return "creating" if _alive(int(record.owner or 0), 0) else "stopped"
    if record.boot_id != boot_id() or not _alive(record.pid, record.start_ticks):
        return "stopped"
    group = group_of(record)
    if group is not None and group.is_frozen():
        return "paused"
    return "created" if home.is_waiting() else "running"


def _alive(pid: int, start_ticks: int) -> bool:
    seen = process_status(pid) if pid else None
    return seen is not None and seen[0] not in "ZX" and start_ticks in {0, seen[1]}


def group_of(record: Record) -> Group | None:
    """Return the container's cgroup, None where it has none (or its trees are gone)."""
    if not record.group_directories:
        return None
    with suppress(ContainerError):
        return Group.restored(detect(), record.group_directories, record.group_made)
    return None


def id_map_programs(spec: ContainerSpec) -> tuple[str, str]:
    """Return newuidmap and newgidmap where an unprivileged caller maps more than its own ids.

    Raises: ContainerError with the hint that helps where they are missing.
    """
    own = all(entry.size == 1 for entry in (*spec.uid_maps, *spec.gid_maps))
    if own and len(spec.uid_maps) <= 1 and len(spec.gid_maps) <= 1:
        return "", ""
    found = []
    for name in ("newuidmap", "newgidmap"):
        paths = [f"{directory}/{name}" for directory in os.environ.get("PATH", os.defpath).split(":")]
        usable = [path for path in paths if os.access(path, os.X_OK)]
        if not usable:
            raise ContainerError("user namespace", 0, f"{name} is missing, and ranges of ids need it (apt: uidmap)")
        found.append(usable[0])
    return found[0], found[1]


def compiled(process: Process, loaded: Config, cache_dir: str | None) -> Process:
    """Return the process with the filter of its configuration. Raises ContainerError."""
    if loaded.seccomp is None:
        return process
    program = seccomp.compiled(loaded.seccomp, cache_dir)
    profile = loaded.seccomp
    filtered = Seccomp(program, seccomp.flags(profile), profile.listener_path, profile.listener_metadata)
    return replace(process, seccomp=filtered)


def send_fd(path: str, fd: int, message: bytes) -> None:
    """Send an fd to whoever listens at a socket. Raises ContainerError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.connect(path)
            socket.send_fds(peer, [message], [fd])
    except OSError as error:
        raise ContainerError("socket", error.errno or 0, path) from error


def write_pid_file(path: str | None, pid: int) -> None:
    """Write a pid so that nobody reads half of it. Raises ContainerError."""
    if path is None:
        return
    try:
        with open(f"{path}.partial", "w", encoding="ascii") as file:
            file.write(str(pid))
        os.replace(f"{path}.partial", path)
    except OSError as error:
        raise ContainerError("pid file", error.errno or 0, path) from error


def hand_out(launched: Launched, streams: Streams, loaded: Config, state: dict[str, object]) -> None:
    """Send what a start gave us where it is wanted. Raises ContainerError."""
    if streams.console_socket is not None:
        terminal = launched.fds.pop("terminal")
        try:
            send_fd(streams.console_socket, terminal, _TERMINAL_MESSAGE)
        finally:
            os.close(terminal)
    if "seccomp" in launched.fds:
        _send_listener(loaded.seccomp.listener_path if loaded.seccomp else None, launched.fds.pop("seccomp"), state)
    write_pid_file(streams.pid_file, launched.pid)


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """How a container is created: with a session keyring of its own, whether its terminal stays with the caller, and on
    which layers, where its root is not the directory that config.json names."""

    root: Overlay | None = None
    keyring: bool = True
    proxied: bool = False
    trace: bool = False


class Runtime:
    """All containers below one root directory. `cache_dir` keeps compiled filters; None: compile every time."""

    options = CreateOptions()

    def __init__(self, root: str, *, cache_dir: str | None = None) -> None:
        self.homes = Homes(root)
        self.cache_dir = cache_dir
        self.rootless = os.geteuid() != 0

    # -- create ------------------------------------------------------------------------------------------------------

    def create(
        self, container_id: str, bundle: str, streams: Streams, options: CreateOptions = CreateOptions()
    ) -> Launched:
        """Make a container that waits for `start`. What it hands out (`terminal`) is the caller's if not sent away.

        Raises: ContainerError; nothing of it is left then.
        """
        with self.homes.create(container_id) as home, ExitStack() as undo:
            undo.callback(home.remove)
            loaded = self._load(home, bundle)
            if options.root is not None:
                loaded = replace(loaded, container=replace(loaded.container, root=options.root))
            if not options.proxied:
                check_terminal(loaded.container.process, streams)
            record = _first_record(container_id, loaded)
            home.save(record)
            group = self._make_group(container_id, loaded, undo)
            if group is not None:
                record = replace(record, group_directories=group.directories, group_made=group.made)
                home.save(record)
            undo.callback(self._after_failure, loaded, record)
            launched = self._launch(home, loaded, record, group, streams, options)
            undo.callback(_kill_pid, launched.pid)
            seen = process_status(launched.pid)
            home.save(replace(record, pid=launched.pid, start_ticks=seen[1] if seen else -1))
            hand_out(launched, streams, loaded, hooks.state_document(replace(record, pid=launched.pid), "creating"))
            undo.pop_all()
        return launched

    def _load(self, home: Home, bundle: str) -> Config:
        """Read the bundle, and keep what was read."""
        loaded = config.load(bundle, home.at("workspace"))
        container = replace(loaded.container, workspace_bytes=_WORKSPACE_BYTES)
        container = replace(container, process=compiled(container.process, loaded, self.cache_dir))
        shutil.copyfile(os.path.join(loaded.bundle, "config.json"), home.at("config.json"))
        return replace(loaded, container=container)

    def _make_group(self, container_id: str, loaded: Config, undo: ExitStack) -> Group | None:
        """Make the cgroup; without privileges go on without one, unless a limit was asked for."""
        layout = detect()
        resources = loaded.resources
        if resources.devices:
            resources = replace(resources, devices=(*resources.devices, *ALLOWED_DEVICE_RULES))
        if self.rootless:
            resources = replace(resources, devices=())
        group = Group.at(layout, loaded.cgroups_path or f"/harness-oci/{container_id}")
        obstacle = group.obstacle() if self.rootless else None
        if obstacle is not None:
            if resources != Resources():
                raise ContainerError("linux.resources", obstacle.errno, f"no cgroup can be made: {obstacle.detail}")
            return None
        group.create(resources, parents=True, exist_ok=True)
        undo.callback(_end_group, group)
        return group

    def _launch(
        self,
        home: Home,
        loaded: Config,
        record: Record,
        group: Group | None,
        streams: Streams,
        options: CreateOptions,
    ) -> Launched:
        spec = cgroup_mounts.expand(loaded.container, detect(), group.directories if group else ())
        process = spec.process
        with ExitStack() as stack:
            listener = stack.enter_context(_listener(home))
            extra = [*(stack.enter_context(group.join_fds()) if group else ())]
            if process.seccomp is not None:
                extra.append(launcher.sealed_memfd("seccomp", process.seccomp.program))
                stack.callback(os.close, extra[-1])
            how = plan.Launch(
                3 + streams.preserve_fds,
                group.joins() if group else plan.Joins(),
                waits=True,
                seccomp=process.seccomp is not None,
                trace=options.trace,
                rootless=self.rootless,
                keyring=f"_ses.{record.id}" if options.keyring else "",
                id_map_programs=id_map_programs(spec) if self.rootless else ("", ""),
            )
            steps = plan.container_steps(spec, how)
            memfd = launcher.plan_memfd(steps)
            stack.callback(os.close, memfd)

            def on_sync(_name: str, pid: int) -> bytes:
                import json

                state = hooks.state_document(replace(record, pid=pid), "creating")
                hooks.run(spec.hooks.get("prestart", ()), state)
                hooks.run(spec.hooks.get("createRuntime", ()), state)
                return json.dumps(state).encode()

            kept = range(3 + streams.preserve_fds)
            launched = launcher.launch(memfd, kept, (*extra, listener.fileno()), on_sync=on_sync)
            launched.steps = steps
            return launched

    def _after_failure(self, loaded: Config, record: Record) -> None:
        with suppress(ContainerError):
            hooks.run(loaded.container.hooks.get("poststop", ()), hooks.state_document(record, "stopped"))

    # -- start -------------------------------------------------------------------------------------------------------

    def start(self, container_id: str) -> None:
        """Let a created container execute its program. Raises ContainerError, of the launcher's steps as well."""
        with self.homes.open(container_id) as home:
            record = home.load()
            status = status_of(record, home)
            if status != "created":
                raise ContainerError("start", 0, f"{container_id}: cannot start a container that is {status}")
            loaded = self.loaded(home, record)
            if loaded.process is None:
                raise ContainerError("start", 0, f"{container_id}: its config.json has no process")
            state = hooks.state_document(record, "created")
            _release(home, state, loaded.seccomp.listener_path if loaded.seccomp else None)
            try:
                hooks.run(loaded.container.hooks.get("poststart", ()), hooks.state_document(record, "running"))
            except ContainerError:
                _kill_pid(record.pid)
                raise

    def loaded(self, home: Home, record: Record) -> Config:
        """Return the configuration that the container was created with."""
        from harness.container import _fields

        document = _fields.load(home.at("config.json"), "config.json")
        assert isinstance(document, dict)
        return config.read(document, record.bundle, home.at("workspace"))

    # -- what runs ---------------------------------------------------------------------------------------------------

    def state(self, container_id: str) -> tuple[Record, str]:
        """Return what is known of a container and its status. Raises ContainerError."""
        with self.homes.open(container_id) as home:
            record = home.load()
            return record, status_of(record, home)

    def kill(self, container_id: str, number: int, *, everything: bool = False) -> None:
        """Send a signal to its first process, or to all. Raises ContainerError for a container that does not run."""
        with self.homes.open(container_id) as home:
            record = home.load()
            status = status_of(record, home)
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
        """Freeze every process of a container. Raises ContainerError."""
        self._with_group(container_id, {"running", "created"}, "pause").freeze(time.monotonic_ns() + _END_NS)

    def resume(self, container_id: str) -> None:
        """Thaw a paused container. Raises ContainerError."""
        self._with_group(container_id, {"paused"}, "resume").thaw()

    def update(self, container_id: str, resources: Resources) -> None:
        """Change the limits of a container. Raises ContainerError."""
        self._with_group(container_id, {"running", "created", "paused"}, "update").update(resources)

    def _with_group(self, container_id: str, allowed: set[str], verb: str) -> Group:
        record, status = self.state(container_id)
        if status not in allowed:
            raise ContainerError(verb, 0, f"{container_id}: cannot {verb} a container that is {status}")
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
            if status != "stopped" and not force:
                raise ContainerError("delete", 0, f"{container_id}: cannot delete a container that is {status}")
            if record.pid and status != "stopped":
                _kill_pid(record.pid, record.start_ticks)
            group = group_of(record)
            if group is not None:
                _end_group(group)
            after = self._poststop(home, record)
            home.remove()
        hooks.run(after, hooks.state_document(record, "stopped"))

    def _poststop(self, home: Home, record: Record) -> Sequence[Hook]:
        try:
            return self.loaded(home, record).container.hooks.get("poststop", ())
        except ContainerError:
            return ()


def _first_record(container_id: str, loaded: Config) -> Record:
    root = loaded.container.root
    return Record(
        container_id,
        loaded.bundle,
        oci_version=loaded.version,
        boot_id=boot_id(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        owner=str(os.getpid()),
        rootfs=getattr(root, "path", ""),
        own_pid_namespace=loaded.container.has_new("pid"),
        annotations=loaded.container.annotations,
    )


def check_terminal(process: Process, streams: Streams) -> None:
    if process.terminal and streams.console_socket is None:
        raise ContainerError("terminal", 0, "process.terminal is true: --console-socket says where it goes")
    if streams.console_socket is not None and not process.terminal:
        raise ContainerError("terminal", 0, "--console-socket was given, but process.terminal is not true")


def _listener(home: Home) -> socket.socket:
    """Bind start.sock by a short name: paths of sockets end at 108 bytes (unix(7))."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(home.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/start.sock")
        os.chmod(home.at("start.sock"), 0o600)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise ContainerError("create", error.errno or 0, home.at("start.sock")) from error
    finally:
        os.close(directory)
    return listener


def _release(home: Home, state: dict[str, object], listener_path: str | None) -> None:
    """Tell the waiting launcher to go on; return when it executed the program, which closes the connection."""
    import json

    directory = os.open(home.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(f"/proc/self/fd/{directory}/start.sock")
            os.unlink(home.at("start.sock"))
            peer.send(json.dumps(state).encode())
            while data := launcher.receive(peer):
                text, fd = data
                if fd is not None:
                    _send_listener(listener_path, fd, state)
                if text.startswith("error "):
                    raise launcher.parse_error(text.partition(" ")[2])
    except OSError as error:
        raise ContainerError("start", error.errno or 0, home.at("start.sock")) from error
    finally:
        os.close(directory)


def _send_listener(path: str | None, fd: int, state: dict[str, object]) -> None:
    import json

    try:
        if path is not None:
            message = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": state.get("pid"), "state": state}
            send_fd(path, fd, json.dumps(message).encode())
    finally:
        os.close(fd)


def _signal(record: Record, number: int) -> None:
    """Send a signal to the very process that was started, not to a later one of its number."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError as error:
        raise ContainerError("kill", errno.ESRCH, f"{record.id}: container not running") from error
    try:
        if not _alive(record.pid, record.start_ticks):
            raise ContainerError("kill", errno.ESRCH, f"{record.id}: container not running")
        signal.pidfd_send_signal(pidfd, number)
    except OSError as error:
        raise ContainerError("kill", error.errno or 0, record.id) from error
    finally:
        os.close(pidfd)


def _kill_pid(pid: int, start_ticks: int = 0) -> None:
    """End a process and wait until it is gone, whoever its parent is."""
    if not _alive(pid, start_ticks):
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline_ns = time.monotonic_ns() + _END_NS
    while _alive(pid, start_ticks) and time.monotonic_ns() < deadline_ns:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.0005)


def _end_group(group: Group) -> None:
    deadline_ns = time.monotonic_ns() + _END_NS
    group.thaw()
    group.kill(deadline_ns)
    group.remove(deadline_ns, parents=True)
