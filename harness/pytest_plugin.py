"""A pytest fixture for projects that guard their own numbers.

    def test_boot(harness_run):
        assert harness_run("boot.yaml").ratio("startup.ready", "vm").hi < 15

Runs are made by the `harness` command in a process of their own, so that nothing of the test's process disturbs them. A
missing prerequisite (exit code 3) skips the test with its reason, or fails it with `--harness-required`.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.analysis.statistics import Estimate

if TYPE_CHECKING:
    from harness.results.frame import Run

EXIT_MISSING = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("harness")
    group.addoption("--harness-results", default=None, help="directory where runs are kept; default: a temporary one")
    group.addoption("--harness-required", action="store_true", help="fail, not skip, where a prerequisite is missing")


@dataclass(frozen=True)
class Outcome:
    """A finished run: `run` as `harness.load` gives it."""

    run: Run

    def ratio(self, metric: str, runtime: str, baseline: str | None = None) -> Estimate:
        """Return how a runtime compares with the control (or `baseline`), paired by block: value, lo, hi, n.

        Raises: KeyError for a metric or runtime that has no such comparison; lo and hi are None below 6 blocks.
        """
        row = self.run.compare(baseline).loc[(metric, runtime)]
        lo, hi = (None if math.isnan(bound) else float(bound) for bound in (row["lo"], row["hi"]))
        return Estimate(float(row["effect"]), lo, hi, int(row["n"]))


@pytest.fixture
def harness_run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Outcome]:
    """Return a function that runs a scenario; its path counts from the test's file.

    `only` names runtimes, `change` sets keys: harness_run("boot.yaml", only=("process",), change={"trials.seed": 1}).
    """
    kept = request.config.getoption("--harness-results")

    def start(scenario: str | Path, *, only: tuple[str, ...] = (), change: Mapping[str, Any] | None = None) -> Outcome:
        results = Path(kept) if kept else tmp_path / "results"
        argv = [sys.executable, "-m", "harness", "run", str(request.path.parent / scenario), "--results", str(results)]
        argv += [word for runtime in only for word in ("--only", runtime)]
        argv += [word for key, value in (change or {}).items() for word in ("--set", f"{key}={value}")]
        before = {path.name for path in results.glob("*")} if results.is_dir() else frozenset[str]()
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == EXIT_MISSING and not request.config.getoption("--harness-required"):
            pytest.skip(done.stderr.strip().splitlines()[0])
        if done.returncode:
            pytest.fail(f"harness run ended with {done.returncode}:\n{done.stderr.strip()}", pytrace=False)
        import harness  # noqa: PLC0415 - pandas only for who asks

        made = sorted(path for path in results.iterdir() if path.name not in before)
        if len(made) > 1:
            pytest.fail(f"{scenario}: its matrix has {len(made)} cells: choose one with change={{...}}", pytrace=False)
        return Outcome(harness.load(made[0]))

    return start
