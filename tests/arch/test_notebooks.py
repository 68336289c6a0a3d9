"""Every notebook runs from top to bottom on the recorded reference run, without a warning, and draws its charts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UsageError

ROOT = Path(__file__).parents[2]
REFERENCE = max((ROOT / "results" / "reference").glob("*/run.json")).parent
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


def test_a_notebook_is_executed_on_a_run_and_kept_without_its_code(tmp_path: Path) -> None:
    from harness.report import _notebook

    executed = _notebook.execute("compare", REFERENCE)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert not [output for output in outputs if output.output_type in {"stream", "error"}]
    page = _notebook.as_html(executed)
    assert "Compare the runtimes of a run" in page
    assert "import harness" not in page
    assert '"nbformat"' in _notebook.as_ipynb(executed)


def test_a_notebook_that_is_not_there_is_named() -> None:
    from harness.report import _notebook

    with pytest.raises(UsageError, match="nothing: unknown"):
        _notebook.execute("nothing", REFERENCE)


def test_notebooks_hold_no_outputs() -> None:
    assert not list((ROOT / "notebooks").glob("*.ipynb"))
