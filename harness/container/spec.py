"""What a container is, as frozen data: the union of what config.json, a command line and a backend can say.

It knows nothing of any of them, and of no kernel but Linux. Sizes are in bytes, times in ns where their names say so,
ids are those of the host unless a mapping is given. `plan.py` turns a ContainerSpec into the launcher's steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.container import syscalls
from harness.container.frozen import EMPTY, Frozen

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from dataclasses import KW_ONLY
    from typing import Literal, TypeAlias

NamespaceKind: TypeAlias = 'Literal["mount", "pid", "network", "uts", "ipc", "user", "cgroup", "time"]'

CLONE_FLAGS: Mapping[NamespaceKind, int] = {
    "user": syscalls.CLONE_NEWUSER,
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "network": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "time": syscalls.CLONE_NEWTIME,
}


class Namespace(Frozen):
    """A namespace that the container does not share with the host: a new one, or the one at `path`."""

    kind: NamespaceKind
    path: str | None = None


class IdMap(Frozen):
    """`size` ids from `inside` on are those from `outside` on (user_namespaces(7))."""

    inside: int
    outside: int
    size: int


# -- the root and what is mounted in it ------------------------------------------------------------------------------


class Overlay(Frozen):
    """A root of layers, the topmost first, with a writable one: on the workspace's tmpfs, or in `upper` and `work`."""

    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    volatile: bool = True


class Directory(Frozen):
    """A root that is there already."""

    path: str


class Detached(Frozen):
    """A mount that is nowhere yet, made by the caller: the fd under which the launcher has it (`Launch.fd_mounts`)."""

    fd: int


class Mount(Frozen):
    """One entry of `mounts`, its options already understood (`options.py`).

    `attrs` are the MOUNT_ATTR_* of mount_setattr(2) to set, `clear` those to clear, `recursive_attrs` and
    `recursive_clear` the same for the whole tree of a bind. `data` are the options of the file system itself.
    """

    destination: str
    type: str = "bind"
    source: str = ""
    bind: bool = False
    recursive: bool = False
    attrs: int = 0
    clear: int = 0
    recursive_attrs: int = 0
    recursive_clear: int = 0
    propagation: tuple[int, ...] = ()
    data: tuple[str, ...] = ()
    copy_up: bool = False
    uid_maps: tuple[IdMap, ...] = ()
    gid_maps: tuple[IdMap, ...] = ()
    idmap: Literal["", "idmap", "ridmap"] = ""


class Device(Frozen):
    """A device node to make. `kind` is `c` or `b` (`u` is `c`), or `p` for a FIFO."""

    path: str
    kind: Literal["c", "b", "p"]
    major: int = 0
    minor: int = 0
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


# -- the process -----------------------------------------------------------------------------------------------------


class Capabilities(Frozen):
    """The five sets of capabilities(7), each as names without `cap_`, in lower case."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Frozen):
    """One limit of getrlimit(2); `resource` is its number."""

    resource: int
    soft: int
    hard: int


class Seccomp(Frozen):
    """A compiled filter: the bytes of its `struct sock_filter`, the flags of seccomp(2), and where a listener goes."""

    program: bytes
    flags: int = 0
    listener_path: str | None = None
    listener_metadata: str = ""


class Process(Frozen):
    """What is executed, as whom, with what. None of `capabilities`: keep what there is (root's own)."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    umask: int | None = None
    capabilities: Capabilities | None = None
    no_new_privs: bool = False
    rlimits: tuple[Rlimit, ...] = ()
    oom_score_adj: int | None = None
    apparmor_profile: str | None = None
    selinux_label: str | None = None
    seccomp: Seccomp | None = None
    terminal: bool = False
    console_size: tuple[int, int] | None = None  # rows, columns
    nice: int | None = None
    io_priority: tuple[int, int] | None = None  # class, level
    scheduler: Mapping[str, int] | None = None  # fields of struct sched_attr
    cpu_affinity: tuple[int, ...] = ()


HookPoint: TypeAlias = (
    'Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]'
)


class Hook(Frozen):
    """A program of the host (or, for startContainer, of the container) that is told the state on its stdin."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout_s: int | None = None


class ContainerSpec(Frozen):
    """A container.

    `workspace` is a directory of the host that a tmpfs of `workspace_bytes`, seen by the container's own mounts alone,
    covers while the root is made; `workspace_mount` is the mount point that holds it. `attested` is a directory that an
    agent gets as a read-only tree, or a mount that is one.
    """

    root: Overlay | Directory | Detached
    process: Process
    workspace: str
    _: KW_ONLY
    workspace_bytes: int = 1 << 20
    workspace_mount: str = "/"
    namespaces: tuple[Namespace, ...] = ()
    uid_maps: tuple[IdMap, ...] = ()
    gid_maps: tuple[IdMap, ...] = ()
    hostname: str | None = None
    domainname: str | None = None
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    default_devices: bool = True
    links: tuple[tuple[str, str], ...] = ()
    """Symbolic links to make once all is mounted: what each holds, and where it is."""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    root_readonly: bool = False
    root_propagation: int = 0
    mount_label: str | None = None
    sysctl: tuple[tuple[str, str], ...] = ()
    time_offsets: tuple[tuple[str, int, int], ...] = ()  # clock, seconds, ns
    personality: int | None = None
    hooks: Mapping[HookPoint, tuple[Hook, ...]] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    attested: str | Detached | None = None

    def has(self, kind: NamespaceKind) -> bool:
        """Return whether the container has a namespace of this kind apart from the host's."""
        return any(namespace.kind == kind for namespace in self.namespaces)

    def has_new(self, kind: NamespaceKind) -> bool:
        """Return whether a namespace of this kind is made for it."""
        return any(namespace.kind == kind and namespace.path is None for namespace in self.namespaces)
