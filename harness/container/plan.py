"""What a container is, and the steps in which the launcher makes it. Pure: nothing here touches the system.

A plan is a sequence of steps; `encode` writes it as the launcher reads it (`src/main.c` lists name and arity of each
step), `describe` as a person does. The steps of a container, in order, each with its reason, are `container_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.container import syscalls
from harness.container.errors import ContainerError

FD_CGROUP = 9
"""The first of the cgroup fds: those of v1 `tasks` files, then the directory of the cgroup2 group if there is one."""

# Bit numbers of include/uapi/linux/capability.h.
CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin "
    "sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override "
    "mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()

# Source: moby, daemon/pkg/oci/caps/defaults.go.
DOCKER_CAPABILITIES = (
    "chown", "dac_override", "fsetid", "fowner", "mknod", "net_raw", "setgid", "setuid", "setfcap", "setpcap",
    "net_bind_service", "sys_chroot", "kill", "audit_write",
)  # fmt: skip

# Source: moby, daemon/pkg/oci/defaults.go (2025); /proc/interrupts and powercap let a neighbour be watched.
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
    "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Source: Documentation/admin-guide/devices.txt of the kernel.
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEVICE_LINKS = (
    ("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout"), ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)  # fmt: skip

_MIB = 1 << 20
_NAMESPACES = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWNET
)
_QUIET = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the launcher does; `args` as strings, since that is how they travel."""

    name: str
    args: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.name, *(arg or "''" for arg in self.args)))


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the host at a path inside; missing targets are made in the writable layer."""

    source: str
    destination: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Joins:
    """How the process gets into its cgroup: the number of v1 `tasks` fds, and whether a cgroup2 directory follows."""

    tasks: int = 0
    unified: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container. Sizes in bytes.

    `lowers` are directories, the topmost first; `workspace` is a directory of the host that the private tmpfs covers;
    `attested` the directory that the agent gets as fd 6; `rlimits` are (resource, soft, hard).
    """

    lowers: tuple[str, ...]
    attested: str
    workspace: str
    upper_bytes: int
    hostname: str = "container"
    shm_bytes: int = 64 * _MIB
    capabilities: tuple[str, ...] = DOCKER_CAPABILITIES
    no_new_privs: bool = True
    masked: tuple[str, ...] = MASKED_PATHS
    read_only: tuple[str, ...] = READONLY_PATHS
    binds: tuple[Bind, ...] = ()
    rlimits: tuple[tuple[int, int, int], ...] = ()
    joins: Joins = Joins()


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process of the host in another root: no namespaces, no loss of privileges. `root` is mounted by the caller."""

    root: str
    attested: str
    joins: Joins = Joins()


def capability_mask(names: Sequence[str]) -> int:
    """Return the bits of capability names. Raises ContainerError for an unknown one."""
    unknown = [name for name in names if name not in CAPABILITIES]
    if unknown:
        raise ContainerError("plan", 0, f"capabilities: {unknown[0]}: unknown")
    return sum(1 << CAPABILITIES.index(name) for name in set(names))


def _inside(path: str) -> str:
    """Return an absolute path of the container relative to its root. Raises ContainerError for `..` and the root."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not path.startswith("/") or ".." in parts or not parts:
        raise ContainerError("plan", 0, f"{path}: not a plain absolute path below /")
    return "/".join(parts)


def _entry(joins: Joins, namespaces: int) -> list[Step]:
    """Become a child of the harness, in the cgroup and in a session of its own, that dies with the harness.

    Supplementary groups go first of all: their end needs a privilege, and PR_SET_PDEATHSIG comes after credentials.
    """
    unified = str(FD_CGROUP + joins.tasks) if joins.unified else "-1"
    return [
        Step("clone", (hex(namespaces), unified)),
        *(Step("join", (str(FD_CGROUP + number),)) for number in range(joins.tasks)),
        Step("session"),
        Step("groups"),
        Step("parent-death"),
    ]


def _mount(fs_type: str, path: str, flags: int, options: str = "") -> Step:
    return Step("mount", (fs_type, _inside(path), hex(flags), options))


def _dev(shm_bytes: int) -> list[Step]:
    """/dev of our own: what the image has there is hidden, and nothing of the image is opened as a device."""
    return [
        _mount("tmpfs", "/dev", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755,size=64k"),
        *(Step("device", (name, str(major), str(minor))) for name, major, minor in DEVICES),
        *(Step("link", (content, f"dev/{name}")) for content, name in DEVICE_LINKS),
        _mount(
            "devpts",
            "/dev/pts",
            syscalls.MS_NOSUID | syscalls.MS_NOEXEC,
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        _mount("tmpfs", "/dev/shm", _QUIET, f"mode=1777,size={shm_bytes}"),
        _mount("mqueue", "/dev/mqueue", _QUIET),
    ]


def _root(spec: ContainerSpec) -> list[Step]:
    return [
        Step("private"),
        Step("tree", (spec.attested,)),
        *(Step("lower", (path,)) for path in spec.lowers),
        Step("workspace", (spec.workspace, str(spec.upper_bytes))),
        Step("overlay"),
        _mount("proc", "/proc", _QUIET),
        _mount("sysfs", "/sys", _QUIET | syscalls.MS_RDONLY),
        *_dev(spec.shm_bytes),
        *(Step("readonly", (_inside(path),)) for path in spec.read_only),
        *(Step("mask", (_inside(path),)) for path in spec.masked),
        *(
            Step("bind", (bind.source, _inside(bind.destination), "ro" if bind.read_only else "rw"))
            for bind in spec.binds
        ),
    ]


def container_steps(spec: ContainerSpec) -> tuple[Step, ...]:
    """Return the steps that make a container. Raises ContainerError for what cannot be one."""
    if not spec.lowers:
        raise ContainerError("plan", 0, "lowers: at least one directory is needed")
    return (
        *_entry(spec.joins, _NAMESPACES),
        # After joining, so that the cgroup's root inside is the container's own group.
        Step("unshare", (hex(syscalls.CLONE_NEWCGROUP),)),
        *_root(spec),
        Step("loopback"),
        Step("hostname", (spec.hostname,)),
        Step("pivot"),
        *(Step("rlimit", tuple(map(str, limit))) for limit in spec.rlimits),
        Step("umask", ("022",)),
        Step("capabilities", (hex(capability_mask(spec.capabilities)),)),
        *([Step("no-new-privs")] if spec.no_new_privs else []),
        # Again: a change of credentials may clear it (prctl(2)).
        Step("parent-death"),
        Step("exec"),
    )


def process_steps(spec: ProcessSpec) -> tuple[Step, ...]:
    """Return the steps of the control: the same launcher, cgroup, tree and agent, without a container around them."""
    return (
        *_entry(spec.joins, 0),
        Step("tree", (spec.attested,)),
        Step("chroot", (spec.root,)),
        Step("umask", ("022",)),
        Step("exec"),
    )


def encode(steps: Sequence[Step]) -> bytes:
    """Return the plan as the launcher reads it: strings, each with its NUL. Raises ContainerError for a NUL inside."""
    words = [word for step in steps for word in (step.name, *step.args)]
    for word in words:
        if "\0" in word:
            raise ContainerError("plan", 0, f"{word!r}: contains a NUL byte")
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)


def describe(steps: Sequence[Step]) -> str:
    """Return one numbered line for each step; the launcher's errors name the same numbers."""
    return "\n".join(f"{index:3} {step}" for index, step in enumerate(steps))
