"""`harness gate SCENARIO --base REVISION` on a real project: red only where it is slower, in two batches of blocks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness.host.paths import cache_dir

pytestmark = pytest.mark.needs("root", "git")

SCENARIO = """\
schema: harness.scenario/1
name: own
image: {rootfs: root}
workload: {kind: command, argv: [/bin/busybox, sleep, "0.01"], ready: {exit: true}}
limits: {cpus: 1, memory: 64MiB, pids: 32}
runtimes:
  process: {backend: process}
trials: {blocks: {min: 6, max: 6, extra: 0}, warmup: 0, seed: 7}
metrics: [startup]
gate: {margin: 20%, metrics: [startup.ready]}
"""
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed project whose root file system has nothing but busybox."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for variable in ("GITHUB_ACTIONS", "GITHUB_SHA", "CI", "GIT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    place = tmp_path / "project"
    (place / "root" / "bin").mkdir(parents=True)
    (place / "root" / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (place / "root" / "bin" / "busybox").chmod(0o755)
    (place / "scenario.yaml").write_text(SCENARIO)
    (place / ".gitignore").write_text("results/\n")
    for words in (["init", "-q", "."], ["add", "."], ["commit", "-q", "-m", "base"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words], cwd=place, check=True)
    return place


def harness(*argv: str, cwd: Path) -> Done:
    command = [sys.executable, "-m", "harness", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def edit(project: Path, old: str, new: str) -> None:
    text = (project / "scenario.yaml").read_text()
    assert old in text
    (project / "scenario.yaml").write_text(text.replace(old, new))


def test_a_slower_workload_is_red_after_a_confirmation_and_can_be_judged_again(project: Path) -> None:
    edit(project, '"0.01"', '"0.2"')
    (project / "root" / "new").write_text("another root tree\n")
    done = harness("gate", "scenario.yaml", "--base", "HEAD", "--format", "json", cwd=project)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    runs = sorted((project / "results").iterdir())
    assert (document["kind"], document["outcome"]) == ("revisions", "regressed")
    assert [run.name for run in runs] == [document["candidate"], document["confirmation"]]
    ready = next(change for change in document["changes"] if change["metric"] == "startup.ready")
    assert "confirmed by 6 fresh blocks" in ready["reason"]
    record = json.loads((runs[0] / "run.json").read_text())
    assert record["base"]["root_digest"] != record["image"]["root_digest"], "each revision has its own image"
    again = harness("gate", "latest", "--format", "junit", cwd=project)
    assert again.returncode == 1
    failed = ET.fromstring(again.stdout).findall(".//failure")
    assert [case.get("type") for case in failed] == ["regressed"]
    assert len(list((project / "results").iterdir())) == 2, "judging again measures nothing"
    assert not [path for path in (cache_dir() / "runs").glob("*") if (path / "scenario.yaml").exists()]
    status = subprocess.run(["git", "status", "--short"], cwd=project, capture_output=True, text=True, check=True)
    assert status.stdout.split() == ["M", "scenario.yaml", "??", "root/new"]


def test_an_interrupted_comparison_goes_on_with_its_base(project: Path) -> None:
    """The base is read again from the commit that it was, though the branch has moved."""
    done = harness("run", "scenario.yaml", "--base", "HEAD", "--budget", "1ms", cwd=project)
    assert done.returncode == 0, done.stderr
    (run,) = (project / "results").iterdir()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "--allow-empty", "-m",
                    "later"], cwd=project, check=True)  # fmt: skip
    resumed = harness("run", "--resume", "latest", cwd=project)
    assert resumed.returncode == 0, resumed.stderr
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    assert sorted({trial["runtime"] for trial in trials}) == ["process", "process@base"]
    assert len(trials) == 12
    assert json.loads((run / "run.json").read_text())["base"] == record["base"]


def test_what_cannot_be_measured_is_an_error_and_no_failure(project: Path) -> None:
    done = harness("gate", "scenario.yaml", "--base", "nowhere", "--format", "junit", cwd=project)
    assert done.returncode == 2
    assert "no such revision" in done.stderr
    assert [case.get("type") for case in ET.fromstring(done.stdout).findall(".//error")] == ["not-measured"]
    edit(project, "sleep", "no-such-applet")
    done = harness("gate", "scenario.yaml", "--base", "HEAD", "--format", "junit", cwd=project)
    assert done.returncode == 4, done.stderr
    suite = ET.fromstring(done.stdout)[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
