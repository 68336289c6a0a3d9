import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from harness.errors import StoreError
from harness.results.store import RunDirectory, find_run, list_runs, new_run_id
from tests.example_run import example_run, example_trials

TRIALS = example_trials(blocks=2)
RESOLVED = {"schema": "harness.scenario/1", "overrides": ["trials.blocks.min=6"], "only": ["vm"]}


@pytest.fixture
def directory(tmp_path):
    return RunDirectory.create(tmp_path, example_run(), "schema: harness.scenario/1\n", RESOLVED, base_dir=tmp_path)


def named(tmp_path, run_id):
    return RunDirectory.create(tmp_path, example_run(run_id=run_id), "", {}).path


def test_run_ids_sort_by_time():
    moment = datetime(2026, 3, 14, 9, 15, 22, tzinfo=UTC)
    assert new_run_id("http-start", "sha256:7f3c0a1b99", moment) == "20260314T091522Z-http-start-7f3c0a1b"
    assert re.fullmatch(r"\d{8}T\d{6}Z-x-0123abcd", new_run_id("x", "0123abcdef"))


def test_create_append_read(directory):
    for record in TRIALS:
        directory.append(record)
    again = RunDirectory.open(directory.path)
    assert again.trials() == tuple(TRIALS)
    assert again.run() == example_run()
    assert again.scenario_path().read_text() == "schema: harness.scenario/1\n"
    assert (again.overrides(), again.only()) == (("trials.blocks.min=6",), ("vm",))
    assert again.base_dir() == directory.path.parent
    assert again.report_dir.is_dir()
    assert again.log_dir("b03-vm") == directory.path / "logs" / "b03-vm"


def test_every_trial_is_on_disk_at_once(directory):
    for count, record in enumerate(TRIALS, 1):
        directory.append(record)
        assert len((directory.path / "trials.jsonl").read_text().splitlines()) == count


def test_create_refuses_what_is_there(directory, tmp_path):
    with pytest.raises(StoreError, match="cannot be created: File exists"):
        RunDirectory.create(tmp_path, example_run(), "", {})


KILLED = """
import os, signal, sys
from pathlib import Path
from harness.results.store import RunDirectory
from tests.example_run import example_trials
directory = RunDirectory.open(Path(sys.argv[1]))
directory.append(example_trials(blocks=2)[0])
os.write(directory._fd, b'{"schema": "harness.trial/1", "trial')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_loses_only_the_line_it_was_writing(directory, caplog):
    code = subprocess.run([sys.executable, "-c", KILLED, str(directory.path)], check=False).returncode
    assert code == -signal.SIGKILL
    journal = directory.path / "trials.jsonl"
    assert directory.torn
    assert directory.trials() == (TRIALS[0],)
    assert journal.read_bytes().endswith(b'"trial')  # reading changes nothing
    directory.append(TRIALS[1])
    assert directory.trials() == (TRIALS[0], TRIALS[1])
    assert not directory.torn
    assert "removing half a line" in caplog.text


def test_two_writers_are_one_too_many(directory):
    directory.append(TRIALS[0])
    other = RunDirectory.open(directory.path)
    with pytest.raises(StoreError, match="another harness writes to it"):
        other.append(TRIALS[1])
    assert other.trials() == (TRIALS[0],)
    directory.close()
    other.append(TRIALS[1])
    assert directory.trials() == (TRIALS[0], TRIALS[1])


def test_run_json_is_replaced_in_one_step(directory):
    inode = (directory.path / "run.json").stat().st_ino
    ended = replace(directory.run(), status="interrupted", stop_reason="by the user")
    directory.write_run(ended)
    assert directory.run() == ended
    assert (directory.path / "run.json").stat().st_ino != inode
    assert [path.name for path in directory.path.iterdir() if path.name.startswith(".")] == []


def test_another_image_is_refused(directory):
    directory.check_same_image(example_run().image["root_digest"])
    with pytest.raises(StoreError, match=r"image: was sha256:3f3f.* and is now sha256:00"):
        directory.check_same_image("sha256:00")


def test_open_refuses_what_is_no_run(tmp_path):
    with pytest.raises(StoreError, match=r"run\.json is missing"):
        RunDirectory.open(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"schema": "harness.run/9"}))
    with pytest.raises(StoreError, match=r"schema: harness\.run/9"):
        RunDirectory.open(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        RunDirectory.open(tmp_path)


def test_list_runs_oldest_first_and_nothing_else(tmp_path):
    second, first = named(tmp_path, "20260315T000000Z-a-00000002"), named(tmp_path, "20260314T000000Z-b-00000001")
    named(tmp_path, "reference")
    (tmp_path / "20260316T000000Z-c-00000003").mkdir()
    assert list_runs(tmp_path) == (first, second)
    assert list_runs(tmp_path / "none") == ()


def test_find_run_by_every_name(tmp_path):
    first, second = named(tmp_path, "20260314T000000Z-boot-0000aaaa"), named(tmp_path, "20260315T000000Z-boot-0000bbbb")
    reference = named(tmp_path, "reference")
    for text, path in [
        ("20260314T000000Z-boot-0000aaaa", first),
        ("20260314", first),
        ("aaaa", first),
        ("bbbb", second),
        ("latest", second),
        (str(reference), reference),
    ]:
        assert find_run(tmp_path, text) == path


def test_find_run_helps_with_mistakes(tmp_path):
    with pytest.raises(StoreError, match="holds none"):
        find_run(tmp_path, "latest")
    named(tmp_path, "20260314T000000Z-boot-0000aaaa")
    named(tmp_path, "20260314T000100Z-boot-0000bbbb")
    with pytest.raises(StoreError, match="fits 2 runs"):
        find_run(tmp_path, "20260314")
    for text, hint in [("lastest", "latest"), ("boot", "20260314T000100Z-boot-0000bbbb"), ("zzz", "the latest is")]:
        with pytest.raises(StoreError, match="no such run") as caught:
            find_run(tmp_path, text)
        assert hint in caught.value.hint
