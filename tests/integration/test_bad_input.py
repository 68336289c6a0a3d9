"""Whatever goes wrong for a user: one clear message, the hint that helps, the right exit code, no finished trial lost.

Real runs of a process and a container; the command is started as a user does.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.host.paths import cache_dir

pytestmark = pytest.mark.needs("root", "overlayfs")

SCENARIO = """\
schema: harness.scenario/1
name: small
image: {name: busybox}
workload: {kind: command, argv: [/bin/true], ready: {exit: true}}
limits: {cpus: 1, memory: 192MiB, pids: 64}
runtimes:
  process:   {backend: process}
  container: {backend: builtin}
control: process
trials: {blocks: {min: 2, max: 2}, warmup: 1, seed: 7}
metrics: [startup]
"""
TRIALS = 6
MORE_THAN_ALL = 32
SLOW = ("--set", "workload.argv=[/bin/sleep, '30']")
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image store with busybox."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(data))
        assert harness("image", "bootstrap", "busybox", cwd=data).returncode == 0
    return data


@pytest.fixture
def ground(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a scenario that works."""
    monkeypatch.setenv("XDG_DATA_HOME", str(store))
    for variable in ("GITHUB_ACTIONS", "CI"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    return tmp_path


def harness(*argv: str, cwd: Path) -> Done:
    command = [sys.executable, "-m", "harness", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def change(ground: Path, old: str, new: str) -> None:
    text = (ground / "scenario.yaml").read_text()
    assert old in text
    (ground / "scenario.yaml").write_text(text.replace(old, new))


def only_run(ground: Path) -> Path:
    (run,) = (ground / "results").iterdir()
    return run


def trials(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


def status(run: Path) -> tuple[str, str]:
    document = json.loads((run / "run.json").read_text())
    return document["status"], document["stop_reason"]


def report(done: Done) -> dict[str, Any]:
    """Return the one document on stdout."""
    document: dict[str, Any] = json.loads(done.stdout)
    return document


# -- nothing ran ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        pytest.param("pids: 64", "pdis: 64", 2, r"scenario\.yaml:5:\d+: limits\.pdis: .*'pids'", id="unknown key"),
        pytest.param("min: 2, max: 2", "min: two", 2, r"scenario\.yaml:10:\d+: trials\.blocks\.min: ", id="wrong type"),
        pytest.param("name: busybox", "name: busybx", 3, r"busybx:latest: not in the store(.|\n)*'busybox", id="image"),
        pytest.param("name: busybox", "build: nodir", 3, r"nodir: no such file(.|\n)*hint: paths ", id="directory"),
        pytest.param("name: busybox", "build: base", 3, r"base/Containerfile:1: FROM: .*debian:none", id="base image"),
        pytest.param("name: busybox", "build: typo", 2, r"typo/Containerfile:2: RUNN: (.|\n)*hint: .*'RUN'", id="typo"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(ground: Path, old: str, new: str, code: int, said: str) -> None:
    for name, text in {"base": "FROM debian:none\n", "typo": "FROM busybox\nRUNN true\n"}.items():
        (ground / name).mkdir()
        (ground / name / "Containerfile").write_text(text)
    change(ground, old, new)
    done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert done.stdout == ""
    assert not list(ground.glob("results/*"))
    document = report(harness("run", "scenario.yaml", "--json", cwd=ground))
    assert (document["schema"], document["exit_code"]) == ("harness.error/1", code)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param(["scenari.yaml"], "did you mean 'scenario.yaml'", id="file"),
        pytest.param(["scenario.yaml", "--only", "contaner"], "did you mean 'container'", id="runtime"),
        pytest.param(["scenario.yaml", "--budget", "soon"], "--budget: expected a duration", id="budget"),
        pytest.param(["scenario.yaml", "--results", "scenario.yaml"], "--results DIR", id="results is a file"),
        pytest.param(["scenario.yaml", "--results", "/proc/here"], "/proc/here: cannot be created", id="no place"),
        pytest.param([], "give either a SCENARIO or --resume RUN", id="nothing"),
        pytest.param(["--resume", "latest"], "latest: no such run", id="nothing to resume"),
    ],
)
def test_a_wrong_command_line_is_told_with_what_would_be_right(ground: Path, argv: Sequence[str], said: str) -> None:
    done = harness("run", *argv, "--json", cwd=ground)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert report(done)["exit_code"] == 2


def test_every_mistake_of_a_scenario_is_in_the_document_with_its_place(ground: Path) -> None:
    change(ground, "pids: 64", "pdis: 64")
    change(ground, "seed: 7", "seed: seven")
    problems = report(harness("run", "scenario.yaml", "--json", cwd=ground))["problems"]
    assert [(problem["key"], problem["line"]) for problem in problems] == [("limits.pdis", 5), ("trials.seed", 10)]


@pytest.mark.needs("qemu", "libvirt", "kernel", "erofs")
def test_kvm_that_does_not_boot_is_a_missing_prerequisite(ground: Path) -> None:
    change(ground, "{backend: builtin}", "{backend: libvirt, machine: q35, accel: kvm}")
    done = harness("run", "scenario.yaml", cwd=ground)
    if done.returncode == 0:
        assert {trial["accelerator"] for trial in trials(only_run(ground))} == {None, "kvm"}
        pytest.skip("KVM works here")
    assert done.returncode == 3, done.stderr
    assert re.search(r"kvm\b.* not usable: \S+", done.stderr), done.stderr
    assert re.search(r"^hint: .*accel: auto lets the run fall back to TCG", done.stderr, re.MULTILINE), done.stderr


@pytest.mark.needs("qemu", "libvirt", "kernel", "erofs")
def test_libvirt_directories_that_are_all_in_use_are_a_missing_prerequisite(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = cache_dir() / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(ground / "cache"))
    home = cache_dir() / "libvirt"
    home.mkdir(parents=True)
    (cache_dir() / "kernels").symlink_to(kernels)
    change(ground, "{backend: builtin}", "{backend: libvirt, accel: tcg}")
    with ExitStack() as locks:
        for number in range(MORE_THAN_ALL):
            (home / str(number)).mkdir(parents=True)
            lock = locks.enter_context((home / str(number) / "harness.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == 3, done.stderr
    assert re.search(r"\d+ harness processes use it already", done.stderr), done.stderr
    assert "hint: wait until some have ended" in done.stderr


# -- the workload fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said", "hint"),
    [
        pytest.param(
            "[/bin/sh, -c, 'echo no config >&2; exit 3']",
            "ended with code 3 before it was ready | stderr: no config", "what it wrote is in results/", id="crash",
        ),
        pytest.param("[/bin/sleep, '30']", "ready: not reached in time", "it got 1.00 s (workload.timeout)", id="slow"),
        pytest.param("[/app/server]", "/app/server: No such file", "the image lacks this program", id="no program"),
    ],
)  # fmt: skip
def test_a_workload_that_never_gets_ready_is_given_up_with_its_last_words(
    ground: Path, argv: str, said: str, hint: str
) -> None:
    settings = ["--set", f"workload.argv={argv}", "--set", "workload.timeout=1s"]
    done = harness("run", "scenario.yaml", *settings, cwd=ground)
    assert done.returncode == 4, done.stderr
    *_, error, advice = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "its first 2 trials failed" in error
    assert said in error
    assert advice.startswith(f"hint: {hint}")
    assert status(only_run(ground))[0] == "failed"
    assert {trial["status"] for trial in trials(only_run(ground))} <= {"failed", "timeout"}


def sometimes(*blocks: int) -> str:
    """Return an argv that fails in these blocks of the process, which sees its cgroup and so the trial's name."""
    names = "|".join(f"*b{block:02d}-process*" for block in blocks)
    return f"[/bin/sh, -c, 'case \"$(cat /proc/self/cgroup)\" in {names}) echo unlucky >&2; exit 9;; esac']"


def test_failures_beyond_tolerance_end_with_4_but_the_table_is_printed(ground: Path) -> None:
    settings = ["--set", f"workload.argv={sometimes(3)}", "--set", "trials.blocks={min: 4, max: 4}"]
    done = harness("run", "scenario.yaml", *settings, cwd=ground)
    assert done.returncode == 4, done.stderr
    assert "startup.ready" in done.stdout
    assert "error: process: 1 of 5 trials failed: workload: ended with code 9" in done.stderr
    assert "stderr: unlucky" in done.stderr
    assert status(only_run(ground))[0] == "complete"
    document = report(harness("run", "--resume", "latest", "--json", cwd=ground))
    assert document["schema"].startswith("harness.report/"), "a report and no second document for the error"


def test_failures_within_tolerance_are_told_and_tolerated(ground: Path) -> None:
    settings = ["--set", f"workload.argv={sometimes(3)}", "--set", "trials.blocks={min: 9, max: 9, extra: 0}"]
    done = harness("run", "scenario.yaml", *settings, "--only", "process", cwd=ground)
    assert done.returncode == 0, done.stderr
    assert "b03-process failed" in done.stderr
    assert [trial["status"] for trial in trials(only_run(ground))].count("failed") == 1


def test_a_cell_of_a_matrix_that_cannot_work_ends_no_other(ground: Path) -> None:
    change(ground, "runtimes:", "matrix: {workload.argv: [[/bin/nothing], [/bin/true], [/bin/true, twice]]}\nruntimes:")
    done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == 4, done.stderr
    assert re.search(r'error: cell 1 \(workload.argv=\["/bin/nothing"\]\): \w+: its first 2 trials failed', done.stderr)
    assert "cells     2 of 3 complete" in done.stdout
    runs = sorted(
        (ground / "results").iterdir(), key=lambda run: json.loads((run / "run.json").read_text())["matrix"]["number"]
    )
    ran = [{tuple(trial["attestation"]["argv"]) for trial in trials(run) if trial["attestation"]} for run in runs]
    assert ran == [set(), {("/bin/true",)}, {("/bin/true", "twice")}]


# -- the host fails -------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("size", [pytest.param("48k", id="few blocks"), pytest.param("28k", id="hardly anything")])
def test_a_full_disk_keeps_the_finished_trials_and_the_run_goes_on_when_there_is_room(ground: Path, size: str) -> None:
    settings = ["--set", "trials.blocks={min: 9, max: 9, extra: 0}"]
    with small_disk(ground / "results", size):
        done = harness("run", "scenario.yaml", *settings, cwd=ground)
        assert done.returncode == 4, done.stderr
        assert f"the disk at {ground / 'results'} has " in done.stderr
        assert "make room, then: harness run --resume results/" in done.stderr
        run = only_run(ground)
        kept = [json.loads(line) for line in (run / "trials.jsonl").read_bytes().split(b"\n")[:-1]]
        assert f"hint: {len(kept)} finished trial" in done.stderr
        assert ("startup.ready" in done.stdout) == (len(kept) >= 4), "the table, once a block is complete"
        subprocess.run(["mount", "-o", "remount,size=4m", str(ground / "results")], check=True)
        resumed = harness("run", "--resume", "latest", cwd=ground)
        assert resumed.returncode == 0, resumed.stderr
        assert trials(run)[: len(kept)] == kept
        assert len(trials(run)) == 20
        assert status(run)[0] == "complete"


def test_a_read_only_results_directory_is_told_before_anything_is_prepared(ground: Path) -> None:
    with small_disk(ground / "results", "64k"):
        subprocess.run(["mount", "-o", "remount,ro", str(ground / "results")], check=True)
        done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == 2, done.stderr
    assert "results: cannot be written: no permission, or a read-only disk" in done.stderr
    assert "preparing" not in done.stderr


def test_a_full_stdout_loses_the_table_but_not_the_run(ground: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "harness", "run", "scenario.yaml"]
        done = subprocess.run(command, cwd=ground, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert f"hint: harness report results/{only_run(ground).name}" in done.stderr
    assert len(trials(only_run(ground))) == TRIALS


def test_a_reader_of_stdout_that_goes_early_loses_the_table_but_not_the_run(ground: Path) -> None:
    process = started(ground)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141, said
    assert status(only_run(ground))[0] == "complete"
    assert (only_run(ground) / "report" / "summary.json").exists()


def test_two_runs_at_once_do_not_meet(ground: Path) -> None:
    both = [started(ground), started(ground)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert [len(trials(run)) for run in (ground / "results").iterdir()] == [TRIALS, TRIALS]
    for process in both:
        process.communicate()


# -- signals --------------------------------------------------------------------------------------------------------


def started(ground: Path, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "run", *(argv or ("scenario.yaml",))]
    return subprocess.Popen(command, cwd=ground, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return
    pytest.fail(f"it ended without saying {word!r}")


def wait_for(what: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_trial_ends_it_at_once_and_says_how_to_go_on(ground: Path, number: signal.Signals) -> None:
    process = started(ground, "scenario.yaml", *SLOW)
    read_until(process, "writing")
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)  # the workload sleeps for 30
    assert process.returncode == 130, err
    run = only_run(ground)
    assert f"error: interrupted while measuring: 0 finished trials kept in results/{run.name}" in err
    assert f"hint: harness run --resume results/{run.name}" in err
    assert status(run) == ("interrupted", "interrupted by the user")


def test_a_signal_while_arms_are_prepared_leaves_nothing(ground: Path, store: Path) -> None:
    """The image is large, and its build takes some seconds: it begins with a directory of its own in the store."""
    (ground / "context").mkdir()
    (ground / "context" / "Containerfile").write_text("FROM busybox\nCOPY big /big\n")
    (ground / "context" / "big").write_bytes(os.urandom(96 << 20))
    change(ground, "name: busybox", "build: context")
    places = store / "harness" / "images" / "tmp"
    before = set(places.iterdir())
    process = started(ground)
    wait_for(lambda: set(places.iterdir()) - before)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted before the first trial: nothing was measured" in err
    assert not list(ground.glob("results/*"))


@pytest.mark.parametrize("wait_s", [0.05, 0.3])
def test_an_interrupted_run_is_completed_by_resume(ground: Path, wait_s: float) -> None:
    """Whatever the trial was doing then: starting, attesting, stopping, or being written down."""
    process = started(ground, "scenario.yaml", "--set", "trials.blocks={min: 12, max: 12, extra: 0}")
    read_until(process, "writing")
    time.sleep(wait_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    kept = trials(only_run(ground))
    assert f"{len(kept)} finished trial" in err
    resumed = harness("run", "--resume", "latest", cwd=ground)
    assert resumed.returncode == 0, resumed.stderr
    after = trials(only_run(ground))
    assert after[: len(kept)] == kept
    assert len({trial["trial_id"] for trial in after}) == len(after) == 26


def test_a_signal_while_it_reports_says_that_the_run_is_complete(ground: Path) -> None:
    """Stdout is a pipe that is full already: the report waits there."""
    reader, writer = os.pipe()
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    command = [sys.executable, "-m", "harness", "run", "scenario.yaml"]
    process = subprocess.Popen(command, cwd=ground, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    wait_for(lambda: list(ground.glob("results/*/report/summary.json")))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    os.close(reader)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    run = only_run(ground)
    assert f"interrupted while reporting: {TRIALS} finished trials kept in results/{run.name}" in err
    assert f"hint: harness report results/{run.name}" in err
    assert status(run)[0] == "complete"


def test_with_json_an_interrupt_is_a_document_too(ground: Path) -> None:
    process = started(ground, "scenario.yaml", *SLOW, "--json")
    wait_for(lambda: list(ground.glob("results/*/logs/*")))  # a trial has begun
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert (document["kind"], document["exit_code"]) == ("Interrupted", 130)
    assert document["hint"] is not None


# -- resume ---------------------------------------------------------------------------------------------------------


def test_a_complete_run_has_nothing_left_to_measure(ground: Path) -> None:
    assert harness("run", "scenario.yaml", cwd=ground).returncode == 0
    before = (only_run(ground) / "trials.jsonl").read_bytes()
    again = harness("run", "--resume", "latest", cwd=ground)
    assert again.returncode == 0, again.stderr
    assert "nothing is left to measure: all 2 blocks ran" in again.stderr
    assert "startup.ready" in again.stdout
    assert (only_run(ground) / "trials.jsonl").read_bytes() == before


def test_a_budget_ends_a_run_that_resume_takes_to_its_end(ground: Path) -> None:
    first = harness("run", "scenario.yaml", "--budget", "1ms", cwd=ground)
    assert first.returncode == 0, first.stderr
    assert "the time budget was used up after 1 block" in first.stdout
    second = harness("run", "--resume", "latest", cwd=ground)
    assert second.returncode == 0, second.stderr
    assert len(trials(only_run(ground))) == TRIALS


def test_a_run_whose_scenario_was_edited_is_not_taken_up(ground: Path) -> None:
    assert harness("run", "scenario.yaml", "--budget", "1ms", cwd=ground).returncode == 0
    stored = only_run(ground) / "scenario.yaml"
    stored.write_text(stored.read_text().replace("pids: 64", "pids: 65"))
    done = harness("run", "--resume", "latest", cwd=ground)
    assert done.returncode == 2, done.stderr
    assert "scenario.yaml is not what the run began with" in done.stderr
    assert "start a new run" in done.stderr


def test_a_run_whose_image_was_changed_is_not_taken_up(ground: Path) -> None:
    (ground / "context").mkdir()
    (ground / "context" / "Containerfile").write_text("FROM busybox\nCOPY note /note\n")
    (ground / "context" / "note").write_text("before")
    change(ground, "name: busybox", "build: context")
    assert harness("run", "scenario.yaml", "--budget", "1ms", cwd=ground).returncode == 0
    (ground / "context" / "note").write_text("after")
    done = harness("run", "--resume", "latest", cwd=ground)
    assert done.returncode == 2, done.stderr
    assert re.search(r"image: was sha256:\w+ and is now sha256:\w+", done.stderr)


def test_a_run_of_another_host_or_harness_is_not_taken_up(ground: Path) -> None:
    assert harness("run", "scenario.yaml", "--budget", "1ms", cwd=ground).returncode == 0
    path = only_run(ground) / "run.json"
    document = json.loads(path.read_text())
    document["host"]["class"] = "another"
    document["arms"]["container"]["agent_sha256"] = "0000"
    path.write_text(json.dumps(document))
    done = harness("run", "--resume", "latest", cwd=ground)
    assert done.returncode == 2, done.stderr
    assert "host: was another and is now " in done.stderr
    assert "container: agent_sha256: was 0000 and is now " in done.stderr
    assert json.loads(path.read_text()) == document


def test_a_run_that_still_goes_on_is_not_taken_up(ground: Path) -> None:
    process = started(ground, "scenario.yaml", *SLOW)
    read_until(process, "writing")
    second = harness("run", "--resume", "latest", cwd=ground)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert second.returncode == 2, second.stderr
    assert "another harness works on it" in second.stderr
    assert f"hint: wait until process {process.pid} has ended" in second.stderr


def test_a_resumed_run_that_was_given_up_gets_one_more_chance(ground: Path) -> None:
    assert harness("run", "scenario.yaml", "--set", "workload.argv=[/bin/false]", cwd=ground).returncode == 4
    count = len(trials(only_run(ground)))
    again = harness("run", "--resume", "latest", cwd=ground)
    assert again.returncode == 4
    assert "trials failed: workload: ended with code 1" in again.stderr
    assert len(trials(only_run(ground))) == count + 1


def test_resume_takes_neither_only_nor_set(ground: Path) -> None:
    done = harness("run", "--resume", "latest", "--only", "process", cwd=ground)
    assert done.returncode == 2
    assert "the run goes on as it was planned" in done.stderr


def test_only_without_the_control_names_the_new_one(ground: Path) -> None:
    done = harness("run", "scenario.yaml", "--only", "container", cwd=ground)
    assert done.returncode == 0, done.stderr
    assert "note: --only leaves out the control process: container is the control of this run" in done.stderr
