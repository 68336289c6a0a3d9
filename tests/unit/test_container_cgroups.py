"""How a host's cgroups are read: captured mountinfo files, and directories that look like a group."""

import errno
from pathlib import Path

import pytest

from harness.container import cgroup_setup, cgroup_stats, cgroupfs, cgroups, mountinfo
from harness.container.cgroups import Group, Hierarchy, Layout, Limits, MemoryUse
from harness.container.errors import ContainerError
from harness.container.plan import Joins
from harness.container.resources import Memory, Resources

DATA = Path(__file__).parents[1] / "data" / "cgroups"
V2 = frozenset({"memory", "cpu", "pids", "io"})


def layout(name: str) -> Layout:
    mounts = mountinfo.parse((DATA / f"mountinfo-{name}").read_text())
    trees = [tree for mount in mounts if (tree := cgroups.hierarchy_at(mount))]
    # The controllers of a cgroup2 tree are in a file of the tree, not in mountinfo.
    return Layout(tuple(Hierarchy(tree.path, 2, V2) if name == "v2" else tree for tree in trees))


def test_mountinfo_paths_are_unescaped() -> None:
    points = [mount.point for mount in mountinfo.parse((DATA / "mountinfo-v2").read_text())]
    assert "/mnt/with blank" in points


@pytest.mark.parametrize("mode", ["v1", "v2", "hybrid"])
def test_mode_is_told_from_what_is_mounted(mode: str) -> None:
    assert layout(mode).mode == mode
    assert layout(mode).missing() == ()


def test_no_cgroups_at_all() -> None:
    assert Layout(()).mode is None
    assert Layout(()).missing() == ("memory", "cpu", "pids")


def test_v2_uses_one_directory_and_clones_into_it() -> None:
    assert [tree.path for tree in layout("v2").used()] == ["/sys/fs/cgroup"]
    assert layout("v2").joins == Joins(0, unified=True)


def test_v1_joins_each_tree_once_and_takes_the_freezer_to_kill() -> None:
    used = layout("v1").used()
    assert [tree.path.rpartition("/")[2] for tree in used] == ["memory", "cpu,cpuacct", "pids", "freezer"]
    assert layout("v1").joins == Joins(4, unified=False)


def test_hybrid_limits_by_v1_and_kills_by_cgroup2() -> None:
    used = layout("hybrid").used()
    assert [(tree.version, tree.path.rpartition("/")[2]) for tree in used] == [
        (1, "memory"), (1, "cpu"), (1, "pids"), (2, "unified"),
    ]  # fmt: skip
    assert layout("hybrid").joins == Joins(3, unified=True)


def test_group_name_cannot_leave_the_tree() -> None:
    for name in ("../x", "a//b", "", "a/."):
        with pytest.raises(ContainerError, match="not a group's name"):
            Group(layout("v2"), name)


def make(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def v2_at(root: Path) -> Layout:
    return Layout((Hierarchy(str(root), 2, V2),))


def test_memory_of_v2(tmp_path: Path) -> None:
    stat = "anon 4096\nfile 8192\nkernel 100\nsock 0\n"
    make(tmp_path, {"g/memory.stat": stat, "g/memory.current": "16384\n", "g/memory.peak": "20480\n"})
    assert Group(v2_at(tmp_path), "g").memory() == MemoryUse(4096, 8192, 100, 16384, 20480)


def test_memory_that_an_older_kernel_does_not_tell_is_none_and_not_zero(tmp_path: Path) -> None:
    make(tmp_path, {"g/memory.stat": "anon 4096\nfile 8192\n", "g/memory.current": "16384\n"})
    assert Group(v2_at(tmp_path), "g").memory() == MemoryUse(4096, 8192, None, 16384, None)


def test_memory_of_v1(tmp_path: Path) -> None:
    files = {"stat": "cache 8192\nrss 4096\n", "kmem.usage_in_bytes": "7\n", "usage_in_bytes": "9\n"}
    make(tmp_path, {f"g/memory.{name}": text for name, text in files.items()} | {"g/memory.max_usage_in_bytes": "11\n"})
    tree = Layout((Hierarchy(str(tmp_path), 1, frozenset({"memory"})),))
    assert Group(tree, "g").memory() == MemoryUse(4096, 8192, 7, 9, 11)


def test_memory_of_a_group_that_is_gone_is_none(tmp_path: Path) -> None:
    assert Group(v2_at(tmp_path), "gone").memory() == MemoryUse(None, None, None, None, None)


def test_pids_leave_out_other_pid_namespaces(tmp_path: Path) -> None:
    make(tmp_path, {"g/cgroup.procs": "0\n4000001\n4000002\n"})
    assert cgroupfs.pids_in(str(tmp_path / "g")) == (4000001, 4000002)


def test_directory_where_nothing_can_be_limited_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """On a tmpfs a mkdir succeeds, but there is no file to write a limit to."""
    with pytest.raises(ContainerError) as caught:
        Group(v2_at(tmp_path), "g").create(Limits(1 << 20, 1, 10))
    assert caught.value.errno == errno.ENOENT
    assert not (tmp_path / "g").exists()


def test_groups_are_found_by_prefix_in_every_tree(tmp_path: Path) -> None:
    for path in ("a/harness-1", "b/harness-2/x/y", "b/other"):
        (tmp_path / path).mkdir(parents=True)
    trees = Layout(tuple(Hierarchy(str(tmp_path / name), 1, frozenset({name})) for name in "ab"))
    assert cgroups.list_groups(trees, "harness-") == ("harness-1", "harness-2")
    assert cgroups.subgroups(trees, "harness-2") == ("harness-2/x/y", "harness-2/x", "harness-2")


def test_removing_a_group_takes_all_below_it_in_every_tree(tmp_path: Path) -> None:
    for path in ("a/harness-1", "b/harness-1/x/y", "b/other"):
        (tmp_path / path).mkdir(parents=True)
    trees = Layout(tuple(Hierarchy(str(tmp_path / name), 1, frozenset({name})) for name in "ab"))
    cgroups.remove_group(trees, "harness-1", 0)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["other"]


def test_controllers_are_handed_down_by_one_write_so_that_a_refusal_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path, {"cgroup.subtree_control": "", "harness-1/cgroup.subtree_control": "memory"})
    cgroups.prepare_parent(v2_at(tmp_path), "harness-1")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "harness-1" / "cgroup.subtree_control").read_text() == "+cpu +pids"


def test_parent_that_cannot_be_prepared_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match="subtree_control"):
        cgroups.prepare_parent(v2_at(tmp_path), "harness-1")
    assert not (tmp_path / "harness-1").exists()


# -- groups of OCI containers ----------------------------------------------------------------------------------------


def test_full_layout_has_every_tree_that_limits_or_counts_something_once() -> None:
    assert [tree.path for tree in layout("v2").full()] == ["/sys/fs/cgroup"]
    for mode in ("v1", "hybrid"):
        trees = layout(mode).full()
        assert len({tree.path for tree in trees}) == len(trees)
        assert all(tree.controllers or tree.version == 2 for tree in trees)
        assert {*layout(mode).used()} <= {*trees}


def test_group_of_an_absolute_path_is_at_the_roots_of_the_mounts() -> None:
    group = Group.at(layout("hybrid"), "/a/b")
    assert group.directories == tuple(f"{tree.path}/a/b" for tree in group.trees)
    assert (group.name, group.made) == ("a/b", ())


@pytest.mark.parametrize("path", ["", "/", "..", "/a/../b", "a//b", "/a/", "/./a"])
def test_cgroups_path_that_is_no_plain_path_is_refused(path: str) -> None:
    with pytest.raises(ContainerError, match="not a group's name"):
        Group.at(layout("v2"), path)


def test_joins_of_both_methods() -> None:
    group = Group.at(layout("hybrid"), "/a")
    v1 = sum(tree.version == 1 for tree in group.trees)
    assert group.joins() == Joins(v1, unified=True)
    assert group.joins("procs") == Joins(v1 + 1, unified=False)


def test_parents_are_made_and_controllers_handed_down_to_each(tmp_path: Path) -> None:
    make(tmp_path, {"cgroup.subtree_control": "memory", "a/cgroup.subtree_control": ""})
    with pytest.raises(ContainerError, match=r"memory\.limit: .*memory\.max"):  # there is no kernel to make the file
        Group.at(v2_at(tmp_path), "/a/b").create(Resources(memory=Memory(limit_bytes=1)), parents=True)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +io +pids"
    assert (tmp_path / "a/cgroup.subtree_control").read_text() == "+cpu +io +memory +pids"
    assert not (tmp_path / "a/b").exists()


def test_controller_that_only_counts_may_be_refused_but_not_one_that_limits(tmp_path: Path) -> None:
    """There is no subtree_control to write to, as where the kernel refuses."""
    group = Group.at(v2_at(tmp_path), "/a")
    group.create(None, parents=True)
    assert group.made == (str(tmp_path / "a"),)
    group.remove(0, parents=True)
    with pytest.raises(ContainerError, match="subtree_control"):
        group.create(Resources(memory=Memory(limit_bytes=1)), parents=True)
    assert not (tmp_path / "a").exists()


def test_removing_takes_groups_below_and_only_the_parents_that_were_made(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    group = Group.at(v2_at(tmp_path), "/a/b/c")
    group.create(None, parents=True)
    assert group.made == (str(tmp_path / "a/b"), str(tmp_path / "a/b/c"))
    (tmp_path / "a/b/c/of/the/container").mkdir(parents=True)
    group.remove(0, parents=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_directory_that_is_there_is_used_only_if_asked_for_and_empty(tmp_path: Path) -> None:
    make(tmp_path, {"a/cgroup.procs": ""})
    group = Group.at(v2_at(tmp_path), "/a")
    with pytest.raises(ContainerError) as caught:
        group.create(None)
    assert caught.value.errno == errno.EEXIST
    group.create(None, exist_ok=True)
    assert group.made == ()
    make(tmp_path, {"a/below/cgroup.procs": "1\n"})
    with pytest.raises(ContainerError, match="with processes in it"):
        group.create(None, exist_ok=True)
    make(tmp_path, {"a/below/cgroup.procs": "", "a/cgroup.freeze": "1\n"})
    with pytest.raises(ContainerError, match="is frozen"):
        group.create(None, exist_ok=True)
    assert (tmp_path / "a").is_dir()


def test_cpuset_of_v1_is_copied_down_to_whoever_has_none(tmp_path: Path) -> None:
    files = {f"{path}/cpuset.{name}": "" for path in ("a", "a/b") for name in ("cpus", "mems")}
    make(tmp_path, {"cpuset.cpus": "0-3\n", "cpuset.mems": "0\n", **files, "a/cpuset.cpus": "2\n"})
    tree = Layout((Hierarchy(str(tmp_path), 1, frozenset({"cpuset"})),))
    Group.at(tree, "/a/b").create(None, parents=True, exist_ok=True)
    assert (tmp_path / "a/b/cpuset.cpus").read_text() == "2"
    assert (tmp_path / "a/cpuset.mems").read_text() == (tmp_path / "a/b/cpuset.mems").read_text() == "0"
    assert (tmp_path / "a/cpuset.cpus").read_text() == "2\n"


def test_obstacle_is_nothing_where_a_directory_can_be_made(tmp_path: Path) -> None:
    assert cgroup_setup.obstacle([str(tmp_path / "a/b")]) is None


# -- counters --------------------------------------------------------------------------------------------------------


def test_counters_of_v2(tmp_path: Path) -> None:
    files = {
        "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
        "memory.current": "9\n", "memory.max": "max\n", "memory.peak": "11\n", "memory.swap.current": "1\n",
        "memory.stat": "anon 5\nfile 3\nkernel 1\n", "memory.events": "oom 2\noom_kill 1\n",
        "pids.current": "3\n", "pids.max": "12\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \n",
        "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 total=4\n",
        "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=6\n",
    }  # fmt: skip
    make(tmp_path, {f"g/{name}": text for name, text in files.items()})
    stats = Group(v2_at(tmp_path), "g").stats()
    assert stats.cpu == cgroup_stats.CpuStats(30_000, 20_000, 10_000, 4, 2, 7000)
    assert stats.memory == cgroup_stats.MemoryStats(9, -1, 11, 5, 3, 1, 1, 1)
    assert stats.pids == cgroup_stats.PidsStats(3, 12)
    assert stats.io == (cgroup_stats.DeviceStats(8, 0, 1, 2, 3, 4), cgroup_stats.DeviceStats(8, 16))
    assert stats.hugetlb is None
    assert stats.pressure == {
        "cpu": cgroup_stats.PressureStats(6000, None), "memory": cgroup_stats.PressureStats(5000, 4000),
    }  # fmt: skip


def test_counters_of_v1(tmp_path: Path) -> None:
    files = {
        "cpuacct.usage": "30\n", "cpuacct.usage_user": "20\n", "cpuacct.usage_sys": "10\n",
        "cpu.stat": "nr_periods 4\nnr_throttled 2\nthrottled_time 7\n",
        "memory.usage_in_bytes": "9\n", "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.max_usage_in_bytes": "11\n", "memory.kmem.usage_in_bytes": "1\n",
        "memory.stat": "rss 1\ntotal_rss 5\ntotal_cache 3\ntotal_swap 2\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "pids.current": "3\n", "pids.max": "max\n",
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3\n",
        "blkio.throttle.io_serviced_recursive": "8:0 Read 3\n8:0 Write 4\n8:0 Total 7\nTotal 7\n",
        "hugetlb.2MB.usage_in_bytes": "0\n", "hugetlb.2MB.limit_in_bytes": "4096\n", "hugetlb.2MB.failcnt": "6\n",
    }  # fmt: skip
    make(tmp_path, {f"g/{name}": text for name, text in files.items()})
    names = frozenset({"cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"})
    stats = Group.at(Layout((Hierarchy(str(tmp_path), 1, names),)), "/g").stats()
    assert stats.cpu == cgroup_stats.CpuStats(30, 20, 10, 4, 2, 7)
    assert stats.memory == cgroup_stats.MemoryStats(9, -1, 11, 5, 3, 1, 2, 1)
    assert stats.pids == cgroup_stats.PidsStats(3, -1)
    assert stats.io == (cgroup_stats.DeviceStats(8, 0, 1, 2, 3, 4),)
    assert stats.hugetlb == (cgroup_stats.HugetlbStats("2MB", 0, 4096, 6),)
    assert stats.pressure == {}


@pytest.mark.parametrize(("number", "passes"), [(errno.ESRCH, True), (errno.EACCES, False)])
def test_a_thread_that_ends_on_its_way_home_is_passed_over(
    number: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, value: str) -> None:
        raise ContainerError("cgroup", number, path)

    monkeypatch.setattr(cgroupfs, "write", refuse)
    if passes:
        cgroups._move_unless_ended("1234", "home/tasks")
    else:
        with pytest.raises(ContainerError):
            cgroups._move_unless_ended("1234", "home/tasks")
