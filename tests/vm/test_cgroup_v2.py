"""The container runtime on every kind of host, seen from inside guests: cgroup v2 alone, v1 alone, and both.

One guest a kind, booted once: `guest/cgroup_report.py` runs in it and prints what it saw; each test judges a part.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.host.paths import cache_dir
from harness.images import debs
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, RunContext
from harness.model.milestones import EXITED
from harness.model.spec import Limits, RootTree, WorkloadSpec
from harness.trials import ownership
from tests.vm import _image

pytestmark = pytest.mark.needs("root", "qemu", "libvirt", "kernel", "erofs", "apt")

SCRIPT = Path(__file__).with_name("guest") / "cgroup_report.py"
GUEST = Limits(cpus=1, memory_bytes=1 << 30, pids=1000)
MIB = 1 << 20
LIMIT_BYTES = 64 * MIB  # of cgroup_report.LIMITS, as those below
PIDS = 20
CPUS = 0.25
KILLED = -9
V1_TREES = ("memory", "cpu,cpuacct", "pids")


def deadline(seconds: float) -> int:
    return time.monotonic_ns() + round(seconds * 10**9)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for trees and disks, which are too large to be kept after the tests."""
    path = tmp_path_factory.mktemp("guests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_HOME", "")
        patch.setenv("XDG_DATA_HOME", str(path / "data"))
        yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def tree(place: Path) -> RootTree:
    root = place / "root"
    shutil.copytree(debs.base_tree(cache_dir()), root, symlinks=True)
    _image.add_busybox_image(root)
    debs.add_harness(root, SCRIPT)
    return resolve_image(ImageRef("rootfs", str(root)), place, Store(place / "store"))


# v1 and hybrid are what many hosts of tests are themselves; HARNESS_GUEST_TESTS=all boots guests of them too.
MODES = ["v2", *(["v1", "hybrid"] if os.environ.get("HARNESS_GUEST_TESTS") == "all" else [])]


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def report(mode: str, tree: RootTree) -> dict[str, Any]:
    """What the script saw in a guest that has cgroups of this kind; the guest is gone again."""
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "cgroups")
    backend = plugins.load("backends", "libvirt")
    workload = WorkloadSpec(("/usr/bin/python3", f"/opt/{SCRIPT.name}", mode), {"PATH": "/usr/bin:/bin"})
    try:
        options = backend.options.model_validate({"accel": "tcg"})
        arm = backend.prepare(
            ArmSpec("guest", tree, workload, GUEST), options, RunContext("cgroups", token, scratch, cache_dir())
        )
        try:
            instance = arm.launch(mode)
            try:
                ended = instance.wait(EXITED, deadline(120))
            finally:
                instance.stop(deadline(30))
        finally:
            arm.close()
    finally:
        ownership.reap(token, [backend], dry_run=False)
    stdout, stderr = instance.output()
    assert ended.detail == "0", stderr.decode()
    seen: dict[str, Any] = json.loads(stdout)
    return seen


def seen(report: dict[str, Any], name: str) -> dict[str, Any]:
    part: dict[str, Any] = report[f"see_{name}"]
    assert "failed" not in part, part["failed"]
    return part


def groups_of(mode: str, name: str) -> set[str]:
    """Return the lines of /proc/PID/cgroup of a process that is in the group `name` wherever it should be."""
    trees = {"v2": (), "hybrid": V1_TREES, "v1": (*V1_TREES, "freezer")}[mode]
    return {f"{tree}:{name}" for tree in trees} | (set() if mode == "v1" else {f":{name}"})


def without_numbers(lines: list[str]) -> set[str]:
    return {line.partition(":")[2] for line in lines}


def test_mode_is_detected_and_nothing_is_missing(mode: str, report: dict[str, Any]) -> None:
    layout = seen(report, "layout")
    assert layout["mode"] == mode
    assert layout["missing"] == []
    assert [name for name, (available, _) in layout["needs"].items() if not available] == []


def test_a_container_is_born_in_its_group_by_clone_into_cgroup_where_there_is_cgroup2(
    mode: str, report: dict[str, Any]
) -> None:
    layout = seen(report, "layout")
    assert (layout["tasks"], layout["unified"]) == {"v2": (0, True), "hybrid": (3, True), "v1": (4, False)}[mode]
    for kind in ("container", "process"):
        there = without_numbers(seen(report, kind)["memberships"])
        assert there >= groups_of(mode, "/harness-0123abcd/t0"), kind


def test_a_container_has_namespaces_of_its_own_and_its_group_is_the_root_inside(
    mode: str, report: dict[str, Any]
) -> None:
    container = seen(report, "container")
    assert container["own_namespaces"] == ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
    assert container["pids"] == 2, "the agent and the workload"
    said = container["said"]
    assert said[0] == "up"
    assert said[-1] == "inside"
    assert without_numbers(said[1:-1]) >= groups_of(mode, "/")


def test_limits_are_in_the_kernels_files(mode: str, report: dict[str, Any]) -> None:
    quota = "25000 100000" if mode == "v2" else "25000"
    assert seen(report, "container")["limits"] == {"memory": str(LIMIT_BYTES), "cpu": quota, "pids": str(PIDS)}


def test_a_process_over_the_memory_limit_is_killed(report: dict[str, Any]) -> None:
    over = seen(report, "memory_limit")
    assert over["said"] == ["137"]
    assert over["oom_kill"] >= 1
    assert LIMIT_BYTES // 2 < over["peak_bytes"] <= LIMIT_BYTES


def test_memory_is_told_by_account(report: dict[str, Any]) -> None:
    """6 MB in a shell's variable, 8 MiB in a file on the container's tmpfs."""
    memory = seen(report, "memory_use")
    use, raw = memory["use"], memory["raw"]
    assert 5 * MIB < use["anon_bytes"] < 12 * MIB
    assert 8 * MIB <= use["file_bytes"] < 10 * MIB
    assert 0 < use["kernel_bytes"] < 8 * MIB
    assert abs(use["current_bytes"] - raw["current_bytes"]) < MIB
    assert use["anon_bytes"] + use["file_bytes"] < use["current_bytes"] <= use["peak_bytes"] <= LIMIT_BYTES


def test_forks_are_bounded_and_all_end_with_the_container(report: dict[str, Any]) -> None:
    bomb = seen(report, "pids_limit")
    assert bomb["reached"]
    assert PIDS - 2 <= bomb["count"] <= PIDS
    assert bomb["current"] <= PIDS
    assert bomb["alive_after"] == 0


def test_cpu_is_throttled(report: dict[str, Any]) -> None:
    cpu = seen(report, "cpu_limit")
    assert cpu["throttled"] >= 5
    assert 0 < cpu["share"] < CPUS * 1.5


def test_caller_goes_into_a_group_and_home_and_its_child_stays(mode: str, report: dict[str, Any]) -> None:
    caller = seen(report, "caller_inside")
    moved = {line for line in groups_of(mode, "/harness-0123abcd/caller") if mode == "v2" or line[0] != ":"}
    assert without_numbers(caller["there"]) >= moved
    assert without_numbers(caller["child"]) >= moved
    assert caller["back"] == caller["home"]
    assert caller["child_is_in"]
    assert caller["child_ended"] == KILLED


def test_kill_ends_what_ignores_signals_and_with_cgroup2_what_is_in_groups_below(
    mode: str, report: dict[str, Any]
) -> None:
    kill = seen(report, "kill")
    assert kill["has_switch"] == (mode != "v1")
    assert kill["codes"] == [KILLED, KILLED]


def test_a_vmm_is_metered(report: dict[str, Any]) -> None:
    """A process with 30 MiB of its own, started as a VMM is."""
    meter = seen(report, "meter")
    assert 30 * MIB < meter["anon_bytes"] < 48 * MIB
    assert meter["anon_bytes"] <= meter["current_bytes"]
    assert meter["child_ended"] == KILLED


def test_what_a_dead_run_left_is_found_by_name_and_removed(report: dict[str, Any]) -> None:
    reaping = seen(report, "reaping")
    assert reaping["tokens"] == ["0123abcd"]
    name = "harness-0123abcd"
    expected = [f"process: pid {reaping['pid']} in cgroup {name}", f"cgroup: {name}/dead", f"cgroup: {name}"]
    assert reaping["dry"] == expected
    assert reaping["child_ended"] == KILLED


def test_a_root_group_with_processes_is_refused_unchanged_and_works_when_they_have_moved(
    mode: str, report: dict[str, Any]
) -> None:
    """As a harness in a container finds it on v2; v1 has no such rule."""
    if mode != "v2":
        assert "see_undelegated" not in report
        return
    undelegated = seen(report, "undelegated")
    assert undelegated["refusal"] == "EBUSY"
    assert (undelegated["handed_down"], undelegated["left"]) == ([], [])
    assert {"cpu.max", "memory.max", "pids.max"} <= {*undelegated["delegated"]}


def test_nothing_is_left_in_the_guest(report: dict[str, Any]) -> None:
    assert seen(report, "remains") == {"groups": [], "mounts": [], "processes": []}
