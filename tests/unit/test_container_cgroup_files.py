"""What is written for a container's resources, on a host of each kind; nothing here touches a cgroup."""

import pytest

from harness.container import cgroup_files, cgroup_io_files
from harness.container.cgroup_layout import Hierarchy, Layout
from harness.container.cgroup_write import Current, Write
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.resources import (
    DEFAULT_DEVICE_RULES,
    BlockIo,
    Cpu,
    DeviceRule,
    Memory,
    RdmaLimit,
    Resources,
    Throttle,
    WeightDevice,
)

V1 = Layout(
    tuple(
        Hierarchy(f"/cg/{name}", 1, frozenset(name.split(",")))
        for name in "memory cpu,cpuacct cpuset pids devices blkio hugetlb freezer net_cls,net_prio rdma".split()
    )
)
V2 = Layout((Hierarchy("/cg", 2, frozenset("memory cpu cpuset pids io hugetlb rdma".split())),))
HYBRID = Layout(
    (
        *(Hierarchy(f"/cg/{name}", 1, frozenset({name})) for name in ("memory", "cpu", "pids", "devices")),
        Hierarchy("/cg/unified", 2, frozenset({"hugetlb"})),
    )
)
NOTHING = Layout(())


def written(resources: Resources, layout: Layout, now: Current | None = None) -> list[str]:
    return [f"{write.file}={write.value}" for write in cgroup_files.writes(resources, layout, now)]


ALL = Resources(
    memory=Memory(limit_bytes=1000, reservation_bytes=500, swap_bytes=1500),
    cpu=Cpu(shares=1024, quota_us=50_000, burst_us=10_000, period_us=100_000, cpus="0-1", mems="0"),
    pids_limit=10,
    block_io=BlockIo(
        weight=500,
        weight_devices=(WeightDevice(8, 0, weight=100),),
        read_bytes=(Throttle(8, 0, 1000),),
        write_operations=(Throttle(8, 16, 0),),
    ),
    hugepage_limits=(("2MB", 4096),),
    rdma={"mlx5_0": RdmaLimit(handles=2), "mlx5_1": RdmaLimit(3, 4)},
)


def test_everything_on_v1() -> None:
    resources = replace(
        ALL, network_class_id=0x100001, network_priorities=(("eth0", 3),), devices=(DeviceRule(allow=False),)
    )
    assert written(resources, V1) == [
        "cpuset.cpus=0-1", "cpuset.mems=0",
        "cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000", "cpu.cfs_burst_us=10000",
        "memory.limit_in_bytes=1000", "memory.memsw.limit_in_bytes=1500", "memory.soft_limit_in_bytes=500",
        "pids.max=10",
        "blkio.bfq.weight=500", "blkio.bfq.weight_device=8:0 100",
        "blkio.throttle.read_bps_device=8:0 1000", "blkio.throttle.write_iops_device=8:16 0",
        "hugetlb.2MB.limit_in_bytes=4096", "hugetlb.2MB.rsvd.limit_in_bytes=4096",
        "net_cls.classid=1048577", "net_prio.ifpriomap=eth0 3",
        "rdma.max=mlx5_0 hca_handle=2", "rdma.max=mlx5_1 hca_handle=3 hca_object=4",
        "devices.deny=a",
    ]  # fmt: skip


def test_everything_on_v2() -> None:
    resources = replace(
        ALL, devices=DEFAULT_DEVICE_RULES, unified={"memory.high": "900", "io.max": "8:0 rbps=1\n8:16 rbps=2"}
    )
    assert written(resources, V2) == [
        "cpuset.cpus=0-1", "cpuset.mems=0",
        "cpu.weight=100", "cpu.max=50000 100000", "cpu.max.burst=10000",
        "memory.swap.max=500", "memory.max=1000", "memory.low=500",
        "pids.max=10",
        "io.bfq.weight=default 500", "io.bfq.weight=8:0 100", "io.max=8:0 rbps=1000", "io.max=8:16 wiops=max",
        "hugetlb.2MB.max=4096", "hugetlb.2MB.rsvd.max=4096",
        "rdma.max=mlx5_0 hca_handle=2", "rdma.max=mlx5_1 hca_handle=3 hca_object=4",
        "memory.high=900", "io.max=8:0 rbps=1", "io.max=8:16 rbps=2",
    ]  # fmt: skip


def test_hybrid_is_v1_where_the_controller_is_and_v2_where_it_is_there() -> None:
    resources = Resources(memory=Memory(limit_bytes=1000), pids_limit=5, hugepage_limits=(("1GB", 0),))
    assert cgroup_files.writes(resources, HYBRID) == (
        Write("memory", "memory.limit_in_bytes", "1000", "memory.limit"),
        Write("pids", "pids.max", "5", "pids.limit"),
        Write("hugetlb", "hugetlb.1GB.max", "0", "hugepageLimits: 1GB"),
        Write("hugetlb", "hugetlb.1GB.rsvd.max", "0", "hugepageLimits: 1GB", optional=True),
    )
    assert cgroup_files.controllers(resources, HYBRID) == {"hugetlb"}
    assert cgroup_files.controllers(resources, V2) == {"memory", "pids", "hugetlb"}
    assert cgroup_files.controllers(resources, V1) == frozenset()


@pytest.mark.parametrize("layout", [V1, V2, HYBRID, NOTHING], ids=["v1", "v2", "hybrid", "none"])
def test_nothing_asked_is_nothing_written(layout: Layout) -> None:
    assert written(Resources(), layout) == []


def test_no_limit_needs_no_controller() -> None:
    unlimited = Resources(
        memory=Memory(limit_bytes=-1, swap_bytes=-1, disable_oom_killer=False), cpu=Cpu(quota_us=-1), pids_limit=-1,
        hugepage_limits=(("2MB", 2**64 - 1),), block_io=BlockIo(read_bytes=(Throttle(8, 0, 0),)), network_class_id=0,
    )  # fmt: skip
    assert written(unlimited, NOTHING) == []
    assert written(unlimited, V2) == [
        "cpu.max=max", "memory.swap.max=max", "memory.max=max", "pids.max=max", "io.max=8:0 rbps=max",
        "hugetlb.2MB.max=max", "hugetlb.2MB.rsvd.max=max",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(memory=Memory(limit_bytes=1)), "memory.limit: this host has no memory controller"),
        (Resources(memory=Memory(reservation_bytes=1)), "memory.reservation: this host has no memory"),
        (Resources(memory=Memory(swappiness=0)), "memory.swappiness: this host has no memory"),
        (Resources(cpu=Cpu(shares=2)), "cpu.shares: this host has no cpu"),
        (Resources(cpu=Cpu(cpus="0")), "cpu.cpus: this host has no cpuset"),
        (Resources(pids_limit=1), "pids.limit: this host has no pids"),
        (Resources(block_io=BlockIo(weight=10)), "blockIO.weight: this host has no io"),
        (Resources(block_io=BlockIo(write_bytes=(Throttle(8, 0, 1),))), "throttleWriteBpsDevice: this host has no io"),
        (Resources(hugepage_limits=(("2MB", 0),)), "hugepageLimits: 2MB: this host has no hugetlb"),
        (Resources(network_class_id=1), "network.classID: this host has no net_cls"),
        (Resources(network_priorities=(("lo", 0),)), "network.priorities: lo: this host has no net_prio"),
        (Resources(rdma={"x": RdmaLimit(1)}), "rdma: x: this host has no rdma"),
        (Resources(devices=DEFAULT_DEVICE_RULES), "devices: this host has no devices controller and no cgroup2"),
        (Resources(unified={"memory.high": "1"}), "unified: memory.high: this host has no memory controller"),
    ],
)  # fmt: skip
def test_missing_controller_is_named_with_what_needed_it(resources: Resources, message: str) -> None:
    with pytest.raises(ContainerError, match=message):
        cgroup_files.writes(resources, NOTHING)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (Memory(swap_bytes=10), "memory.swap: it is memory and swap together, and needs memory.limit"),
        (Memory(limit_bytes=10, swap_bytes=9), "memory.swap: 9: less than memory.limit, 10"),
        (Memory(limit_bytes=-2), "memory.limit: -2: less than -1"),
        (Memory(swappiness=101), "memory.swappiness: 101: not between 0 and 100"),
    ],
)
@pytest.mark.parametrize("layout", [V1, V2], ids=["v1", "v2"])
def test_memory_that_means_nothing(memory: Memory, message: str, layout: Layout) -> None:
    with pytest.raises(ContainerError, match=message):
        cgroup_files.writes(Resources(memory=memory), layout)


@pytest.mark.parametrize(
    "resources",
    [
        Resources(memory=Memory(swappiness=10)), Resources(memory=Memory(disable_oom_killer=True)),
        Resources(memory=Memory(kernel_tcp_bytes=1)), Resources(memory=Memory(use_hierarchy=False)),
        Resources(cpu=Cpu(realtime_runtime_us=1)), Resources(block_io=BlockIo(leaf_weight=10)),
    ],
)  # fmt: skip
def test_what_only_v1_has_is_refused_on_v2_and_not_forgotten(resources: Resources) -> None:
    assert len(written(resources, V1)) == 1
    with pytest.raises(ContainerError, match="cgroup v2 has no such thing"):
        cgroup_files.writes(resources, V2)


def test_memory_limits_of_a_live_v1_group_are_never_out_of_order() -> None:
    grow, both = "memory.memsw.limit_in_bytes=1500", "memory.limit_in_bytes=1000"
    resources = Resources(memory=Memory(limit_bytes=1000, swap_bytes=1500))
    assert written(resources, V1, Current(memsw_bytes=900)) == [grow, both]
    assert written(resources, V1, Current(memsw_bytes=1200)) == [both, grow]
    assert written(resources, V1, Current(memsw_bytes=-1)) == [both, grow]
    unlimited = Resources(memory=Memory(limit_bytes=-1))
    assert written(unlimited, V1, Current(memsw_bytes=900)) == [
        "memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1",
    ]  # fmt: skip


def test_swap_that_a_kernel_without_swap_cannot_limit() -> None:
    """To have none is what such a kernel does anyway; to have some is an error when the file is not there."""

    def optional(swap_bytes: int) -> bool:
        (swap, _) = cgroup_files.writes(Resources(memory=Memory(limit_bytes=10, swap_bytes=swap_bytes)), V2)
        return swap.optional

    assert [optional(10), optional(-1), optional(11)] == [True, True, False]


def test_cpu_of_a_live_group() -> None:
    quota = Resources(cpu=Cpu(quota_us=5000, period_us=10_000, burst_us=100))
    assert written(quota, V1, Current()) == [
        "cpu.cfs_burst_us=0", "cpu.cfs_quota_us=-1", "cpu.cfs_period_us=10000", "cpu.cfs_quota_us=5000",
        "cpu.cfs_burst_us=100",
    ]  # fmt: skip
    assert written(quota, V2, Current()) == ["cpu.max.burst=0", "cpu.max=5000 10000", "cpu.max.burst=100"]
    assert written(Resources(cpu=Cpu(period_us=20_000)), V2, Current(quota="7000")) == ["cpu.max=7000 20000"]
    assert written(Resources(cpu=Cpu(quota_us=7000)), V2, Current()) == ["cpu.max=7000"]


def test_idle_goes_around_shares() -> None:
    assert written(Resources(cpu=Cpu(shares=2, idle=1)), V1) == ["cpu.shares=2", "cpu.idle=1"]
    assert written(Resources(cpu=Cpu(shares=2, idle=0)), V2) == ["cpu.idle=0", "cpu.weight=1"]


def test_realtime_on_v1() -> None:
    resources = Resources(cpu=Cpu(realtime_runtime_us=1000, realtime_period_us=2000))
    assert written(resources, V1) == ["cpu.rt_period_us=2000", "cpu.rt_runtime_us=1000"]


# From the table of crun(1), "CPU controller", and the tests of opencontainers/cgroups.
@pytest.mark.parametrize(
    ("shares", "weight"),
    [(1, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262144, 10_000), (262145, 10_000)],
)
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert cgroup_files.cpu_weight(shares) == weight


def test_weight_grows_with_shares() -> None:
    weights = [cgroup_files.cpu_weight(shares) for shares in range(2, 262_145, 7)]
    assert weights == sorted(weights)


def test_weights_of_block_devices() -> None:
    assert [cgroup_io_files.io_weight(weight) for weight in (10, 500, 1000)] == [1, 4950, 10_000]
    (write,) = cgroup_io_files.writes(BlockIo(weight=100), V2)
    assert (write.file, write.instead) == ("io.bfq.weight", ("io.weight", "default 910"))
    (write,) = cgroup_io_files.writes(BlockIo(weight_devices=(WeightDevice(8, 0, leaf_weight=20),)), V1)
    assert (write.file, write.value) == ("blkio.leaf_weight_device", "8:0 20")
    for weight in (9, 1001):
        with pytest.raises(ContainerError, match=r"blockIO.weight: .*not between 10 and 1000"):
            cgroup_io_files.writes(BlockIo(weight=weight), V1)


@pytest.mark.parametrize("size", ["2M", "MB", "../x", "2MB/..", "twoMB"])
def test_page_size_is_no_path(size: str) -> None:
    with pytest.raises(ContainerError, match="not a page size"):
        cgroup_files.writes(Resources(hugepage_limits=((size, 1),)), V1)


@pytest.mark.parametrize(
    "name", ["", "memory", "memory.", ".max", "../cgroup.procs", "memory.x/../../y", "cgroup.procs", "cgroup.kill",
             "cgroup.threads", "cgroup.subtree_control", "memory.max\0"],
)  # fmt: skip
def test_unified_takes_only_files_of_resources(name: str) -> None:
    with pytest.raises(ContainerError, match="unified: "):
        cgroup_files.writes(Resources(unified={name: "1"}), V2)


def test_unified_of_the_tree_itself_and_of_controllers_that_it_has() -> None:
    limits = {"cgroup.max.depth": "3", "hugetlb.2MB.max": "0"}
    assert [(write.controller, write.file) for write in cgroup_files.writes(Resources(unified=limits), HYBRID)] == [
        ("cgroup", "cgroup.max.depth"), ("hugetlb", "hugetlb.2MB.max"),
    ]  # fmt: skip
    with pytest.raises(ContainerError, match="no memory controller in a cgroup2 tree"):
        cgroup_files.writes(Resources(unified={"memory.high": "1"}), HYBRID)


# -- devices of v1 ---------------------------------------------------------------------------------------------------


def test_default_devices_of_v1() -> None:
    assert written(Resources(devices=DEFAULT_DEVICE_RULES), V1) == [
        "devices.deny=a",
        "devices.allow=c *:* m", "devices.allow=b *:* m",
        *(f"devices.allow=c {device} rwm" for device in (
            "1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2", "136:*", "10:200",
        )),
    ]  # fmt: skip


def test_live_devices_are_never_all_refused_for_a_moment() -> None:
    rules = (DeviceRule(allow=False), DeviceRule(True, "c", 1, 3), DeviceRule(True, "c", 1, 5, "r"))
    now = Current(devices=frozenset({"c 1:3 rw", "c 1:5 rwm", "b 8:* r"}))
    assert written(Resources(devices=rules), V1, now) == [
        "devices.allow=c 1:3 m", "devices.deny=b 8:* r", "devices.deny=c 1:5 wm",
    ]  # fmt: skip
    assert written(Resources(devices=rules), V1, Current(devices=frozenset({"a *:* rwm"})))[0] == "devices.deny=a"


def test_devices_that_are_refused_one_by_one() -> None:
    rules = (DeviceRule(allow=True), DeviceRule(False, "b", 8, None, "w"))
    assert written(Resources(devices=rules), V1) == ["devices.allow=a", "devices.deny=b 8:* w"]


def test_hole_that_v1_would_silently_not_make_is_refused() -> None:
    rules = (DeviceRule(True, "c", 1, None), DeviceRule(False, "c", 1, 7, "w"))
    with pytest.raises(ContainerError, match=r"c 1:7 w: cgroup v1 makes no hole in c 1:\*"):
        cgroup_files.writes(Resources(devices=rules), V1)
    assert written(Resources(devices=rules), V2) == []


@pytest.mark.parametrize("layout", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    "rule",
    [
        DeviceRule(allow=True, kind="c", access=""), DeviceRule(allow=True, kind="c", access="rx"),
        DeviceRule(allow=True, kind="c", major=-1), DeviceRule(allow=True, kind="b", minor=1 << 31),
        DeviceRule(allow=True, major=1), DeviceRule(allow=True, access="r"),
    ],
)  # fmt: skip
def test_device_rule_that_means_nothing(rule: DeviceRule, layout: Layout) -> None:
    with pytest.raises(ContainerError, match=r"devices\[0\]"):
        cgroup_files.writes(Resources(devices=(rule,)), layout)
