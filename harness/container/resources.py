"""What a container may use: `linux.resources` of the runtime specification, as frozen data.

None is "not said": the kernel's default stays. Sizes in bytes, CPU times in µs as in the specification and the kernel's
files. `cgroups.py` knows which files of cgroup v1 or v2 take them.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.container.frozen import EMPTY, Frozen

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import Literal


class Memory(Frozen):
    """`linux.resources.memory`; -1 is "unlimited". `swap_bytes` is memory and swap together, as specified."""

    limit_bytes: int | None = None
    reservation_bytes: int | None = None
    swap_bytes: int | None = None
    kernel_tcp_bytes: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool = False


class Cpu(Frozen):
    """`linux.resources.cpu`."""

    shares: int | None = None
    quota_us: int | None = None
    burst_us: int | None = None
    period_us: int | None = None
    realtime_runtime_us: int | None = None
    realtime_period_us: int | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: int | None = None


class DeviceRule(Frozen):
    """One line of `linux.resources.devices`; None is "all"."""

    allow: bool
    kind: Literal["a", "b", "c"] = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class Throttle(Frozen):
    """A limit of one block device, in bytes or operations a second."""

    major: int
    minor: int
    rate_per_s: int


class WeightDevice(Frozen):
    """The weight of one block device."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class BlockIo(Frozen):
    """`linux.resources.blockIO`."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_devices: tuple[WeightDevice, ...] = ()
    read_bytes: tuple[Throttle, ...] = ()
    write_bytes: tuple[Throttle, ...] = ()
    read_operations: tuple[Throttle, ...] = ()
    write_operations: tuple[Throttle, ...] = ()


class RdmaLimit(Frozen):
    """`linux.resources.rdma` of one device."""

    handles: int | None = None
    objects: int | None = None


class Resources(Frozen):
    """All of `linux.resources`. Of `devices` the last rule that fits a device decides; without any all are allowed.

    `unified` are files of cgroup v2 by name, written last and as they are.
    """

    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    pids_limit: int | None = None
    devices: tuple[DeviceRule, ...] = ()
    block_io: BlockIo = BlockIo()
    hugepage_limits: tuple[tuple[str, int], ...] = ()  # page size ("2MB"), bytes
    network_class_id: int | None = None
    network_priorities: tuple[tuple[str, int], ...] = ()
    rdma: Mapping[str, RdmaLimit] = EMPTY
    unified: Mapping[str, str] = EMPTY


_NODES: tuple[Literal["c"], Literal["b"]] = ("c", "b")
ALLOWED_DEVICE_RULES = (
    *(DeviceRule(allow=True, kind=kind, access="m") for kind in _NODES),
    # null, zero, full, random, urandom, tty, ptmx, those of /dev/pts, and net/tun
    *(
        DeviceRule(allow=True, kind="c", major=major, minor=minor)
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None), (10, 200))
    ),
)
"""What every container may do with devices: make any node, use those that are harmless.

The rules that runc appends to those of a config.json (libcontainer/specconv/spec_linux.go, AllowedDevices).
"""

DEFAULT_DEVICE_RULES = (DeviceRule(allow=False), *ALLOWED_DEVICE_RULES)
"""The rules where nobody gives any. Docker allows the system's console (5:1) too; here the console is a pty."""
