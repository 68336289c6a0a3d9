"""The fixture that other projects' tests use, in a test of its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("root", "overlayfs")

SCENARIO = Path(__file__).parents[2] / "scenarios" / "boot.yaml"
TEST = f"""
def test_boot(harness_run):
    blocks = {{"min": 6, "max": 6, "extra": 0}}
    outcome = harness_run({str(SCENARIO)!r}, only=("process", "container"), change={{"trials.blocks": blocks}})
    ratio = outcome.ratio("startup.ready", "container")
    assert ratio.n == 6
    assert ratio.lo < ratio.value < ratio.hi


def test_missing(harness_run):
    harness_run({str(SCENARIO)!r}, only=("process",), change={{"image.name": "no-such-image"}})
"""


def test_it_measures_and_skips_what_cannot_be_measured(tmp_path):
    (tmp_path / "test_it.py").write_text(TEST)
    argv = [sys.executable, "-m", "pytest", "-p", "harness.pytest_plugin", "-rs", "-q", str(tmp_path)]
    done = subprocess.run(argv, cwd=tmp_path, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert "1 passed, 1 skipped" in done.stdout, done.stdout
    assert "no-such-image" in done.stdout
