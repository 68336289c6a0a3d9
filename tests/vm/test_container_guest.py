"""The container suite on hosts of the other kinds: a distribution's kernel, and cgroup v2 alone or v1 alone, in guests.

Guests run `tests/integration/test_container_*.py` as they are; here each file of theirs is a test, and each test of
theirs a subtest. Where every instruction is emulated there is no time for all: of most files only some tests run, and
what is left out is shown as skipped, with the reason. HARNESS_GUEST_TESTS=all leaves out only what makes no sense there
(an hour without KVM); HARNESS_GUEST_TESTS=security_races,cli does so for the files whose names have these words.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import _suite
from tests.vm._suite import Suite

INTEGRATION = Path(__file__).parents[1] / "integration"
WORDS = os.environ.get("HARNESS_GUEST_TESTS", "").split(",")
ALL = bool(WORDS[0])
FILES = sorted(
    path.name
    for path in INTEGRATION.glob("test_container_*.py")
    if WORDS[0] in {"", "all"} or any(word in path.name for word in WORDS)
)
# v1 alone is for `all`: most hosts of tests have v1 groups of their own, where everything runs anyway.
MODES = {"v2": FILES, **({"v1": ["test_container_resources.py"]} if WORDS[0] == "all" else {})}
CASES = [pytest.param(mode, name, id=f"{mode}-{name[5:-3]}") for mode, names in MODES.items() for name in names]
SECONDS = 5000 if ALL else 840
MOST = None if ALL else 1
WHOLE = ["test_container_resources.py"]
# By the beginning of their names, tests that make no sense there.
OLD_TMPFS = "the directories of tests are on tmpfs, which maps no ids before Linux 6.3"
SENSELESS = {
    "test_container_oci_mounts.py::test_an_idmapped_bind_shows_and_stores_other_owners": OLD_TMPFS,
    "test_container_oci_mounts.py::test_idmap_without_maps_takes_the_containers": OLD_TMPFS,
    "test_container_oci_mounts.py::test_ridmap_reaches_what_is_below": OLD_TMPFS,
    "test_container_oci_mounts.py::test_overlay_whose_options_need_more_than_a_page":
        "overlayfs takes no more than a page of options before Linux 6.5",
}  # fmt: skip
# Tests that take too long where every instruction is emulated.
SLOW = {
    "test_container_cli.py::test_detached_life": "dozens of commands: a minute where all is emulated",
    "test_container_cli.py::test_what_nobody_watches_any_more": "a dozen commands: half a minute where all is emulated",
    "test_container_cli.py::test_names": "a dozen commands: half a minute where all is emulated",
    "test_container_security.py::test_working_directory_behind_an_fd_does_not": "21 containers: a minute if emulated",
    "test_container_security_bombs.py::test_fork_bomb_is_held": "needs 20 refused forks in 10 s",
    "test_container_security_crash.py::test_harness_killed_at_any_moment": "12 starts of Python: a minute if emulated",
    "test_container_security_crash.py::test_create_killed_at_any_moment": "starts take too long for its moments",
    "test_container_security_crash.py::test_all_verbs_at_once": "132 commands: minutes if emulated",
    "test_container_security_crash.py::test_sixty_four_creates_of_one_id": "64 commands: minutes if emulated",
    "test_container_security_races.py::test_swap_in_the_root": "hundreds of containers: minutes if emulated",
    "test_container_stress.py::test_64_starts_at_once": "two times 64 containers: minutes if emulated",
    "test_container_security_races.py::test_swap_by_another": "hundreds of containers: minutes if emulated",
}
# Tests that fail there for a reason that is known, not always.
KNOWN = {
    "test_container_stress.py::test_starts_in_a_row_let_nothing_grow":
        "it looks at this session's own memory, which other tests have just used; alone, 600 starts let nothing grow",
}  # fmt: skip
LEFT_OUT = SENSELESS if ALL else {**SENSELESS, **SLOW}
pytestmark = [
    pytest.mark.needs("root", "qemu", "libvirt", "kernel", "erofs", "apt"),
    pytest.mark.timeout(SECONDS + 200),
]

# What a guest of this kind has nothing for, or this kernel.
MAY_SKIP = {
    "v2": ("v2 has been tested",),
    "v1": ("v1 has been tested", "no cgroup2 tree here"),
}


def halves(names: list[str]) -> list[list[str]]:
    """Return the files in two parts of about the same size: two guests keep two processors busy."""
    parts: list[list[str]] = [[], []]
    for name in sorted(names, key=lambda name: (INTEGRATION / name).stat().st_size, reverse=True):
        min(parts, key=lambda part: sum((INTEGRATION / name).stat().st_size for name in part)).append(name)
    return [sorted(part) for part in parts if part]


def arguments(names: list[str]) -> list[str]:
    left_out = {f"tests/integration/{name}": why for name, why in LEFT_OUT.items()}
    choice = json.dumps({"left_out": left_out, "whole": WHOLE, "most": MOST, "limit_s": 900 if ALL else 90})
    return [choice, *(f"tests/integration/{name}" for name in names)]


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Suite]]:
    place = tmp_path_factory.mktemp("guests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_HOME", "")
        patch.setenv("XDG_DATA_HOME", str(place / "data"))
        guests = [(mode, arguments(part)) for mode, names in MODES.items() for part in halves(names)]
        yield _suite.run_suites(_suite.suite_tree(place), guests, SECONDS)
    shutil.rmtree(place)


@pytest.fixture
def suite(mode: str, suites: dict[str, Suite]) -> Suite:
    return suites[mode]


@pytest.mark.parametrize("mode", MODES)
def test_guest_is_of_the_kind_that_was_asked_for(mode: str, suite: Suite) -> None:
    every = {"cpu", "cpuset", "io", "memory", "pids", "hugetlb"} if mode == "v2" else {"memory", "cpu,cpuacct", "pids"}
    assert every <= {*suite.controllers}, suite.log
    assert suite.kernel not in {"", os.uname().release}
    assert all(ended.startswith("exit code") for ended in suite.ended), f"{suite.ended}: {suite.log[-3000:]}"


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_file(mode: str, name: str, suite: Suite, subtests: pytest.Subtests) -> None:
    tests = suite.of(name)
    assert any(suite.outcomes.get(test) == "passed" for test in tests), f"{suite.ended}: {suite.log[-3000:]}"
    for test in tests:
        with subtests.test(test.partition("::")[2]):
            judge(suite, test)


def judge(suite: Suite, test: str) -> None:
    outcome, why = suite.outcomes.get(test), suite.reasons.get(test, "")
    if test in suite.left_out:
        pytest.skip(f"left out: {suite.left_out[test]}")
    if outcome is None:
        pytest.fail(f"did not run: {suite.ended}", pytrace=False)
    if outcome == "skipped" and any(re.search(known, why) for known in MAY_SKIP[suite.mode]):
        pytest.skip(why.removeprefix("Skipped: "))
    known = next((reason for name, reason in KNOWN.items() if f"/{name}" in test), None)
    if outcome == "failed" and known:
        pytest.xfail(f"{known}: {why[-300:]}")
    if outcome != "passed":
        pytest.fail(f"{outcome} in the guest: {why}", pytrace=False)


def test_what_is_left_out_exists(suites: dict[str, Suite]) -> None:
    """Else a test that was renamed would stay in the list, and nobody would miss it."""
    collected = suites["v2"].collected
    here = [name for name in LEFT_OUT if name.partition("::")[0] in FILES]
    assert [name for name in here if not any(f"integration/{name}" in test for test in collected)] == []
