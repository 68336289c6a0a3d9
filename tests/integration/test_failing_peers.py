"""A runtime that fails in a run is a recorded failure of that runtime alone: the others go on, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.store import Store

pytestmark = pytest.mark.needs("root", "overlayfs", "dockerd", "podman")
SCENARIO = """
schema: harness.scenario/1
name: failing
image: {name: busybox}
workload: {kind: command, argv: [/bin/true], ready: {exit: true}, timeout: 30s}
limits: {cpus: 1, memory: 64MiB, pids: 32}
runtimes:
  process: {backend: process}
  docker: {backend: docker}
  refused: {backend: podman, runtime: /nowhere/runtime}
control: process
trials: {blocks: {min: 8, max: 8}, warmup: 0}
metrics: [startup]
"""
WAIT_S = 60.0


def until(found: Callable[[], Any]) -> Any:
    """Return the first that is true of what a function returns."""
    deadline_s = time.monotonic() + WAIT_S
    while not (value := found()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return value


def trials(runs: Path) -> list[dict[str, Any]]:
    """Return the trials that are written so far; the last line may be half."""
    found = []
    for path in runs.glob("*/trials.jsonl"):
        found += [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return found


def daemon_of(parent: int) -> int | None:
    """Return the pid of the dockerd that a process has started."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == "dockerd":
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(stat[1]) == parent:
                    return int(entry.name)
        except OSError:
            continue
    return None


def test_an_engine_killed_in_the_middle_and_one_that_refuses_leave_the_others_alone(tmp_path: Path) -> None:
    bootstrap_busybox(Store(data_dir() / "images"), cache_dir())
    (tmp_path / "s.yaml").write_text(SCENARIO)
    runs = tmp_path / "runs"
    command = [str(Path(sys.executable).with_name("harness")), "run", str(tmp_path / "s.yaml"), "--results", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        until(lambda: any(trial["runtime"] == "docker" for trial in trials(runs)) or run.poll() is not None)
        os.kill(daemon_of(run.pid) or run.pid, signal.SIGKILL)
        said = run.communicate(timeout=WAIT_S)[0]
    assert run.returncode == 4, said
    status = {
        name: [(trial["status"], trial["error"]) for trial in trials(runs) if trial["runtime"] == name]
        for name in ("process", "docker", "refused")
    }
    assert len(status["process"]) >= 8
    assert set(status["process"]) == {("ok", None)}
    assert status["docker"][0] == ("ok", None)
    assert ("failed", True) in {(state, "docker" in (error or "")) for state, error in status["docker"][1:]}
    assert status["refused"]
    assert all(state == "failed" and "/nowhere/runtime" in error for state, error in status["refused"])
    assert "docker" in said
    assert "left behind" not in said
