"""Every notebook runs from top to bottom, without a warning, on the recorded runs and on one that lacks most of it."""

import json
import re
from pathlib import Path

import pytest

import harness
from harness.errors import UsageError
from harness.report import _notebook

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "results" / "reference"
(REFERENCE,) = RECORDED.glob("*-quickstart-*")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
ASKED_FOR = {"compare", "startup", "memory-density", "isolation", "layers-and-storage", "history", "vergleich"}


def perform(name, runs, **settings):
    """Run a notebook's code here and return what it put on its page: starting a Jupyter kernel takes seconds."""
    space = {}
    exec(compile(_notebook.source(name, runs, settings), name, "exec"), space)
    return space["page"].shown


def test_all_notebooks_are_there_and_each_says_what_it_is_about():
    assert {path.stem for path in NOTEBOOKS} == ASKED_FOR
    assert all(_notebook.doc(path) for path in NOTEBOOKS)


@pytest.mark.parametrize("name", sorted(ASKED_FOR))
def test_a_notebook_runs_on_the_recorded_runs(name):
    shown = perform(name, [])
    assert [kind for kind, _ in shown].count("chart") >= 1
    assert not [what for kind, what in shown if kind == "missing" and "Isolation" in what]


@pytest.mark.parametrize("name", ["layers-and-storage", "memory-density", "vergleich"])
def test_a_notebook_says_what_a_run_lacks(name):
    missing = [what for kind, what in perform(name, [REFERENCE]) if kind == "missing"]
    assert missing
    assert len(missing) == len([what for what in missing if what.strip()])


def test_history_without_one_says_how_to_begin(tmp_path):
    shown = perform("history", [REFERENCE], history=str(tmp_path))
    assert [kind for kind, _ in shown] == ["missing"]
    assert "harness history add" in shown[0][1]


def test_the_recorded_runs_are_small_and_complete():
    for path in RECORDED.glob("*/run.json"):
        assert harness.load(path.parent).meta.status == "complete"
    assert sum(path.stat().st_size for path in RECORDED.rglob("*") if path.is_file()) < 3_000_000
    run = harness.load(REFERENCE)
    assert {record.status for record in run.records} == {"ok"}
    assert len({record.attestation.root_digest for record in run.records if record.attestation}) == 1
    assert {arm["boundary"] for arm in run.meta.arms.values()} == {"process", "container", "vm"}


def test_a_notebook_is_executed_on_a_run_and_kept_without_its_code():
    executed = _notebook.execute("compare", [REFERENCE])
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert not [output for output in outputs if output.output_type in {"stream", "error", "execute_result"}]
    page = _notebook.as_html(executed)
    assert "<title>Compare the runtimes of a run</title>" in page
    assert "import harness" not in page
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    assert '"nbformat"' in _notebook.as_ipynb(executed)


def test_one_language_leaves_the_other_out():
    words = {}
    for language in ("de", "en"):
        text = _notebook.source("vergleich", [REFERENCE], {"language": language})
        kept = [cell.source for cell in _notebook.cells(text, language) if cell.cell_type == "markdown"]
        words[language] = "\n".join(kept)
    assert "Jede VM enthält" in words["de"]
    assert "Every VM holds" not in words["de"]
    assert "Every VM holds" in words["en"]
    assert words["de"].count("###") == words["en"].count("###")
    with pytest.raises(UsageError, match="language: fr: unknown"):
        perform("vergleich", [REFERENCE], language="fr")


def test_what_is_not_there_is_named():
    with pytest.raises(UsageError, match="nothing: unknown"):
        _notebook.execute("nothing", [REFERENCE])
    with pytest.raises(UsageError, match="startup: it has no setting colour"):
        _notebook.source("startup", [REFERENCE], {"colour": "red"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_ipynb_beside_the_text_is_the_same_without_outputs(path):
    text = path.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert text == _notebook.paired(path), "scripts/pair-notebooks makes them again"
    assert not [cell for cell in json.loads(text)["cells"] if cell.get("outputs")]
