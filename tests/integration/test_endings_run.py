"""What became of an instance, from what its kernel said to the record and the report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("root", "overlayfs")

SCENARIO = """\
schema: harness.scenario/1
name: endings
image: {name: busybox}
workload: {kind: command, argv: [ARGV], ready: {exit: true}, timeout: 20s}
limits: {cpus: 1, memory: 96MiB, pids: 64}
runtimes:
  container: {backend: builtin}
control: container
trials: {blocks: {min: 1, max: 1}, warmup: 0, seed: 7}
metrics: [startup]
"""


def harness(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("argv", "ending", "words"),
    [
        ("/bin/tail, /dev/zero", "cgroup-oom", "container: out of memory (96.0 MiB): the kernel killed"),
        ("/bin/dd, if=/dev/zero, of=/dev/shm/x, bs=1M, count=90", "disk-full", "No space left on device"),
    ],
)
def test_memory_and_disks_that_are_too_small_are_told_apart(
    argv: str, ending: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    assert harness("image", "bootstrap", "busybox", cwd=tmp_path).returncode == 0
    (tmp_path / "scenario.yaml").write_text(SCENARIO.replace("ARGV", argv))
    done = harness("run", "scenario.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    (run,) = (tmp_path / "results").iterdir()
    record = json.loads((run / "trials.jsonl").read_text())
    assert record["ending"] == ending
    assert words in record["error"]
    (failure,) = json.loads(done.stdout)["failures"]
    assert failure["ending"] == ending
