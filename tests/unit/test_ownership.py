"""Whose remains are these, and may they be removed?"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.trials import ownership


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "runtime"))
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    yield tmp_path / "runtime"
    ownership.disown("0123abcd")


class Backend:
    """Holds things by token."""

    def __init__(self, things: dict[str, list[str]]) -> None:
        self.things = things

    def tokens(self) -> set[str]:
        return set(self.things)

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        return self.things.get(token, []) if dry_run else self.things.pop(token, [])


def test_a_claimed_run_is_alive_and_is_left_alone() -> None:
    ownership.claim("0123abcd", "run")
    assert ownership.is_alive(ownership.read_owner(ownership.runtime_dir() / "0123abcd"))
    assert ownership.dead_tokens([]) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"pid": 2**22 + 1}, id="no such process"),
        pytest.param({"start_ticks": 1}, id="the pid is another process now"),
        pytest.param({"boot_id": "before"}, id="the host was booted since"),
    ],
)
def test_a_run_is_dead_when_its_process_is(runtime: Path, change: dict[str, object]) -> None:
    scratch = ownership.claim("0123abcd", "run")
    owner = json.loads((scratch / "owner.json").read_text())
    (scratch / "owner.json").write_text(json.dumps(owner | change))
    assert ownership.dead_tokens([]) == ["0123abcd"]


def test_a_torn_owner_file_is_a_dead_run(runtime: Path) -> None:
    (ownership.claim("0123abcd", "run") / "owner.json").write_text('{"pid": 1')
    assert ownership.dead_tokens([]) == ["0123abcd"]


def test_a_living_run_whose_directory_is_not_seen_from_here_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a mount namespace with a /run of its own, where cgroups and processes are those of the host."""
    ownership.claim("0123abcd", "run")
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(ownership, "_ROOTS_REGISTRY", tmp_path / "nowhere")
    backend = Backend({"0123abcd": ["cgroup: x"], "89abcdef": ["cgroup: y"]})
    assert "0123abcd" in ownership.held_tokens()
    assert ownership.dead_tokens([backend]) == ["89abcdef"]
    ownership.reap("0123abcd", [], dry_run=False)  # its own process lets go of it
    assert ownership.dead_tokens([backend]) == ["0123abcd", "89abcdef"]


def test_things_without_a_scratch_directory_are_found_by_their_token() -> None:
    backend = Backend({"aaaaaaaa": ["cgroup: x"]})
    assert ownership.dead_tokens([backend]) == ["aaaaaaaa"]
    assert ownership.reap("aaaaaaaa", [backend], dry_run=True) == ["cgroup: x"]
    assert ownership.reap("aaaaaaaa", [backend], dry_run=False) == ["cgroup: x"]
    assert ownership.dead_tokens([backend]) == []


def test_reaping_removes_the_scratch_directory_last_and_a_dry_run_nothing(runtime: Path) -> None:
    scratch = ownership.claim("0123abcd", "run")
    (scratch / "b00-vm").mkdir()
    ownership.reap("0123abcd", [], dry_run=True)
    assert scratch.exists()
    assert ownership.reap("0123abcd", [], dry_run=False) == [f"directory: {scratch}"]
    assert not scratch.exists()


def test_the_work_directory_of_a_dead_run_is_found_after_a_reboot_and_goes_with_it() -> None:
    work = ownership.work_base() / "0123abcd"
    work.mkdir(parents=True)
    assert ownership.dead_tokens([]) == ["0123abcd"]
    assert ownership.reap("0123abcd", [], dry_run=False) == [f"directory: {work}"]
    assert ownership.dead_tokens([]) == []


def test_start_ticks_tell_processes_apart() -> None:
    own = ownership.start_ticks(os.getpid())
    assert own is not None
    assert own > 0
    assert ownership.start_ticks(2**22 + 1) is None


def test_a_living_run_with_another_runtime_directory_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership.os, "geteuid", lambda: 0)
    scratch = ownership.claim("0123abcd", "run")
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "elsewhere"))
    backend = Backend({"0123abcd": ["guest: qemu"]})
    assert ownership.dead_tokens([backend]) == []
    owner = json.loads((scratch / "owner.json").read_text())
    (scratch / "owner.json").write_text(json.dumps(owner | {"start_ticks": 1}))
    assert ownership.dead_tokens([backend]) == ["0123abcd"]
    assert ownership.reap("0123abcd", [backend], dry_run=False) == ["guest: qemu", f"directory: {scratch}"]
    assert not scratch.exists()
    assert ownership.dead_tokens([backend]) == []
