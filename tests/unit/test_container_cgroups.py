"""How a host's cgroups are read: captured mountinfo files, and directories that look like a group."""

import errno
from pathlib import Path

import pytest

from harness.container import cgroupfs, cgroups, mountinfo
from harness.container.cgroups import Group, Hierarchy, Layout, Limits, MemoryUse
from harness.container.errors import ContainerError
from harness.container.plan import Joins

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
