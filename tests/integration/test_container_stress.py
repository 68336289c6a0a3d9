"""Many containers at once and many in a row: a short form of `benchmarks.container_stress`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks._rows import Launched
from benchmarks._same import Place, place
from benchmarks.container_stress import at_once, growth, in_a_row, slope, snapshot
from harness import plugins
from harness.container import launcher
from harness.images.tree import root_digest
from harness.interfaces import ArmSpec, RunContext
from harness.model.spec import RootTree
from tests.container_kit import LIMITS, SLEEPER, deadline

pytestmark = pytest.mark.needs("root", "overlayfs")

OURS = ("rss_bytes", "fds", "mounts", "groups")
"""What no other work on the host can change."""


@pytest.fixture
def where() -> Iterator[Place]:
    with place() as made:
        yield made


@pytest.fixture(params=["fast", "procs"])
def row(request: pytest.FixtureRequest, where: Place) -> Iterator[Launched]:
    made = Launched("builtin", where, request.param)
    yield made
    made.close()


def test_64_starts_at_once_all_work_and_leave_nothing(where: Place) -> None:
    row = Launched("builtin", where)
    try:
        with ThreadPoolExecutor(64) as pool:
            at_once(row.start, 64, pool)
            before = snapshot(where)
            _, failed = at_once(row.start, 64, pool)
            after = snapshot(where)
    finally:
        row.close()
    assert failed == []
    assert {name: after[name] for name in OURS[1:]} == {name: before[name] for name in OURS[1:]}


def test_threads_that_start_first_share_one_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(launcher, "_program", made)
    before = len(list(Path("/proc/self/fd").iterdir()))
    try:
        with ThreadPoolExecutor(32) as pool:
            _, failed = at_once(lambda _: launcher.program_fd(), 32, pool)
        assert failed == []
        assert len(made) == 1
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    finally:
        for fd in made:
            os.close(fd)


def test_what_fails_at_once_is_counted(where: Place) -> None:
    def fail(number: int) -> None:
        if number % 2:
            raise OSError(f"number {number}")

    with ThreadPoolExecutor(4) as pool:
        _, failed = at_once(fail, 4, pool)
    assert failed == ["OSError: number 1", "OSError: number 3"]


def test_starts_in_a_row_let_nothing_grow(row: Launched, where: Place) -> None:
    seen = in_a_row(row, where, 200, looks=4)
    assert growth(seen, OURS) == {}


@pytest.mark.parametrize("method", ["fast", "procs"])
def test_way_into_the_cgroup_can_be_chosen_and_is_recorded(method: str, tree: Path, context: RunContext) -> None:
    plugin = plugins.load("backends", "builtin")
    spec = ArmSpec("arm", RootTree(tree, root_digest(tree), 0), SLEEPER, LIMITS)
    arm = plugin.prepare(spec, plugin.options.model_validate({"cgroup_join": method}), context)
    try:
        instance = arm.launch("t0")
        try:
            instance.wait("ready", deadline())
            assert instance.pids()
            assert (arm.facts["cgroup_join"] == ["cgroup.procs"]) == (method == "procs")
        finally:
            instance.stop(deadline())
    finally:
        arm.close()


def test_what_grows_is_found() -> None:
    seen = {starts: {"fds": 10 + starts, "rss_bytes": 5} for starts in (0, 10, 20, 30)}
    assert growth(seen, ("fds", "rss_bytes")) == {"fds": 1.0}


def test_slope_is_not_moved_by_one_jump() -> None:
    assert slope([0, 1, 2, 3, 4], [5, 5, 900, 5, 5]) == 0
