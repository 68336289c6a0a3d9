"""Limits, devices, the freezer and the end of real groups, whatever the version of this host's cgroups."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness.container import cgroups, devices_bpf
from harness.container.cgroups import Group, Layout
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
)

pytestmark = pytest.mark.needs("root")

MIB = 1 << 20
SECOND_NS = 1_000_000_000
SPIN = "while True: pass"
SLEEP = "import time; time.sleep(600)"


def deadline(seconds: int = 10) -> int:
    return time.monotonic_ns() + seconds * SECOND_NS


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(params=["all", "v1"])
def layout(request: pytest.FixtureRequest) -> Layout:
    """What this host has; and on a hybrid one its v1 trees alone, as if there were no cgroup2."""
    found = cgroups.detect()
    if found.mode is None:
        pytest.skip("no cgroup tree is mounted")
    if request.param == "all":
        return found
    if found.mode != "hybrid":
        pytest.skip(f"{found.mode} has been tested")
    return Layout(tuple(tree for tree in found.hierarchies if tree.version == 1))


@pytest.fixture
def path() -> str:
    """A cgroupsPath of two levels; whoever looks for leftovers of tests knows the name, who cleans up runs does not."""
    return f"/harnesstest-{secrets.token_hex(4)}/box"


@pytest.fixture
def group(layout: Layout, path: str) -> Iterator[Group]:
    found = Group.at(layout, path)
    yield found
    with suppress(ContainerError):
        found.thaw()
    found.kill(deadline())
    found.remove(deadline(), parents=True)


def need(layout: Layout, *controllers: str) -> None:
    for name in controllers:
        if layout.of(name) is None:
            pytest.skip(f"no {name} controller here")


def file_of(group: Group, layout: Layout, controller: str, v1: str, v2: str) -> str:
    tree = layout.of(controller)
    assert tree is not None
    return Path(f"{tree.path}/{group.name}/{v1 if tree.version == 1 else v2}").read_text().strip()


@contextmanager
def inside(group: Group, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python code in the group; it begins when its process is in."""
    waiting = f"import sys; sys.stdin.readline()\n{code}"
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    try:
        group.join_pid(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        with suppress(ContainerError):
            group.thaw()
        child.wait(10)
        child.stdin.close()
        assert child.stdout is not None
        child.stdout.close()


def answer(group: Group, code: str) -> bytes:
    with inside(group, code) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        child.wait(30)
        return said


def cpu_ns(pid: int) -> int:
    """Source: /proc/PID/schedstat, time on the CPU in ns."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def share(pid: int, seconds: float = 1.0) -> float:
    began_ns, used_ns = time.monotonic_ns(), cpu_ns(pid)
    time.sleep(seconds)
    return (cpu_ns(pid) - used_ns) / (time.monotonic_ns() - began_ns)


# -- groups ----------------------------------------------------------------------------------------------------------


def test_group_has_one_directory_in_every_tree_and_leaves_no_parent(layout: Layout, group: Group) -> None:
    group.create(None, parents=True)
    assert len(group.directories) == len(layout.full()) == len({*group.directories})
    assert all(Path(directory).is_dir() for directory in group.directories)
    assert len(group.made) == 2 * len(group.directories)
    group.remove(deadline(), parents=True)
    assert not any(Path(directory).exists() for directory in group.made)


def test_parent_that_is_in_use_stays(layout: Layout, group: Group, path: str) -> None:
    group.create(None, parents=True)
    other = Group.at(layout, path.replace("box", "other"))
    other.create(None, parents=True)
    group.remove(deadline(), parents=True)
    assert all(Path(directory).is_dir() for directory in other.directories)
    other.remove(deadline())
    assert all(Path(directory).parent.is_dir() for directory in other.directories)
    group.remove(deadline(), parents=True)


def test_group_is_found_again_by_what_was_recorded(layout: Layout, group: Group) -> None:
    group.create(Resources(pids_limit=7), parents=True)
    again = Group.restored(layout, group.directories, group.made)
    assert (again.directories, again.made, again.name) == (group.directories, group.made, group.name)
    with inside(again, SLEEP) as child:
        assert group.pids() == (child.pid,)
    again.remove(deadline(), parents=True)
    with pytest.raises(ContainerError, match="in no cgroup tree"):
        Group.restored(layout, ["/nowhere/x"], [])


def test_relative_path_begins_at_our_own_group(layout: Layout) -> None:
    group = Group.at(layout, f"harnesstest-{secrets.token_hex(4)}")
    try:
        group.create(None, parents=True)
        for tree, directory in zip(group.trees, group.directories, strict=True):
            home = cgroups.own_path(tree)
            above = home if tree.version == 1 else home.rpartition("/")[0]
            assert directory.startswith(f"{tree.path}{above}/harnesstest-")
    finally:
        group.remove(deadline(), parents=True)


@pytest.mark.parametrize("bad", ["", "/", "/a/../b", "../x", "/a//b", "a/./b", "/a/"])
def test_path_that_leaves_the_tree_is_refused(layout: Layout, bad: str) -> None:
    with pytest.raises(ContainerError, match="not a group's name"):
        Group.at(layout, bad)


def test_empty_directory_is_used_only_where_that_is_asked_for(layout: Layout, group: Group, path: str) -> None:
    group.create(None, parents=True)
    again = Group.at(layout, path)
    with pytest.raises(ContainerError) as caught:
        again.create(None)
    assert caught.value.errno == errno.EEXIST
    again.create(Resources(pids_limit=3), exist_ok=True)
    assert again.made == ()
    assert again.stats().pids.limit_count in {3, None}


def test_group_with_processes_is_never_taken_over(layout: Layout, group: Group, path: str) -> None:
    group.create(None, parents=True)
    with inside(group, SLEEP), pytest.raises(ContainerError, match="with processes in it"):
        Group.at(layout, path).create(None, exist_ok=True)
    assert all(Path(directory).is_dir() for directory in group.directories)


def test_frozen_group_is_refused(layout: Layout, group: Group, path: str) -> None:
    group.create(None, parents=True)
    group.freeze(deadline())
    with pytest.raises(ContainerError, match="frozen"):
        Group.at(layout, path).create(None, exist_ok=True)


def test_creation_that_fails_leaves_nothing(layout: Layout, group: Group) -> None:
    need(layout, "cpuset")
    with pytest.raises(ContainerError, match=r"cpu\.cpus: .*: '4000'"):
        group.create(Resources(cpu=Cpu(cpus="4000")), parents=True)
    assert not any(Path(directory).parent.exists() for directory in group.directories)


def test_missing_controller_fails_before_anything_is_made(layout: Layout, path: str) -> None:
    trees = (replace(tree, controllers=tree.controllers - {"rdma"}) for tree in layout.hierarchies)
    group = Group.at(Layout(tuple(trees)), path)
    with pytest.raises(ContainerError, match="rdma: mlx5_0: this host has no rdma controller"):
        group.create(Resources(rdma={"mlx5_0": RdmaLimit(1)}), parents=True)
    assert not any(Path(directory).parent.exists() for directory in group.directories)


@pytest.mark.parametrize("method", ["fast", "procs"])
def test_process_joins_by_either_method(layout: Layout, group: Group, method: cgroups.JoinMethod) -> None:
    """As the launcher does: a child writes "0" to each fd, and is in; where it is cloned into cgroup2, that is last."""
    group.create(None, parents=True)
    joins = group.joins(method)
    with group.join_fds(method) as fds:
        assert len(fds) == joins.tasks + joins.unified
        child = os.fork()
        if child == 0:
            for fd in fds[: joins.tasks]:
                os.write(fd, b"0")
            os.execv("/bin/sleep", ["sleep", "600"])
        try:
            trees = [tree for tree in group.trees if method == "procs" or tree.version == 1]
            places = [f"{tree.path}/{group.name}/cgroup.procs" for tree in trees]
            assert until(lambda: all(Path(place).read_text().split() == [str(child)] for place in places))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_nobody_is_told_why_there_is_no_group(layout: Layout, group: Group) -> None:
    assert group.obstacle() is None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.seteuid(65534)
        obstacle = group.obstacle()
        os.write(writer, str(obstacle and obstacle.errno).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 100) == str(errno.EACCES).encode()
    os.close(reader)


# -- limits ----------------------------------------------------------------------------------------------------------


def test_memory_limit_kills(layout: Layout, group: Group) -> None:
    need(layout, "memory")
    group.create(Resources(memory=Memory(limit_bytes=32 * MIB, swap_bytes=32 * MIB)), parents=True)
    with inside(group, f"x = bytearray({200 * MIB})") as child:
        assert child.wait(30) == -signal.SIGKILL
    memory = group.stats().memory
    assert memory.oom_kills_count == 1
    assert memory.limit_bytes == 32 * MIB
    assert memory.peak_bytes is None or 16 * MIB < memory.peak_bytes <= 32 * MIB


def test_cpu_quota_throttles_and_can_be_changed(layout: Layout, group: Group) -> None:
    need(layout, "cpu")
    group.create(Resources(cpu=Cpu(quota_us=20_000, period_us=100_000)), parents=True)
    with inside(group, SPIN) as child:
        time.sleep(0.3)
        slow = share(child.pid)
        group.update(Resources(cpu=Cpu(quota_us=60_000, period_us=100_000)))
        fast = share(child.pid)
        stats = group.stats().cpu
    assert 0.1 < slow < 0.3
    assert fast > 1.5 * slow
    assert stats.throttled_count is not None
    assert stats.throttled_count > 5
    assert stats.throttled_ns is not None
    assert stats.throttled_ns > 0.5 * SECOND_NS


def test_cpuset_pins(layout: Layout, group: Group) -> None:
    need(layout, "cpuset")
    group.create(Resources(cpu=Cpu(cpus="0", mems="0")), parents=True)
    with inside(group, SLEEP) as child:
        assert os.sched_getaffinity(child.pid) == {0}


def test_group_without_a_cpuset_can_be_joined(layout: Layout, group: Group) -> None:
    """A new cpuset of v1 is empty, and takes no process."""
    group.create(None, parents=True)
    with inside(group, SLEEP) as child:
        assert os.sched_getaffinity(child.pid) == os.sched_getaffinity(0)


def test_pids_limit_holds(layout: Layout, group: Group) -> None:
    need(layout, "pids")
    group.create(Resources(pids_limit=4), parents=True)
    code = """
import os, time
n = 0
try:
    while n < 20:
        if os.fork() == 0:
            time.sleep(600)
        n += 1
except BlockingIOError:
    print(n, flush=True)
time.sleep(600)
"""
    with inside(group, code) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"3\n"
        stats = group.stats().pids
        assert (stats.current_count, stats.limit_count) == (4, 4)
        group.kill(deadline())
    assert group.pids() == ()


def test_live_limits_go_up_and_down(layout: Layout, group: Group) -> None:
    need(layout, "memory", "pids")
    group.create(Resources(memory=Memory(limit_bytes=64 * MIB, swap_bytes=64 * MIB), pids_limit=10), parents=True)
    for size, pids in ((128 * MIB, 20), (48 * MIB, 5)):
        group.update(Resources(memory=Memory(limit_bytes=size, swap_bytes=size), pids_limit=pids))
        stats = group.stats()
        assert (stats.memory.limit_bytes, stats.pids.limit_count) == (size, pids)
    group.update(Resources(memory=Memory(limit_bytes=-1), pids_limit=-1))
    stats = group.stats()
    assert (stats.memory.limit_bytes, stats.pids.limit_count) == (-1, -1)


def test_limit_below_what_is_used_is_refused_where_that_is_asked_for(layout: Layout, group: Group) -> None:
    need(layout, "memory")
    group.create(Resources(memory=Memory(limit_bytes=256 * MIB)), parents=True)
    with inside(group, f"x = bytearray(b'x' * {40 * MIB}); print(1, flush=True); {SLEEP}") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        with pytest.raises(ContainerError, match=r"memory\.limit: \d+: less than the \d+ bytes in use"):
            group.update(Resources(memory=Memory(limit_bytes=8 * MIB, check_before_update=True)))
        assert child.poll() is None


def test_every_cpu_and_block_file_is_accepted(layout: Layout, group: Group) -> None:
    need(layout, "cpu")
    cpu = Cpu(shares=2048, quota_us=50_000, period_us=100_000, burst_us=10_000)
    group.create(Resources(cpu=cpu), parents=True)
    assert file_of(group, layout, "cpu", "cpu.shares", "cpu.weight") in {"2048", "174"}
    group.update(Resources(cpu=Cpu(quota_us=20_000, period_us=50_000, burst_us=5000)))
    assert file_of(group, layout, "cpu", "cpu.cfs_burst_us", "cpu.max.burst") == "5000"
    group.update(Resources(cpu=Cpu(idle=1)))
    group.update(Resources(cpu=Cpu(idle=0, shares=1024)))
    assert file_of(group, layout, "cpu", "cpu.idle", "cpu.idle") == "0"


def test_block_device_is_throttled(layout: Layout, group: Group) -> None:
    if layout.of("blkio") is None and layout.of("io") is None:
        pytest.skip("no blkio or io controller here")
    disk = next((disk for disk in Path("/sys/block").iterdir() if not disk.name.startswith(("ram", "zram"))), None)
    if disk is None:
        pytest.skip("no block device here")
    major, minor = map(int, (disk / "dev").read_text().split(":"))
    group.create(Resources(block_io=BlockIo(read_bytes=(Throttle(major, minor, MIB),))), parents=True)
    controller = "blkio" if layout.of("blkio") else "io"
    text = file_of(group, layout, controller, "blkio.throttle.read_bps_device", "io.max")
    assert f"{major}:{minor} " in text
    assert str(MIB) in text


def test_weight_is_set_or_the_kernel_has_no_scheduler_that_knows_weights(layout: Layout, group: Group) -> None:
    tree = layout.of("blkio") or layout.of("io")
    if tree is None:
        pytest.skip("no blkio or io controller here")
    group.create(None, parents=True)
    names = ("blkio.bfq.weight", "blkio.weight", "io.bfq.weight", "io.weight")
    files = [file for name in names if (file := Path(f"{tree.path}/{group.name}/{name}")).exists()]
    weighted = Resources(block_io=BlockIo(weight=300))
    if files:
        group.update(weighted)
        assert files[0].read_text().split()[-1] in {"300", "2930"}
    else:
        with pytest.raises(ContainerError, match=r"blockIO\.weight: .*No such file"):
            group.update(weighted)


def test_huge_pages_are_limited(layout: Layout, group: Group) -> None:
    tree = layout.of("hugetlb")
    if tree is None or (tree.version == 2 and layout.mode == "hybrid"):
        pytest.skip("no hugetlb controller here that could be handed down without a change to the host's own groups")
    group.create(Resources(hugepage_limits=(("2MB", 4 * MIB),)), parents=True)
    stats = group.stats().hugetlb
    assert stats is not None
    (found,) = (one for one in stats if one.size == "2MB")
    assert (found.usage_bytes, found.limit_bytes) == (0, 4 * MIB)
    with pytest.raises(ContainerError, match=r"hugepageLimits: 3MB: .*No such file"):
        group.update(Resources(hugepage_limits=(("3MB", 4 * MIB),)))


def test_unified_files_are_written_as_they_are(layout: Layout, group: Group) -> None:
    """The tree's own files are there whatever controllers it has."""
    if layout.unified is None:
        pytest.skip("no cgroup2 tree here")
    group.create(Resources(unified={"cgroup.max.depth": "3"}), parents=True)
    assert Path(f"{layout.unified.path}/{group.name}/cgroup.max.depth").read_text() == "3\n"
    high = Resources(unified={"memory.high": str(16 * MIB)})
    if layout.mode == "v2":
        group.update(high)
        assert file_of(group, layout, "memory", "", "memory.high") == str(16 * MIB)
    else:
        with pytest.raises(ContainerError, match="no memory controller in a cgroup2 tree"):
            group.update(high)


# -- devices ---------------------------------------------------------------------------------------------------------

OPEN = "import os\ntry: os.close(os.open({path!r}, os.{flags})); print('ok')\nexcept OSError as e: print(e.errno)"
MAKE = OPEN.replace("os.close(os.open({path!r}, os.{flags}))", "os.mknod({path!r}, 0o20600, os.makedev({number}))")


def test_devices_are_refused_but_for_those_that_are_allowed(layout: Layout, group: Group, tmp_path: Path) -> None:
    """On v1 by a list, on v2 by a program."""
    rules = (
        DeviceRule(allow=False),
        DeviceRule(allow=True, kind="c", major=1, minor=5, access="rwm"),
        DeviceRule(allow=True, kind="c", major=1, minor=3, access="r"),
    )
    group.create(Resources(devices=rules), parents=True)

    def opens(name: str, flags: str) -> bytes:
        return answer(group, OPEN.format(path=f"/dev/{name}", flags=flags)).strip()

    refused = str(errno.EPERM).encode()
    assert opens("zero", "O_RDWR") == b"ok"
    assert opens("full", "O_RDONLY") == refused
    assert (opens("null", "O_RDONLY"), opens("null", "O_WRONLY")) == (b"ok", refused)
    assert answer(group, MAKE.format(path=str(tmp_path / "a"), number="1, 5")).strip() == b"ok"
    assert answer(group, MAKE.format(path=str(tmp_path / "b"), number="1, 7")).strip() == refused
    group.update(Resources(devices=(*rules, DeviceRule(allow=True, kind="c", major=1, minor=7))))
    assert (opens("full", "O_RDONLY"), opens("zero", "O_RDWR")) == (b"ok", b"ok")
    group.update(Resources(devices=rules))
    assert (opens("full", "O_RDONLY"), opens("zero", "O_RDWR")) == (refused, b"ok")


def test_default_devices(layout: Layout, group: Group, tmp_path: Path) -> None:
    group.create(Resources(devices=DEFAULT_DEVICE_RULES), parents=True)
    for name in ("null", "zero", "full", "random", "urandom"):
        assert answer(group, OPEN.format(path=f"/dev/{name}", flags="O_RDWR")).strip() == b"ok"
    refused = str(errno.EPERM).encode()
    assert answer(group, OPEN.format(path="/dev/kmsg", flags="O_WRONLY")).strip() == refused
    assert answer(group, MAKE.format(path=str(tmp_path / "a"), number="1, 1")).strip() == b"ok"


@pytest.fixture
def bare(layout: Layout) -> Iterator[str]:
    """A directory in the cgroup2 tree alone, which need not have controllers."""
    if layout.unified is None:
        pytest.skip("no cgroup2 tree here")
    directory = Path(layout.unified.path) / f"harnesstest-{secrets.token_hex(4)}"
    directory.mkdir()
    yield str(directory)
    assert until(lambda: not (directory / "cgroup.procs").read_text())
    directory.rmdir()


def outcome(directory: str, action: Callable[[], object]) -> int:
    """Return the errno with which an action fails in a group, 0 where it does not."""
    child = os.fork()
    if child == 0:
        try:
            Path(directory, "cgroup.procs").write_text("0")
            action()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_program_of_device_rules_is_asked_and_replaced(bare: str, tmp_path: Path) -> None:
    def opened(name: str, flags: int = os.O_RDWR) -> int:
        return outcome(bare, lambda: os.close(os.open(f"/dev/{name}", flags)))

    def made(name: str, minor: int) -> int:
        return outcome(bare, lambda: os.mknod(tmp_path / name, 0o20600, os.makedev(1, minor)))

    assert (opened("zero"), opened("full"), made("before", 7)) == (0, 0, 0)
    zero = DeviceRule(allow=True, kind="c", major=1, minor=5)
    devices_bpf.install(bare, (DeviceRule(allow=False), zero))
    assert (opened("zero"), opened("full"), made("zero", 5), made("full", 7)) == (0, errno.EPERM, 0, errno.EPERM)
    reads = DeviceRule(allow=True, kind="c", major=1, access="r")
    hole = DeviceRule(allow=False, kind="c", major=1, minor=9)
    devices_bpf.install(bare, (reads, hole))
    assert (opened("zero"), opened("zero", os.O_RDONLY), opened("urandom", os.O_RDONLY)) == (
        errno.EPERM,
        0,
        errno.EPERM,
    )
    devices_bpf.install(bare, (DeviceRule(allow=True),))
    assert (opened("zero"), opened("full"), made("after", 7)) == (0, 0, 0)


def test_program_needs_a_group(tmp_path: Path) -> None:
    with pytest.raises(ContainerError) as caught:
        devices_bpf.install(str(tmp_path), DEFAULT_DEVICE_RULES)
    assert caught.value.errno in {errno.EBADF, errno.EINVAL}


# -- freezing and the end --------------------------------------------------------------------------------------------


def test_freeze_stops_and_thaw_lets_run(group: Group) -> None:
    group.create(None, parents=True)
    with inside(group, SPIN) as child:
        assert until(lambda: share(child.pid, 0.1) > 0.2)
        assert not group.is_frozen()
        group.freeze(deadline())
        assert group.is_frozen()
        time.sleep(0.1)  # its last time slice is counted when it is off the CPU
        used_ns = cpu_ns(child.pid)
        time.sleep(0.3)
        assert cpu_ns(child.pid) == used_ns
        group.thaw()
        assert not group.is_frozen()
        assert until(lambda: cpu_ns(child.pid) > used_ns + 50_000_000)


def test_frozen_group_can_be_killed(group: Group) -> None:
    group.create(None, parents=True)
    with inside(group, SPIN) as child:
        group.freeze(deadline())
        group.kill(deadline())
        assert child.wait(10) == -signal.SIGKILL


def make_below(group: Group) -> list[Path]:
    below = [Path(directory) / "below" / "deep" for directory in group.directories]
    for directory in below:
        directory.mkdir(parents=True)
        for level in (directory.parent, directory):
            for file in ("cpuset.cpus", "cpuset.mems"):
                above = level.parent / file
                if (level / file).exists() and not (level / file).read_text().strip():
                    (level / file).write_text(above.read_text())
    return below


BOMB = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_kill_ends_processes_that_keep_forking_in_groups_below(layout: Layout, group: Group) -> None:
    need(layout, "pids")
    group.create(Resources(pids_limit=60, cpu=Cpu(quota_us=100_000, period_us=100_000)), parents=True)
    with inside(group, SLEEP) as first, inside(group, BOMB) as bomb, inside(group, SLEEP) as deep:
        for directory in make_below(group):
            with suppress(OSError):  # v2: a group with processes has no children with controllers, but may have some
                (directory / "cgroup.procs").write_text(str(deep.pid))
        assert until(lambda: len(group.pids()) > 20)
        assert deep.pid in group.pids()
        group.kill(deadline())
        assert group.pids() == ()
        assert [child.wait(10) for child in (first, bomb, deep)] == [-signal.SIGKILL] * 3
    group.remove(deadline(), parents=True)
    assert not any(Path(directory).exists() for directory in group.made)


def test_another_process_joins_beside_one_that_moved_below(layout: Layout, group: Group) -> None:
    """As a container with an init system does: on v2 its own group then takes no process any more."""
    group.create(None, parents=True)
    with inside(group, SLEEP) as init:
        assert group.beside(init.pid).directories == group.directories
        below = [directory.parent for directory in make_below(group)]
        for directory in below:
            (directory / "cgroup.procs").write_text(str(init.pid))
        beside = group.beside(init.pid)
        assert beside.directories == tuple(map(str, below))
        with inside(beside, SLEEP) as second:
            assert {init.pid, second.pid} == {*group.pids()}
        assert group.beside(os.getpid()).directories == group.directories


# -- what is counted -------------------------------------------------------------------------------------------------


def test_stats_are_plausible(layout: Layout, group: Group, tmp_path: Path) -> None:
    group.create(Resources(pids_limit=50), parents=True)
    code = f"""
import time, os
x = bytearray(b'x' * {30 * MIB})
end = time.process_time() + 0.3
while time.process_time() < end: pass
print(1, flush=True)
{SLEEP}
"""
    with inside(group, code) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        stats = group.stats()
    assert stats.cpu.usage_ns is not None
    assert 0.25 * SECOND_NS < stats.cpu.usage_ns < 30 * SECOND_NS
    assert stats.cpu.user_ns is not None
    assert stats.cpu.user_ns <= 1.1 * stats.cpu.usage_ns
    if layout.of("memory"):
        memory = stats.memory
        assert memory.anon_bytes is not None
        assert memory.usage_bytes is not None
        assert 30 * MIB <= memory.anon_bytes <= memory.usage_bytes < 200 * MIB
        assert (memory.limit_bytes, memory.oom_kills_count) == (-1, 0)
    assert stats.pids.current_count == 1
    assert (stats.io is None) == (layout.of("blkio") is None and layout.of("io") is None)
    assert (stats.hugetlb is None) == (layout.of("hugetlb") is None or layout.of("hugetlb") not in group.trees)
    if layout.unified and Path(f"{layout.unified.path}/cpu.pressure").exists():
        assert stats.pressure["cpu"].some_ns >= 0


def test_stats_of_a_group_that_is_gone_tell_nothing(group: Group) -> None:
    stats = group.stats()
    assert (stats.cpu.usage_ns, stats.memory.usage_bytes, stats.pids.current_count) == (None, None, None)
    assert stats.pressure == {}
