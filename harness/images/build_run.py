"""RUN: one command in a container of the built-in runtime, its root an overlay over the layers so far.

The container has Docker's default capabilities and seccomp filter, mounts, pids, ipc and host name of its own, and no
cgroup: it ends with this process, whatever ends that, and nothing of it is ever seen on the host. What the container
needs and no image shall hold (/proc, /dev, /etc/resolv.conf ...) is mounted over a layer of stubs, so the writable
layer gets nothing but what the command itself wrote.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.container import defaults, launcher, plan, seccomp, seccomp_default, syscalls
from harness.container.spec import Capabilities, ContainerSpec, Mount, Namespace, Overlay, Process, Seccomp
from harness.errors import BuildError, CapabilityError
from harness.host.paths import cache_dir
from harness.images.build_steps import Run
from harness.images.confine import Names
from harness.images.merged import Merged
from harness.images.users import resolve_in

_HOSTNAME = "build"
_BLOCK_BYTES = 1 << 16
_KILLED = 128
_HOSTS = f"127.0.0.1\tlocalhost {_HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n"


class RunFailed(BuildError):
    """A RUN that ended with another code than 0; `tail` are the last lines that it wrote."""

    def __init__(self, message: str, tail: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tail = tuple(tail)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a RUN happens. `scratch` is an empty directory of its own; `layers` are directories, lowest first."""

    scratch: Path
    layers: tuple[Path, ...]
    mounts: tuple[Mount, ...] = ()
    """Those of `--mount`."""

    @property
    def upper(self) -> Path:
        """What the command writes."""
        return self.scratch / "upper"

    @property
    def stubs(self) -> Path:
        """The topmost of the layers below: places for mounts."""
        return self.scratch / "stubs"


def run(action: Run, place: Place, output: Callable[[str], None]) -> int:
    """Run a command and return its exit code, 128 + n after signal n; what it wrote to files is in `place.upper`.

    `output` gets each line of its stdout and stderr. Raises: CapabilityError, UsageError for an unknown user,
    ContainerError for what could not be started.
    """
    if os.geteuid() != 0:
        raise CapabilityError("RUN: root: not root", hint="run as root: the overlay and the owners of files need it")
    tree = Merged(place.layers)
    mounts = (*defaults.mounts(), *_files(action, place), *place.mounts)
    _make_writable_layer(place, tree)
    _make_stubs(place.stubs, tree, mounts)
    profile = seccomp_default.default_profile(defaults.DOCKER_CAPABILITIES)
    spec = _spec(action, place, tree, mounts, Seccomp(b"", seccomp.flags(profile)))
    with ExitStack() as stack:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, reader)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        try:
            pid = _launch(spec, profile, (null, writer, writer))
        finally:
            os.close(writer)
        return _attend(pid, reader, output)


def _launch(spec: ContainerSpec, profile: seccomp.Profile, streams: tuple[int, int, int]) -> int:
    how = plan.Launch(3, dies_with_parent=True, seccomp=True, keyring=f"_ses.{_HOSTNAME}")
    with ExitStack() as stack:
        steps = launcher.plan_memfd(plan.container_steps(spec, how))
        stack.callback(os.close, steps)
        program = launcher.sealed_memfd("seccomp", seccomp.compiled(profile, str(cache_dir() / "seccomp")))
        stack.callback(os.close, program)
        return launcher.launch(steps, streams, [program]).pid


def _attend(pid: int, reader: int, output: Callable[[str], None]) -> int:
    """Pass on what it writes until it ends; a process that it left behind ends with it."""
    pidfd = os.pidfd_open(pid)
    try:
        pending = _relay(pidfd, reader, output)
        if pending:
            output(pending.decode("utf-8", "replace"))
        _, status = os.waitpid(pid, 0)
    except BaseException:  # Ctrl-C: with the first process of its pid namespace everything in it ends
        launcher.end_child(pid)
        raise
    finally:
        os.close(pidfd)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _KILLED - code


def _relay(pidfd: int, reader: int, output: Callable[[str], None]) -> bytes:
    """Return what it wrote after the last end of a line."""
    poll, pending = select.poll(), b""
    poll.register(reader, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        data = os.read(reader, _BLOCK_BYTES) if reader in ready else b""
        if not data:
            if pidfd in ready:
                return pending
            if reader in ready:  # it closed its streams and goes on
                poll.unregister(reader)
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            output(line.rpartition(b"\r")[2].decode("utf-8", "replace") or line.decode("utf-8", "replace"))


# -- what the container is -------------------------------------------------------------------------------------------


def _spec(action: Run, place: Place, tree: Merged, mounts: tuple[Mount, ...], filter_: Seccomp) -> ContainerSpec:
    names = defaults.DOCKER_CAPABILITIES
    user = resolve_in(tree, action.user)
    env: Mapping[str, str] = {**action.untold, "HOME": user.home, **action.env}
    process = Process(
        action.argv, tuple(f"{name}={value}" for name, value in env.items()), action.workdir, user.uid, user.gid,
        user.groups, capabilities=Capabilities(names, names, names), seccomp=filter_,
    )  # fmt: skip
    lowers = (str(place.stubs), *(str(path) for path in reversed(place.layers)))
    kinds = ("mount", "pid", "uts", "ipc", "cgroup", *(("network",) if action.network == "none" else ()))
    workspace = place.scratch / "workspace"
    workspace.mkdir()
    return ContainerSpec(
        Overlay(lowers, str(place.upper), str(place.scratch / "work")), process, str(workspace),
        namespaces=tuple(Namespace(kind) for kind in kinds), hostname=_HOSTNAME, mounts=mounts,
        masked_paths=defaults.MASKED_PATHS, readonly_paths=defaults.READONLY_PATHS,
    )  # fmt: skip


def _files(action: Run, place: Place) -> tuple[Mount, ...]:
    """Return the binds of /etc/hosts, /etc/resolv.conf and of a script, which are written into `place.scratch`."""
    contents = {"/etc/hosts": _HOSTS.encode()}
    if action.network == "host":
        try:
            contents["/etc/resolv.conf"] = Path("/etc/resolv.conf").read_bytes()
        except OSError:
            contents["/etc/resolv.conf"] = b""
    made = []
    for path, content in contents.items():
        made.append(_file(place.scratch / Path(path).name, path, content, 0o644))
    if action.script is not None:
        made.append(_file(place.scratch / "script", f"/dev/pipes/{action.script.name}", action.script.content, 0o755))
    return tuple(made)


def _file(path: Path, target: str, content: bytes, mode: int) -> Mount:
    path.write_bytes(content)
    path.chmod(mode)
    attrs = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID
    return Mount(target, "bind", str(path), bind=True, attrs=attrs)


# -- the writable layer and the stubs --------------------------------------------------------------------------------


def _make_writable_layer(place: Place, tree: Merged) -> None:
    place.upper.mkdir()
    (place.scratch / "work").mkdir()
    if tree.places(()):
        _take_after(place.upper, os.fsdecode(tree.places(())[0]))
    else:
        place.upper.chmod(0o755)


def _make_stubs(stubs: Path, tree: Merged, mounts: Sequence[Mount]) -> None:
    """Make a layer with a place for every mount that has none in the image; the directories above look as they did."""
    stubs.mkdir(mode=0o755)
    made: dict[Names, Path] = {(): stubs}
    for mount in mounts:
        names = tree.canonical(os.fsencode(mount.destination))
        if mount.destination.startswith("/dev/") or tree.status(names) is not None:
            continue  # below a mount of its own, or there already
        is_file = mount.bind and Path(mount.source).is_file()
        for depth in range(1, len(names) + 1):
            path = stubs / os.fsdecode(b"/".join(names[:depth]))
            if is_file and depth == len(names):
                path.touch(mode=0o644)
            elif names[:depth] not in made:
                path.mkdir(mode=0o755)
                made[names[:depth]] = path
    for names in sorted(made, key=len, reverse=True):  # inner ones first: what is made in a directory changes its time
        if places := tree.places(names):
            _take_after(made[names], os.fsdecode(places[0]))


def _take_after(path: Path, model: str) -> None:
    """Give a directory the owner, mode, time and attributes of another."""
    status = Path(model).stat()
    os.chown(path, status.st_uid, status.st_gid)
    path.chmod(stat.S_IMODE(status.st_mode))
    for name in os.listxattr(model):
        if not name.startswith("trusted.overlay."):
            os.setxattr(path, name, os.getxattr(model, name))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
