"""`linux.resources` of a config.json; also the whole document of `update --resources`.

As other runtimes take it, 0 is "not said" where no container could live with none of it (memory, CPU time, processes).
"""

from __future__ import annotations

from harness.container._fields import INT64, UINT32, UINT64, Fields, shown
from harness.container.resources import (
    BlockIo,
    Cpu,
    DeviceRule,
    Memory,
    RdmaLimit,
    Resources,
    Throttle,
    WeightDevice,
)

MAX_MAJOR = (1 << 12) - 1
MAX_MINOR = (1 << 20) - 1
"""Device numbers of the kernel have 12 and 20 bits (include/linux/kdev_t.h)."""


def _memory(fields: Fields) -> Memory:
    for key in ("kernel", "kernelTCP"):
        fields.number(key, -1, INT64)
    memory = Memory(
        limit_bytes=fields.number("limit", -1, INT64) or None,
        reservation_bytes=fields.number("reservation", -1, INT64) or None,
        swap_bytes=fields.number("swap", -1, INT64) or None,
        kernel_tcp_bytes=fields.number("kernelTCP", -1, INT64) or None,
        swappiness=fields.number("swappiness", 0, 200),  # 100 before Linux 5.8
        disable_oom_killer=fields.maybe_flag("disableOOMKiller"),
        use_hierarchy=fields.maybe_flag("useHierarchy"),
        check_before_update=fields.flag("checkBeforeUpdate"),
    )
    if 0 < (memory.swap_bytes or 0) < (memory.limit_bytes or 0):
        fields.fail("swap", f"{memory.swap_bytes} is memory and swap together, and below the limit of memory")
    return memory


def _cpu(fields: Fields) -> Cpu:
    """Return limits of CPU time. Ranges: Documentation/scheduler/sched-bwc.rst, and kernel/sched/core.c for shares."""
    return Cpu(
        shares=_or_none(fields, "shares", 2, 262_144),
        quota_us=_or_none(fields, "quota", 1_000, INT64, also=-1),
        burst_us=fields.number("burst", 0, INT64),
        period_us=_or_none(fields, "period", 1_000, 1_000_000),
        realtime_runtime_us=fields.number("realtimeRuntime", -1, INT64) or None,
        realtime_period_us=fields.number("realtimePeriod", 0, INT64) or None,
        cpus=_cpuset(fields, "cpus"),
        mems=_cpuset(fields, "mems"),
        idle=fields.number("idle", 0, 1),
    )


def _or_none(fields: Fields, key: str, low: int, high: int, also: int = 0) -> int | None:
    """Return an integer from `low` to `high` or `also`; None for 0."""
    value = fields.number(key, min(0, also), high)
    if value in {None, 0, also}:
        return value or None
    return fields.number(key, low, high)


def _cpuset(fields: Fields, key: str) -> str | None:
    """Return a list of CPUs or memory nodes in a form of the kernel (cpuset(7)); "0-30:2/4" is one as well."""
    text = fields.text(key)
    if not set(text) <= set("0123456789,-:/"):
        fields.fail(key, f"{shown(text)} is no list like '0-3,7'")
    return text or None


def _wildcard(fields: Fields, key: str, high: int) -> int | None:
    number = fields.number(key, -1, high)
    return None if number == -1 else number


def _device_rule(fields: Fields) -> DeviceRule:
    fields.need("allow")
    kind = fields.text("type") or "a"
    access = fields.text("access") or "rwm"
    if kind not in {"a", "b", "c"}:
        fields.fail("type", f"{shown(kind)} is not 'a', 'b' or 'c'")
    if not set(access) <= set("rwm"):
        fields.fail("access", f"{shown(access)} is not of the letters 'rwm'")
    return DeviceRule(
        allow=fields.flag("allow"),
        kind="b" if kind == "b" else "c" if kind == "c" else "a",
        major=_wildcard(fields, "major", MAX_MAJOR),
        minor=_wildcard(fields, "minor", MAX_MINOR),
        access=access,
    )


def _numbers(fields: Fields) -> tuple[int, int]:
    return fields.needed_number("major", 0, MAX_MAJOR), fields.needed_number("minor", 0, MAX_MINOR)


def _throttle(fields: Fields) -> Throttle:
    return Throttle(*_numbers(fields), rate_per_s=fields.needed_number("rate", 0, UINT64))


def _weight(fields: Fields, key: str) -> int | None:
    """Return a weight: 10 to 1000 for CFQ, from 1 for BFQ (Documentation/block/bfq-iosched.rst)."""
    return fields.number(key, 0, 1000) or None


def _weight_device(fields: Fields) -> WeightDevice:
    return WeightDevice(*_numbers(fields), weight=_weight(fields, "weight"), leaf_weight=_weight(fields, "leafWeight"))


def _block_io(fields: Fields) -> BlockIo:
    return BlockIo(
        weight=_weight(fields, "weight"),
        leaf_weight=_weight(fields, "leafWeight"),
        weight_devices=fields.each("weightDevice", _weight_device),
        read_bytes=fields.each("throttleReadBpsDevice", _throttle),
        write_bytes=fields.each("throttleWriteBpsDevice", _throttle),
        read_operations=fields.each("throttleReadIOPSDevice", _throttle),
        write_operations=fields.each("throttleWriteIOPSDevice", _throttle),
    )


def _hugepages(fields: Fields) -> tuple[str, int]:
    size = fields.needed_text("pageSize")
    digits, unit = size[:-2], size[-2:]
    if unit not in {"KB", "MB", "GB"} or not (digits.isascii() and digits.isdigit()) or digits.startswith("0"):
        fields.fail("pageSize", f"{shown(size)} is not like '64KB', '2MB' or '1GB'")
    return size, fields.needed_number("limit", 0, UINT64)


def _priority(fields: Fields) -> tuple[str, int]:
    return fields.needed_text("name"), fields.needed_number("priority", 0, UINT32)


def _rdma(fields: Fields) -> RdmaLimit:
    limit = RdmaLimit(fields.number("hcaHandles", 0, UINT32), fields.number("hcaObjects", 0, UINT32))
    if limit == RdmaLimit():
        fields.fail("hcaHandles", "this or hcaObjects is needed")
    return limit


def _unified(fields: Fields) -> dict[str, str]:
    files = fields.pairs("unified")
    for name in files:
        if "/" in name or name.startswith("."):
            fields.fail(f"unified.{name}", "is not the name of a file of a cgroup")
    return files


def resources_of(fields: Fields) -> Resources:
    """Return limits on resources. Raises ContainerError."""
    pids, network = fields.fields("pids"), fields.fields("network")
    return Resources(
        memory=_memory(fields.fields("memory")),
        cpu=_cpu(fields.fields("cpu")),
        pids_limit=pids.number("limit", -1, INT64) or None,
        devices=fields.each("devices", _device_rule),
        block_io=_block_io(fields.fields("blockIO")),
        hugepage_limits=fields.each("hugepageLimits", _hugepages),
        network_class_id=network.number("classID", 0, UINT32),
        network_priorities=network.each("priorities", _priority),
        rdma={name: _rdma(limit) for name, limit in fields.items("rdma")},
        unified=_unified(fields),
    )
