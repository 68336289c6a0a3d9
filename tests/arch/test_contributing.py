"""The probe that CONTRIBUTING.md shows is complete and keeps the promises of the seam."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

from harness.host.process import run
from harness.model.metrics import Absent, Measurement

ROOT = Path(__file__).parents[2]
EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]


def emitted(pids):
    namespace = {"__name__": "harness.probes.threads"}
    exec(compile(EXAMPLE, "CONTRIBUTING.md", "exec"), namespace)
    instance, seen = SimpleNamespace(pids=lambda: pids), []
    with namespace["PLUGIN"].watch(instance, seen.append):
        pass
    namespace["PLUGIN"].conclude(instance, seen.append)
    return seen


def test_example_counts_the_threads_of_all_processes():
    (measurement,) = emitted((os.getpid(), os.getpid()))
    assert isinstance(measurement, Measurement)
    assert measurement.metric.name == "threads.host"
    assert measurement.value == 2 * len(list(Path("/proc/self/task").iterdir()))


def test_example_says_why_it_has_no_value():
    (absent,) = emitted((2**22 + 1,))  # above the highest pid of Linux
    assert isinstance(absent, Absent)


def test_example_fits_the_seam(tmp_path):
    example = tmp_path / "threads.py"
    example.write_text(EXAMPLE)
    run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(example)], cwd=ROOT)


def test_targets_that_it_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert named == targets
