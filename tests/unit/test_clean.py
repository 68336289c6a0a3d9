"""What `harness clean` removes, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.clean import Sweep, sweep
from harness.errors import BackendError
from harness.trials import ownership


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "run"


class Things:
    """A backend that holds one thing for each token; `stuck` ones cannot be removed."""

    def __init__(self, *tokens: str, stuck: str = "") -> None:
        self.held = set(tokens)
        self.stuck = stuck

    def tokens(self) -> set[str]:
        return set(self.held)

    def reap(self, token: str, *, dry_run: bool) -> list[str]:
        if token == self.stuck and not dry_run:
            raise BackendError(f"cgroup {token}: busy")
        if token not in self.held:
            return []
        if not dry_run:
            self.held.remove(token)
        return [f"cgroup: harness-{token}"]


def dead(token: str) -> Path:
    """Claim a run as a process that has ended would have."""
    scratch = ownership.claim(token, "run")
    owner = json.loads((scratch / ownership.OWNER_FILE).read_text())
    (scratch / ownership.OWNER_FILE).write_text(json.dumps(owner | {"pid": 2**22 + 1}))
    return scratch


def test_dead_runs_are_removed_and_living_ones_left_alone() -> None:
    scratch = dead("aaaaaaaa")
    living = ownership.claim("bbbbbbbb", "mine")
    things = Things("aaaaaaaa", "bbbbbbbb")
    lines = ["cgroup: harness-aaaaaaaa", f"directory: {scratch}"]
    assert sweep([things], dry_run=False) == Sweep({"aaaaaaaa": lines})
    assert things.held == {"bbbbbbbb"}
    assert living.is_dir()
    assert sweep([things], dry_run=False) == Sweep()


def test_a_dry_run_lists_the_same_and_removes_nothing() -> None:
    scratch = dead("aaaaaaaa")
    things = Things("aaaaaaaa")
    listed = sweep([things], dry_run=True)
    assert scratch.is_dir()
    assert sweep([things], dry_run=False) == listed


def test_what_cannot_be_removed_is_named_and_keeps_no_other() -> None:
    dead("cccccccc")
    things = Things("aaaaaaaa", "cccccccc", stuck="aaaaaaaa")
    done = sweep([things], dry_run=False)
    assert done.left == ["aaaaaaaa"]
    assert done.problems == ["aaaaaaaa: cgroup aaaaaaaa: busy"]
    assert things.held == {"aaaaaaaa"}


def test_a_run_that_is_just_being_claimed_is_no_remains(runtime: Path) -> None:
    """It gets its name only together with its owner."""
    (runtime / ".dddddddd").mkdir(parents=True)
    assert sweep([], dry_run=False) == Sweep()
    assert (runtime / ".dddddddd").is_dir()


def test_who_works_on_a_run_is_found_while_it_lives() -> None:
    dead("aaaaaaaa")
    assert ownership.living_owner("run") is None
    ownership.claim("bbbbbbbb", "mine")
    owner = ownership.living_owner("mine")
    assert owner is not None
    assert owner.run_id == "mine"


def test_a_runtime_directory_that_cannot_be_made_is_a_missing_prerequisite(runtime: Path) -> None:
    from harness.errors import CapabilityError

    runtime.write_text("a file")
    with pytest.raises(CapabilityError, match=r"runtime directory: .*cannot be made: (Not a directory|File exists)"):
        ownership.claim("aaaaaaaa", "run")


def test_a_run_that_cleans_up_itself_meanwhile_is_nothing_found() -> None:
    class Ending(Things):
        def reap(self, token: str, *, dry_run: bool) -> list[str]:
            return []

    assert sweep([Ending("aaaaaaaa")], dry_run=True) == Sweep()
