"""Driven workloads in a guest: a client outside reaches it, work inside is counted where the host spends it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("root", "bridge", "qemu", "libvirt", "kernel", "erofs")
ROOT = Path(__file__).parents[2]
SCENARIO = f"""
schema: harness.scenario/1
name: driven
image: {{build: {ROOT}/images/webserver}}
workload: {{kind: web, port: 8080, requests: 100, timed: 100, rate: 50, connections: 2, timeout: 120s}}
runtimes: {{vm: {{backend: libvirt, accel: auto}}}}
trials: {{blocks: {{min: 1, max: 1}}, warmup: 0}}
metrics: [cpu]
"""


def test_a_guest_under_load(tmp_path):
    (tmp_path / "s.yaml").write_text(SCENARIO)
    argv = [sys.executable, "-m", "harness", "run", "s.yaml", "--results", "res"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (trials,) = (tmp_path / "res").glob("*/trials.jsonl")
    metrics = json.loads(trials.read_text())["metrics"]
    assert metrics["web.latency.p50"]["value"] > 50_000
    assert metrics["web.rate"]["value"] > 1
    assert metrics["web.cpu"]["value"] > 50_000  # of QEMU, in which the guest's kernel and server run
    assert metrics["cpu.start"]["value"] > 100_000_000
