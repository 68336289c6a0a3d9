"""`kill -9` of a run at any moment: no finished trial is lost, and the run goes on where it was."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("root")

SCENARIO = """\
schema: harness.scenario/1
name: killed
image: {rootfs: root}
workload: {kind: command, argv: [/bin/busybox, "true"], ready: {exit: true}}
limits: {cpus: 1, memory: 64MiB, pids: 32}
runtimes:
  process: {backend: process}
trials: {blocks: {min: 12, max: 12, extra: 0}, warmup: 0, seed: 7}
metrics: [startup]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "r"))
    (tmp_path / "root" / "bin").mkdir(parents=True)
    (tmp_path / "root" / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "root" / "bin" / "busybox").chmod(0o755)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    return tmp_path


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "harness", *argv]


def whole_lines(run: Path) -> list[dict[str, Any]]:
    content = (run / "trials.jsonl").read_bytes()
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def test_a_killed_run_keeps_every_finished_trial_and_goes_on(project: Path) -> None:
    with subprocess.Popen(command("run", "scenario.yaml"), cwd=project, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told: list[str] = []
        while not any("block 3/12" in line for line in told):
            line = process.stderr.readline()
            assert line, "".join(told)
            told.append(line)
        time.sleep(random.uniform(0, 0.15))  # starting, attesting, stopping, or being written down
        process.send_signal(signal.SIGKILL)
        told += process.stderr.readlines()
        assert process.wait() == -signal.SIGKILL
    (run,) = (project / "results").iterdir()
    kept = whole_lines(run)
    assert len(kept) >= sum("/12 " in line for line in told), "what was told to be finished is on the disk"
    shown = subprocess.run(command("report", "latest"), cwd=project, capture_output=True, text=True, check=True)
    assert "the run was killed" in shown.stdout
    assert subprocess.run(command("clean"), cwd=project, capture_output=True, check=False).returncode == 0
    resumed = subprocess.run(
        command("run", "--resume", "latest"), cwd=project, capture_output=True, text=True, check=True
    )
    after = whole_lines(run)
    assert after[: len(kept)] == kept, resumed.stderr
    assert len({trial["trial_id"] for trial in after}) == len(after) == 12
    assert json.loads((run / "run.json").read_text())["status"] == "complete"
