"""What a container gets unless it is said otherwise: the lists that Docker's containers have, with their sources."""

from __future__ import annotations

from harness.container import syscalls
from harness.container.spec import Device, Mount, Namespace

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

# Source: Documentation/admin-guide/devices.txt of the kernel; the runtime specification names the same.
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEVICE_NODES = tuple(Device(f"/dev/{name}", "c", major, minor) for name, major, minor in DEVICES)
DEVICE_LINKS = (
    ("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout"), ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)  # fmt: skip

NAMESPACES = tuple(Namespace(kind) for kind in ("mount", "pid", "uts", "ipc", "network", "cgroup"))

_QUIET = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC


def mounts(shm_bytes: int = 64 << 20) -> tuple[Mount, ...]:
    """Return /proc, /sys (read-only) and a /dev of the container's own, `nodev`: its nodes are bound one by one.

    So what CAP_MKNOD makes there, or anywhere, cannot be opened, without a device cgroup or an eBPF program.
    """
    pts = ("newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    no_exec = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
    return (
        Mount("/proc", "proc", "proc", attrs=_QUIET),
        Mount("/sys", "sysfs", "sysfs", attrs=_QUIET | syscalls.MOUNT_ATTR_RDONLY),
        Mount("/dev", "tmpfs", "tmpfs", attrs=_QUIET & ~syscalls.MOUNT_ATTR_NOEXEC, data=("mode=0755", "size=64k")),
        Mount("/dev/pts", "devpts", "devpts", attrs=no_exec, data=pts),
        Mount("/dev/shm", "tmpfs", "shm", attrs=_QUIET, data=("mode=1777", f"size={shm_bytes}")),
        Mount("/dev/mqueue", "mqueue", "mqueue", attrs=_QUIET),
    )
