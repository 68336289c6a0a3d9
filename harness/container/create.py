"""Make an OCI container: from a bundle to a process that waits for `start`."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from harness.container import cgroup_mounts, config, features, hooks, id_maps, launcher, mountinfo, plan, seccomp
from harness.container.cgroups import Group, detect
from harness.container.config import Config
from harness.container.defaults import CAPABILITIES
from harness.container.endings import DEFAULT_PARENT, end_group, kill_pid
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen, field_names, replace
from harness.container.launcher import Launched
from harness.container.resources import ALLOWED_DEVICE_RULES, Resources
from harness.container.spec import Capabilities, ContainerSpec, Hook, HookPoint, Overlay, Process, Seccomp
from harness.container.state import Home, Record, boot_id, process_status
from harness.container.step import Step

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from harness.container.oci import Runtime

_WORKSPACE_BYTES = 1 << 20
_TERMINAL_MESSAGE = b"/dev/ptmx"


class Streams(Frozen):
    """What the process gets besides its standard streams, and where its terminal goes."""

    console_socket: str | None = None
    preserved: tuple[int | None, ...] = ()
    """Those after stdio; None where there shall be none."""
    pid_file: str | None = None


class CreateOptions(Frozen):
    """How a container is created: with a session keyring of its own, whether its terminal stays with the caller, and on
    which layers, where its root is not the directory that config.json names."""

    root: Overlay | None = None
    config: str | None = None
    """Another file than the bundle's config.json."""
    keyring: bool = True
    proxied: bool = False
    trace: bool = False
    dies_with_parent: bool = False
    """With the thread that creates it: see `launcher.launch`."""


def create(runtime: Runtime, container_id: str, bundle: str, streams: Streams, options: CreateOptions) -> Launched:
    """Make a container that waits for `start`. What it hands out (`terminal`) is the caller's if it was not sent away.

    The launcher waits for us to write its pid down, and ends if we do not live to do it.

    Raises: ContainerError; nothing of it is left then.
    """
    with runtime.homes.create(container_id) as home, ExitStack() as undo:
        undo.callback(home.remove)
        loaded = _load(runtime, home, bundle, options)
        if not loaded.container.has_new("mount"):
            runtime.warn(
                "linux.namespaces: no mount namespace: the host sees the mounts, and a process can leave its root"
            )
        if not options.proxied:
            check_terminal(loaded.container.process, streams)
        record = _first_record(container_id, loaded)
        group = _group(runtime, container_id, loaded)
        if group is not None:
            _announce(home, record, group)
            _make_group(runtime, group, loaded, undo)
            record = replace(record, group_directories=group.directories, group_made=group.made)
        home.save(record)
        undo.callback(_after_failure, loaded, record, runtime.warn)

        def on_created(launched: Launched) -> None:
            undo.callback(kill_pid, launched.pid)
            seen = process_status(launched.pid)
            home.save(replace(record, pid=launched.pid, start_ticks=seen[1] if seen else -1))
            hand_out(launched, streams, loaded, hooks.state_document(replace(record, pid=launched.pid), "creating"))

        launched = _Start(runtime, home, loaded, record, group).launch(streams, options, on_created)
        undo.pop_all()
    return launched


def _load(runtime: Runtime, home: Home, bundle: str, options: CreateOptions) -> Config:
    """Read the bundle, and keep what was read."""
    loaded = config.load(bundle, home.at("workspace"), options.config)
    container = replace(loaded.container, workspace_bytes=_WORKSPACE_BYTES, root=options.root or loaded.container.root)
    process = compiled(container.process, loaded, runtime.cache_dir)
    process = replace(process, env=(*process.env, *_activation()))
    holder = mountinfo.holder(container.workspace) if plan.is_shared(container) else container.workspace_mount
    container = replace(
        container,
        process=granted(process, runtime.warn, all_=runtime.rootless or container.has("user")),
        hooks=with_environment(container.hooks),
        mount_label=container.mount_label if features.has_selinux() else None,
        workspace_mount=holder,
    )
    try:
        with (
            open(options.config or os.path.join(loaded.bundle, config.FILE), "rb") as source,
            open(home.at(config.FILE), "wb") as kept,
        ):
            kept.write(source.read())  # without shutil, whose import takes longer than all of this
    except OSError as error:
        raise ContainerError("create", error.errno or 0, home.at("config.json")) from error
    return replace(loaded, container=container)


def _group(runtime: Runtime, container_id: str, loaded: Config) -> Group | None:
    """Return the cgroup to make; without privileges go on without one, unless a limit was asked for."""
    group = Group.at(detect(), loaded.cgroups_path or f"/{DEFAULT_PARENT}/{container_id}")
    obstacle = group.obstacle() if runtime.rootless else None
    if obstacle is None:
        return group
    if _resources(runtime, loaded) != Resources():
        raise ContainerError("linux.resources", obstacle.errno, f"no cgroup can be made: {obstacle.detail}")
    return None


def _resources(runtime: Runtime, loaded: Config) -> Resources:
    resources = loaded.resources
    if runtime.rootless:
        return replace(resources, devices=())
    return replace(resources, devices=(*resources.devices, *ALLOWED_DEVICE_RULES)) if resources.devices else resources


def _announce(home: Home, record: Record, group: Group) -> None:
    """Write down what will be made, and only that, so that `delete` finds it though we were killed half way."""
    from harness.container import cgroup_setup

    missing, made = cgroup_setup.planned(zip(group.trees, group.directories, strict=True))
    home.save(replace(record, group_directories=tuple(missing), group_made=tuple(made)))


def _make_group(runtime: Runtime, group: Group, loaded: Config, undo: ExitStack) -> None:
    group.create(_resources(runtime, loaded), parents=True, exist_ok=True)
    undo.callback(end_group, group)


class _Start(Frozen):
    """Everything that the launcher is started with."""

    runtime: Runtime
    home: Home
    loaded: Config
    record: Record
    group: Group | None

    def launch(self, streams: Streams, options: CreateOptions, on_created: launcher.OnCreated) -> Launched:
        directories = self.group.directories if self.group else ()
        spec = cgroup_mounts.expand(self.loaded.container, detect(), directories)
        steps = plan.container_steps(spec, self._how(spec, streams, options))
        tell_plan(self.runtime.debug, steps)
        kept = (0, 1, 2, *streams.preserved)
        with ExitStack() as stack:
            extra = extra_fds(self.group, spec.process, stack)
            extra.append(stack.enter_context(_listener(self.home)).fileno())
            memfd = launcher.plan_memfd(steps)
            stack.callback(os.close, memfd)
            listeners = launcher.Listeners(self._on_sync, on_created)
            launched = launcher.launch(memfd, kept, extra, listeners=listeners)
        launched.steps = steps
        return launched

    def _how(self, spec: ContainerSpec, streams: Streams, options: CreateOptions) -> plan.Launch:
        return plan.Launch(
            3 + len(streams.preserved),
            self.group.joins() if self.group else plan.Joins(),
            dies_with_parent=options.dies_with_parent,
            waits=True,
            seccomp=spec.process.seccomp is not None,
            trace=options.trace,
            rootless=self.runtime.rootless,
            keyring=f"_ses.{self.record.id}" if options.keyring else "",
        )

    def _on_sync(self, name: str, pid: int) -> bytes:
        import json

        if name == "maps":
            id_maps.write(pid, self.loaded.container, rootless=self.runtime.rootless)
            return b"mapped"
        state = hooks.state_document(replace(self.record, pid=pid), "creating")
        points: tuple[tuple[HookPoint, str], ...] = (("prestart", "created"), ("createRuntime", "creating"))
        for point, status in points:
            hooks.run(self.loaded.container.hooks.get(point, ()), {**state, "status": status})
        return json.dumps(state).encode()


def tell_plan(debug: Callable[[str], None] | None, steps: Sequence[Step]) -> None:
    """Tell somebody who wants to hear it what the launcher will do."""
    if debug is not None:
        for line in plan.describe(steps).splitlines():
            debug(line)


def extra_fds(group: Group | None, process: Process, stack: ExitStack) -> list[int]:
    """Return the first of `plan.Launch`'s fds: those of the cgroup, and the filter's. `stack` closes them."""
    extra = [*(stack.enter_context(group.join_fds()) if group else ())]
    if process.seccomp is not None:
        extra.append(launcher.sealed_memfd("seccomp", process.seccomp.program))
        stack.callback(os.close, extra[-1])
    return extra


def _after_failure(loaded: Config, record: Record, warn: Callable[[str], None]) -> None:
    hooks.run_all(loaded.container.hooks.get("poststop", ()), hooks.state_document(record, "stopped"), warn)


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
        annotations=loaded.container.annotations,
    )


def check_terminal(process: Process, streams: Streams) -> None:
    if process.terminal and streams.console_socket is None:
        raise ContainerError("terminal", 0, "process.terminal is true: use --console-socket to say where it goes")
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


# -- what a start needs and hands out ---------------------------------------------------------------------------------


def compiled(process: Process, loaded: Config, cache_dir: str | None) -> Process:
    """Return the process with the filter of its configuration. Raises ContainerError."""
    if loaded.seccomp is None:
        return process
    program = seccomp.compiled(loaded.seccomp, cache_dir)
    profile = loaded.seccomp
    filtered = Seccomp(program, seccomp.flags(profile), profile.listener_path, profile.listener_metadata)
    return replace(process, seccomp=filtered)


def granted(process: Process, warn: Callable[[str], None], *, all_: bool) -> Process:
    """Return the process with the capabilities that can be granted; what cannot must be warned of (config.md, "Linux").

    In a user namespace of its own a process can be granted `all_`.
    """
    if process.capabilities is None:
        return process
    own = (1 << len(CAPABILITIES)) - 1 if all_ else _permitted()
    grantable = {name for number, name in enumerate(CAPABILITIES) if own >> number & 1}
    sets = {name: getattr(process.capabilities, name) for name in field_names(Capabilities)}
    for name in sorted({name for names in sets.values() for name in names} - grantable):
        shown = f"CAP_{name.upper()}" if name in CAPABILITIES else ascii(name[:80])[1:-1]
        warn(f"process.capabilities: {shown} cannot be granted")
    kept = {key: tuple(name for name in names if name in grantable) for key, names in sets.items()}
    return replace(process, capabilities=Capabilities(**kept))


def _activation() -> tuple[str, ...]:
    """Return what tells a program of sockets that it was started with (sd_listen_fds(3)); its pid inside is 1."""
    told = [f"{name}={os.environ[name]}" for name in ("LISTEN_FDS", "LISTEN_FDNAMES") if name in os.environ]
    return (*told, "LISTEN_PID=1") if told else ()


def _permitted() -> int:
    """Return the mask of our own permitted set (proc(5), CapPrm)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))


def with_environment(given: Mapping[HookPoint, tuple[Hook, ...]]) -> dict[HookPoint, tuple[Hook, ...]]:
    """Return hooks of which those without an environment have the runtime's, as runc's and crun's have."""
    own = tuple(f"{name}={value}" for name, value in os.environ.items())
    return {point: tuple(replace(hook, env=hook.env or own) for hook in those) for point, those in given.items()}


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
        profile, listener = loaded.seccomp, launched.fds.pop("seccomp")
        path, metadata = (profile.listener_path, profile.listener_metadata) if profile else (None, "")
        send_listener(path, metadata, listener, state)
    write_pid_file(streams.pid_file, launched.pid)


def send_listener(path: str | None, metadata: str, fd: int, state: dict[str, object]) -> None:
    """Send the fd of a seccomp listener with the state (config-linux.md, "Seccomp"). Raises ContainerError."""
    import json

    message = {
        "ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": state.get("pid"), "metadata": metadata,
        "state": {**state, "status": "creating"},
    }  # fmt: skip
    try:
        if path is not None:
            send_fd(path, fd, json.dumps(message).encode())
    finally:
        os.close(fd)
