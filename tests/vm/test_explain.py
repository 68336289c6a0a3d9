"""`harness explain` from the command line to its table: a guest beside itself with one lever toggled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.analysis.phases import of_marks
from harness.host.paths import cache_dir

pytestmark = pytest.mark.needs("root", "overlayfs", "qemu", "libvirt", "kernel", "erofs")

SCENARIO = """\
schema: harness.scenario/1
name: levers
image: {name: busybox}
workload: {kind: command, argv: [/bin/true], ready: {exit: true}, timeout: 60s}
limits: {cpus: 1, memory: 128MiB, pids: 64}
runtimes:
  vm: {backend: libvirt, machine: microvm, accel: tcg}
control: vm
trials: {blocks: {min: 1, max: 1}, warmup: 0, seed: 7}
metrics: [startup, memory]
"""


def harness(*argv: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "harness", *argv]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_lever_is_measured_beside_its_base_and_its_worth_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(cache_dir())
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    harness("image", "bootstrap", "busybox", cwd=tmp_path)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    document = json.loads(harness("explain", "scenario.yaml", "--lever", "boot=bzimage", "--json", cwd=tmp_path))
    (worth,) = document["levers"]
    (run,) = (tmp_path / "results").iterdir()
    arms = json.loads((run / "run.json").read_text())["arms"]
    records = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    ready = {record["runtime"]: record["metrics"]["startup.ready"]["value"] for record in records}
    phases = {
        record["runtime"]: {part.name: part.length_ns for part in of_marks(record["marks"])} for record in records
    }
    moved = {
        name: length - phases["vm"][name] for name, length in phases["boot-bzimage"].items() if name in phases["vm"]
    }
    assert (document["base"], document["ready_ns"]) == ("vm", ready["vm"])
    assert worth["lever"] == "boot=bzimage"
    assert worth["ready"]["value"] == ready["boot-bzimage"] - ready["vm"]
    assert set(phases["boot-bzimage"]) - set(phases["vm"])  # what unpacks the kernel is a phase of its own
    name, grew = worth["phase"]  # of one trial each, and whichever the host's noise made it
    assert grew == moved[name]
    assert abs(grew) == max(map(abs, moved.values()))
    assert {name: arm["boot"] for name, arm in arms.items()} == {"vm": "vmlinux", "boot-bzimage": "bzimage"}
    assert "boot-bzimage (tcg)" in harness("report", run.name, cwd=tmp_path)
