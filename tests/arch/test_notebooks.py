"""Every notebook runs from top to bottom on the recorded reference run, without a warning, and draws its charts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


def test_there_are_notebooks_and_a_reference_run() -> None:
    assert NOTEBOOKS
    assert list((ROOT / "results" / "reference").glob("*/trials.jsonl"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_reference_run(notebook: Path, tmp_path: Path) -> None:
    reference = max((ROOT / "results" / "reference").glob("*/run.json")).parent
    argv = [sys.executable, "-W", "error", str(notebook), str(reference), str(tmp_path)]
    environment = {**os.environ, "MPLBACKEND": "Agg", "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in tmp_path.glob("*.png")} == {".png"}


def test_the_reference_run_holds_all_that_a_report_needs() -> None:
    import harness

    reference = max((ROOT / "results" / "reference").glob("*/run.json")).parent
    run = harness.load(reference)
    assert run.meta.status == "complete"
    assert {record.status for record in run.records} == {"ok"}
    assert len({record.attestation.root_digest for record in run.records if record.attestation}) == 1
    boundaries = {arm["boundary"] for arm in run.meta.arms.values()}
    assert boundaries == {"process", "container", "vm"}
