"""Which files of cgroup v1 or v2 hold a container's resources: pure, in an order that the kernel accepts.

What this host has no controller for is an error that names both, unless it asks for "no limit". A field of 0 that
means "not said" in other runtimes (memory, cpu, weights) means it here too. Fields that cgroup v2 has no file for
(swappiness, disableOOMKiller, kernelTCP, realtime, leafWeight) are errors there, as in crun; runc leaves them out.

Source: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel; config-linux.md of the specification.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.container import cgroup_io_files, device_rules
from harness.container.cgroup_layout import Layout
from harness.container.cgroup_write import NO_LIMIT, Current, Version, Write, only_v1, version_of
from harness.container.errors import ContainerError
from harness.container.resources import Cpu, DeviceRule, Memory, Resources

_HUGE = 1 << 63  # from here on a limit is none: a page counter holds 63 bits
_CORE = frozenset("procs threads kill freeze type subtree_control controllers events stat pressure".split())


def writes(resources: Resources, layout: Layout, now: Current | None = None) -> tuple[Write, ...]:
    """Return what to write for a new group (None) or a live one, in order. Device rules of cgroup v2 are a program.

    Raises ContainerError for what this host cannot limit and for values that mean nothing.
    """
    return (
        *_cpuset(resources.cpu, layout),
        *_cpu(resources.cpu, layout, now),
        *_memory(resources.memory, layout, now),
        *_pids(resources.pids_limit, layout),
        *cgroup_io_files.writes(resources.block_io, layout),
        *_hugetlb(resources.hugepage_limits, layout),
        *_network(resources, layout),
        *_rdma(resources, layout),
        *_devices(resources.devices, layout, now),
        *_unified(resources, layout),
    )


def controllers(resources: Resources, layout: Layout) -> frozenset[str]:
    """Return the controllers that the resources need in the cgroup2 tree."""
    unified = layout.unified
    names = {write.controller for write in writes(resources, layout)}
    return frozenset() if unified is None else unified.controllers & names


# -- cpu -------------------------------------------------------------------------------------------------------------


def _cpuset(cpu: Cpu, layout: Layout) -> Iterator[Write]:
    for name, value in (("cpus", cpu.cpus), ("mems", cpu.mems)):
        if value and version_of(layout, "cpuset", [(f"cpu.{name}", True)]):
            yield Write("cpuset", f"cpuset.{name}", value, f"cpu.{name}")


def cpu_weight(shares: int) -> int:
    """Return the cpu.weight (1..10000) of cpu.shares (2..262144): least, default (1024, 100) and most are kept.

    Source: crun(1), "CPU controller", and opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value, both since 2025;
    the linear formula before made 39 of the default.
    """
    bounded = min(max(shares, 2), 1 << 18)
    log = math.log2(bounded)
    exponent = (log * log + 125 * log) / 612 - 7 / 34
    # Rounded first: 10 ** 2.0000000000000004 is a default of 101.
    return math.ceil(round(10**exponent, 6))


def _cpu(cpu: Cpu, layout: Layout, now: Current | None) -> Iterator[Write]:
    asked = [
        ("cpu.shares", cpu.shares), ("cpu.quota", cpu.quota_us), ("cpu.burst", cpu.burst_us), ("cpu.idle", cpu.idle),
        ("cpu.realtimeRuntime", cpu.realtime_runtime_us), ("cpu.realtimePeriod", cpu.realtime_period_us),
    ]  # fmt: skip
    version = version_of(layout, "cpu", [(name, value not in NO_LIMIT) for name, value in asked])
    if version is None:
        return
    # A group that is idle refuses shares: set them before it becomes so, and after it was (sched/core.c).
    idle = [] if cpu.idle is None else [Write("cpu", "cpu.idle", str(cpu.idle), "cpu.idle")]
    yield from idle if cpu.idle == 0 else []
    if cpu.shares:
        file, value = ("cpu.shares", cpu.shares) if version == 1 else ("cpu.weight", cpu_weight(cpu.shares))
        yield Write("cpu", file, str(value), "cpu.shares")
    yield from _bandwidth_v1(cpu, live=now is not None) if version == 1 else _bandwidth_v2(cpu, now)
    yield from idle if cpu.idle != 0 else []
    yield from _realtime(cpu, version)


def _bandwidth_v1(cpu: Cpu, *, live: bool) -> Iterator[Write]:
    """A burst may not exceed the quota, and a new period with the old quota might exceed the parent's share."""
    if live and cpu.burst_us is not None:
        yield Write("cpu", "cpu.cfs_burst_us", "0", "cpu.burst", optional=cpu.burst_us == 0)
    if live and cpu.quota_us and cpu.period_us:
        yield Write("cpu", "cpu.cfs_quota_us", "-1", "cpu.quota")
    if cpu.period_us:
        yield Write("cpu", "cpu.cfs_period_us", str(cpu.period_us), "cpu.period")
    if cpu.quota_us:
        yield Write("cpu", "cpu.cfs_quota_us", str(cpu.quota_us), "cpu.quota")
    if cpu.burst_us is not None:
        yield Write("cpu", "cpu.cfs_burst_us", str(cpu.burst_us), "cpu.burst", optional=cpu.burst_us == 0)


def _bandwidth_v2(cpu: Cpu, now: Current | None) -> Iterator[Write]:
    """A quota alone keeps the period (kernel: cpu_period_quota_parse); a period needs the quota with it."""
    if now is not None and cpu.burst_us is not None:
        yield Write("cpu", "cpu.max.burst", "0", "cpu.burst", optional=cpu.burst_us == 0)
    if cpu.quota_us or cpu.period_us:
        quota = "max" if cpu.quota_us == -1 else str(cpu.quota_us) if cpu.quota_us else now.quota if now else "max"
        value = f"{quota} {cpu.period_us}" if cpu.period_us else quota
        yield Write("cpu", "cpu.max", value, "cpu.quota" if cpu.quota_us else "cpu.period")
    if cpu.burst_us is not None:
        yield Write("cpu", "cpu.max.burst", str(cpu.burst_us), "cpu.burst", optional=cpu.burst_us == 0)


def _realtime(cpu: Cpu, version: Version) -> Iterator[Write]:
    for file, name, value in (
        ("cpu.rt_period_us", "cpu.realtimePeriod", cpu.realtime_period_us),
        ("cpu.rt_runtime_us", "cpu.realtimeRuntime", cpu.realtime_runtime_us),
    ):
        if value and version == 2:
            raise only_v1(name)
        if value:
            yield Write("cpu", file, str(value), name)


# -- memory ----------------------------------------------------------------------------------------------------------


def _memory(memory: Memory, layout: Layout, now: Current | None) -> Iterator[Write]:
    asked: list[tuple[str, bool]] = [
        ("memory.limit", memory.limit_bytes not in NO_LIMIT),
        ("memory.reservation", memory.reservation_bytes not in NO_LIMIT),
        ("memory.swap", memory.swap_bytes not in NO_LIMIT),
        ("memory.kernelTCP", memory.kernel_tcp_bytes not in NO_LIMIT),
        ("memory.swappiness", memory.swappiness is not None),
        ("memory.disableOOMKiller", bool(memory.disable_oom_killer)),
        ("memory.useHierarchy", memory.use_hierarchy is False),
    ]
    _check_memory(memory)
    match version_of(layout, "memory", asked):
        case 1:
            yield from _memory_v1(memory, now)
        case 2:
            yield from _memory_v2(memory)
        case None:
            pass


def _check_memory(memory: Memory) -> None:
    limit, swap = memory.limit_bytes, memory.swap_bytes
    for name, value in (("limit", limit), ("swap", swap), ("reservation", memory.reservation_bytes)):
        if value is not None and value < -1:
            raise ContainerError("cgroup", 0, f"memory.{name}: {value}: less than -1 (no limit)")
    if swap not in NO_LIMIT:
        if limit in {None, 0}:
            raise ContainerError("cgroup", 0, "memory.swap: it is memory and swap together, and needs memory.limit")
        if limit != -1 and (swap or 0) < (limit or 0):
            raise ContainerError("cgroup", 0, f"memory.swap: {swap}: less than memory.limit, {limit}")
    if memory.swappiness is not None and not 0 <= memory.swappiness <= 100:
        raise ContainerError("cgroup", 0, f"memory.swappiness: {memory.swappiness}: not between 0 and 100")


def _memory_v1(memory: Memory, now: Current | None) -> Iterator[Write]:
    limit, swap = memory.limit_bytes or None, memory.swap_bytes or None
    if limit == -1 and swap is not None and swap != -1:
        raise ContainerError(
            "cgroup", 0, "memory.swap: cgroup v1 limits memory and swap together only with memory.limit"
        )
    if limit == -1 and swap is None:
        swap = -1  # memory and swap together could not stay below memory alone
    pair = []
    if limit is not None:
        pair.append(Write("memory", "memory.limit_in_bytes", str(limit), "memory.limit"))
    if swap is not None:
        pair.append(Write("memory", "memory.memsw.limit_in_bytes", str(swap), "memory.swap", optional=swap == -1))
    # The kernel refuses a moment in which the limit of both is less than that of memory.
    yield from reversed(pair) if now is not None and _above(limit, now.memsw_bytes) else pair
    yield from _plain_memory_v1(memory)


def _above(limit: int | None, memsw: int | None) -> bool:
    if limit is None or memsw is None or memsw == -1:
        return False
    return limit == -1 or limit > memsw


def _plain_memory_v1(memory: Memory) -> Iterator[Write]:
    if memory.reservation_bytes:
        yield Write("memory", "memory.soft_limit_in_bytes", str(memory.reservation_bytes), "memory.reservation")
    if memory.kernel_tcp_bytes:
        yield Write("memory", "memory.kmem.tcp.limit_in_bytes", str(memory.kernel_tcp_bytes), "memory.kernelTCP")
    if memory.swappiness is not None:
        yield Write("memory", "memory.swappiness", str(memory.swappiness), "memory.swappiness")
    if memory.disable_oom_killer is not None:
        value = str(int(memory.disable_oom_killer))
        yield Write("memory", "memory.oom_control", value, "memory.disableOOMKiller")
    if memory.use_hierarchy is not None:
        value = str(int(memory.use_hierarchy))
        yield Write("memory", "memory.use_hierarchy", value, "memory.useHierarchy", optional=memory.use_hierarchy)


def _memory_v2(memory: Memory) -> Iterator[Write]:
    refused = {
        "kernelTCP": memory.kernel_tcp_bytes not in NO_LIMIT,
        "swappiness": memory.swappiness is not None,
        "disableOOMKiller": bool(memory.disable_oom_killer),
        "useHierarchy": memory.use_hierarchy is False,
    }
    for name, wanted in refused.items():
        if wanted:
            raise only_v1(f"memory.{name}")
    limit, swap = memory.limit_bytes or None, memory.swap_bytes or None
    if swap is not None or limit == -1:
        alone = -1 if swap is None or swap == -1 else swap - max(limit or 0, 0)
        # The file is absent where the kernel has no swap: then there is none to refuse.
        value = "max" if alone == -1 else str(alone)
        yield Write("memory", "memory.swap.max", value, "memory.swap", optional=alone in {-1, 0})
    if limit is not None:
        yield Write("memory", "memory.max", "max" if limit == -1 else str(limit), "memory.limit")
    if memory.reservation_bytes:
        # No soft limit on v1 is no protection on v2; "max" would protect all of it.
        yield Write("memory", "memory.low", str(max(memory.reservation_bytes, 0)), "memory.reservation")


# -- pids, pages, network --------------------------------------------------------------------------------------------


def _pids(limit: int | None, layout: Layout) -> Iterator[Write]:
    if limit is not None and version_of(layout, "pids", [("pids.limit", limit > 0)]):
        yield Write("pids", "pids.max", str(limit) if limit > 0 else "max", "pids.limit")


def _hugetlb(limits: Sequence[tuple[str, int]], layout: Layout) -> Iterator[Write]:
    for size, limit_bytes in limits:
        resource = f"hugepageLimits: {size}"
        if size[-2:] not in {"KB", "MB", "GB"} or not size[:-2].isdecimal():
            raise ContainerError("cgroup", 0, f"{resource}: not a page size such as 2MB")
        none = not 0 <= limit_bytes < _HUGE
        version = version_of(layout, "hugetlb", [(resource, not none)])
        if version is None:
            continue
        name, unlimited = ("limit_in_bytes", "-1") if version == 1 else ("max", "max")
        value = unlimited if none else str(limit_bytes)
        yield Write("hugetlb", f"hugetlb.{size}.{name}", value, resource)
        # Linux 5.7: pages that are reserved are counted apart, and a reservation without a limit may starve others.
        yield Write("hugetlb", f"hugetlb.{size}.rsvd.{name}", value, resource, optional=True)


def _network(resources: Resources, layout: Layout) -> Iterator[Write]:
    if resources.network_class_id is not None:
        wanted = resources.network_class_id != 0
        if version_of(layout, "net_cls", [("network.classID", wanted)]):
            yield Write("net_cls", "net_cls.classid", str(resources.network_class_id), "network.classID")
    for name, priority in resources.network_priorities:
        if version_of(layout, "net_prio", [(f"network.priorities: {name}", True)]):
            yield Write("net_prio", "net_prio.ifpriomap", f"{name} {priority}", f"network.priorities: {name}")


def _rdma(resources: Resources, layout: Layout) -> Iterator[Write]:
    for device, limit in resources.rdma.items():
        words = [
            f"{name}={value}"
            for name, value in (("hca_handle", limit.handles), ("hca_object", limit.objects))
            if value is not None
        ]
        if words and version_of(layout, "rdma", [(f"rdma: {device}", True)]):
            yield Write("rdma", "rdma.max", " ".join((device, *words)), f"rdma: {device}")


# -- devices, and files by name --------------------------------------------------------------------------------------


def _devices(rules: Sequence[DeviceRule], layout: Layout, now: Current | None) -> Iterator[Write]:
    """Only for cgroup v1. A live list is changed line by line, so that no allowed device is refused for a moment."""
    if not rules:
        return
    tree = layout.of("devices")
    if tree is None:
        if layout.unified is None:
            raise ContainerError("cgroup", 0, "devices: this host has no devices controller and no cgroup2 tree")
        device_rules.effective(rules)  # wrong ones are refused now, not when the program is made
        return
    wanted = device_rules.policy(rules)
    exceptions = {device_rules.line(key): frozenset(access) for key, access in wanted.exceptions}
    grant, refuse = ("devices.deny", "devices.allow") if wanted.allow else ("devices.allow", "devices.deny")
    had = _listed(now)
    if had is None or wanted.allow:
        yield Write("devices", refuse, "a", "devices")
        had = {}
    for file, these, those in ((grant, exceptions, had), (refuse, had, exceptions)):
        for line, access in these.items():
            if more := access - those.get(line, frozenset()):
                yield Write(
                    "devices", file, f"{line} {''.join(c for c in device_rules.ACCESS if c in more)}", "devices"
                )


def _listed(now: Current | None) -> dict[str, frozenset[str]] | None:
    """Return the exceptions of a live list; None in a new group and in one that allows the rest: it lists none."""
    if now is None or any(line.startswith("a") for line in now.devices):
        return None
    lines = (line.rpartition(" ") for line in sorted(now.devices))
    return {device: frozenset(access) for device, _, access in lines}


def _unified(resources: Resources, layout: Layout) -> Iterator[Write]:
    for name, value in resources.unified.items():
        resource = f"unified: {name}"
        controller, _, rest = name.partition(".")
        if not controller or not rest or "/" in name or "\0" in name:
            raise ContainerError("cgroup", 0, f"{resource}: not a file of cgroup v2")
        if controller == "cgroup" and rest in _CORE:
            raise ContainerError("cgroup", 0, f"{resource}: is the runtime's own, not a resource")
        if layout.unified is None or controller not in layout.unified.controllers | {"cgroup"}:
            raise ContainerError("cgroup", 0, f"{resource}: this host has no {controller} controller in a cgroup2 tree")
        for line in value.splitlines() or [value]:  # io.max and others take one line a write
            yield Write(controller, name, line, resource)
