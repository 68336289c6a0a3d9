"""State directories: ids, what is remembered, locks, and which process a record means."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.container import oci
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.state import Homes, Record, boot_id, check_id, is_alive, process_status

RECORD = Record(
    "a", "/bundle", "1.2.0", 123, 456, "boot", "2026-01-31T12:00:00Z", "1", "/root", ("/g",), ("/g",), {"k": "v"}
)  # fmt: skip


@pytest.mark.parametrize("good", ["a", "A-b_c.d+e", "0", "x" * 255, "-a", "a..b"])
def test_plain_ids(good: str) -> None:
    check_id(good)


@pytest.mark.parametrize("bad", ["", ".", "..", ".a", "a/b", "a b", "a\n", "a\0", "é", "x" * 256, "a:b", "１"])
def test_other_ids(bad: str) -> None:
    with pytest.raises(ContainerError, match="id"):
        check_id(bad)


@given(st.text())
def test_an_accepted_id_is_one_name_below_the_root(text: str) -> None:
    try:
        check_id(text)
    except ContainerError:
        return
    path = os.path.normpath(f"/root/{text}")
    assert os.path.dirname(path) == "/root"  # noqa: PTH120
    assert os.path.basename(path) == text  # noqa: PTH119


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    with Homes(str(tmp_path / "root")).create("a") as home:
        home.save(RECORD)
        assert home.load() == RECORD


def test_fields_that_a_later_version_may_add_are_passed_over(tmp_path: Path) -> None:
    with Homes(str(tmp_path)).create("a") as home:
        home.save(RECORD)
        path = Path(home.at("state.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
        assert home.load() == RECORD


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "{}", "\xff"])
def test_a_state_that_is_none_is_an_error(tmp_path: Path, content: str) -> None:
    with Homes(str(tmp_path)).create("a") as home:
        Path(home.at("state.json")).write_bytes(content.encode("latin-1"))
        with pytest.raises(ContainerError, match="state"):
            home.load()


def test_an_id_is_taken_once_and_free_after_it(tmp_path: Path) -> None:
    homes = Homes(str(tmp_path))
    with homes.create("a") as home:
        assert homes.ids() == ("a",)
        with pytest.raises(ContainerError, match="already exists"), homes.create("a"):
            pass
        home.remove()
    assert homes.ids() == ()
    with homes.create("a"):
        pass


def test_none_is_an_error_and_an_empty_root_has_none(tmp_path: Path) -> None:
    homes = Homes(str(tmp_path / "nowhere"))
    assert homes.ids() == ()
    with pytest.raises(ContainerError, match="does not exist"), homes.open("a"):
        pass


def test_remove_takes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    with Homes(str(tmp_path)).create("a") as home:
        home.save(RECORD)
        stray = Path(home.at("stray"))
        stray.touch()
        with pytest.raises(ContainerError):
            home.remove()
        assert stray.exists()
        stray.unlink()
        home.remove()
    assert not (tmp_path / "a").exists()


def test_others_wait_and_do_not_get_what_was_removed_meanwhile(tmp_path: Path) -> None:
    homes = Homes(str(tmp_path))
    said: list[str] = []

    def wait() -> None:
        try:
            with homes.open("a"):
                said.append("got it")
        except ContainerError as error:
            said.append(str(error))

    with homes.create("a") as home:
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.2)
        assert said == []
        home.remove()
    thread.join(10)
    assert len(said) == 1
    assert "does not exist" in said[0]


def test_pause_waits_for_who_has_the_lock(tmp_path: Path) -> None:
    """A container that is frozen in the middle of its start never ends it."""
    homes = Homes(str(tmp_path))
    with homes.create("a") as home:
        home.save(RECORD)
    said: list[ContainerError] = []

    def pause() -> None:
        try:
            oci.Runtime(str(tmp_path)).pause("a")
        except ContainerError as error:
            said.append(error)

    thread = threading.Thread(target=pause)
    with homes.open("a"):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(10)
    assert ["cannot pause a container that is stopped" in str(error) for error in said] == [True]


@pytest.mark.parametrize("verb", ["pause", "resume", "state", "start"])
def test_a_directory_in_which_nothing_is_written_down_is_an_error_at_once(verb: str, tmp_path: Path) -> None:
    """As another process is about to remove it, or was killed as it made it."""
    (tmp_path / "c").mkdir()
    code = f"from harness.container.oci import Runtime; Runtime({str(tmp_path)!r}).{verb}('c')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert "ContainerError" in done.stderr


def test_directories_are_closed_to_others(tmp_path: Path) -> None:
    with Homes(str(tmp_path / "root")).create("a") as home:
        assert Path(home.path).stat().st_mode & 0o066 == 0
        assert (tmp_path / "root").stat().st_mode & 0o066 == 0


# -- which process -----------------------------------------------------------------------------------------------------


def _own_ticks() -> int:
    seen = process_status(os.getpid())
    assert seen is not None
    return seen[1]


def test_a_process_with_spaces_and_brackets_in_its_name(tmp_path: Path) -> None:
    program = tmp_path / "a ) R (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        try:
            seen = process_status(process.pid)
        finally:
            process.kill()
    assert seen is not None
    assert seen[0] in "RSD"
    assert seen[1] >= _own_ticks()


def test_alive_is_the_very_process() -> None:
    assert is_alive(os.getpid())
    assert is_alive(os.getpid(), _own_ticks())
    assert not is_alive(os.getpid(), _own_ticks() + 1)
    assert not is_alive(0)
    assert not is_alive(1 << 22)


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(process.pid)
    process.wait()


def test_statuses(tmp_path: Path) -> None:
    with Homes(str(tmp_path)).create("a") as home:
        here = replace(RECORD, pid=os.getpid(), start_ticks=_own_ticks(), boot_id=boot_id(), group_directories=())
        assert oci.status_of(here, home) == "running"
        Path(home.at("start.sock")).touch()
        assert oci.status_of(here, home) == "created"
        assert oci.status_of(replace(here, start_ticks=1), home) == "stopped"
        assert oci.status_of(replace(here, boot_id="another"), home) == "stopped"
        assert oci.status_of(replace(here, pid=0, owner=str(os.getpid())), home) == "creating"
        assert oci.status_of(replace(here, pid=0, owner=str(1 << 22)), home) == "stopped"
