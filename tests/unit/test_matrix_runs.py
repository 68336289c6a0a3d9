"""A scenario with a matrix, from the file to table and picture: the command line, with a study that takes no time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import _job
from tests.fake_study import FakeStudyArm

Says = Callable[..., str]
SCENARIO = """\
schema: harness.scenario/1
name: swept
study: {kind: fake}
matrix:
  arms.two.took_ns: [2000000, 3000000, 4000000]
arms:
  one: {took_ns: 1000000}
  two: {}
trials: {blocks: {min: 6, max: 6}, warmup: 0, seed: 7}
"""


@pytest.fixture
def scenario(fake_study: Path) -> Path:
    path = fake_study / "a.yaml"
    path.write_text(SCENARIO)
    return path


def runs_in(results: Path) -> list[dict[str, object]]:
    """Return run.json of every run, in the order of the cells."""
    found = [json.loads((path / "run.json").read_text()) for path in results.iterdir()]
    return sorted(found, key=lambda run: run["matrix"]["number"])


def test_each_cell_is_a_run_and_one_table_has_all(scenario: Path, says: Says) -> None:
    results = scenario.parent / "results"
    text = says("run", scenario, "--results", results)
    assert text.startswith("fake.took over arms.two.took_ns: against one: two 2.00x to 4.00x.\n")
    assert "cells     3 of 3 complete, 36 trials, 0 failed; each is a run of its own" in text
    assert [line.split() for line in text.splitlines() if "slower" in line] == [
        ["two", "2000000", "6", "2.00", "ms", "2.00", "-", "2.00", "ms", "2.00x", "[2.00", "-", "2.00]", "slower"],
        ["3000000", "6", "3.00", "ms", "3.00", "-", "3.00", "ms", "3.00x", "[3.00", "-", "3.00]", "slower"],
        ["4000000", "6", "4.00", "ms", "4.00", "-", "4.00", "ms", "4.00x", "[4.00", "-", "4.00]", "slower"],
    ]
    runs = runs_in(results)
    assert {run["matrix"]["series"] for run in runs} == {runs[0]["run_id"]}
    assert [run["matrix"]["cell"] for run in runs] == [
        {"arms.two.took_ns": text} for text in ("2000000", "3000000", "4000000")
    ]
    assert len({run["scenario_hash"] for run in runs}) == 3
    assert "cell      2/3: arms.two.took_ns=3000000" in says("report", results / str(runs[1]["run_id"]))


def test_the_table_comes_again_in_other_formats_and_as_a_picture(scenario: Path, says: Says) -> None:
    results = scenario.parent / "results"
    said = says("run", scenario, "--results", results)
    again = ("report", results / str(runs_in(results)[1]["run_id"]), "--matrix")
    assert says(*again) == said
    markdown = says(*again, "--format", "md")
    assert "| fake.took ↓ | two | 2000000 | 6 | 2.00 ms |" in markdown
    rows = list(csv.DictReader(io.StringIO(says(*again, "--format", "csv"))))
    medians = [row["median"] for row in rows if (row["metric"], row["runtime"]) == ("fake.took", "two")]
    assert [float(median) for median in medians] == [2e6, 3e6, 4e6]
    assert rows[-1]["arms.two.took_ns"] == "4000000"
    document = json.loads(says(*again, "--format", "json"))
    assert (document["schema"], document["planned"], len(document["cells"])) == ("harness.matrix/1", 3, 3)
    assert document["cells"][1]["report"]["schema"] == "harness.report/1"
    assert "<title>fake.took over" in says(*again, "--format", "svg")
    picture = scenario.parent / "matrix.png"
    says(*again, "--format", "png", "--output", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "known: terminal, markdown" in says(*again, "--format", "html", code=2)
    assert "a picture goes to a file" in says(*again, "--format", "png", code=2)
    assert "--matrix: not with" in says(*again, "--definition", "all", code=2)


def test_json_is_one_document(scenario: Path, says: Says) -> None:
    document = json.loads(says("run", scenario, "--results", scenario.parent / "results", "--json"))
    assert [cell["cell"]["arms.two.took_ns"] for cell in document["cells"]] == ["2000000", "3000000", "4000000"]


def test_a_run_of_no_matrix_has_no_such_table(scenario: Path, says: Says) -> None:
    results = scenario.parent / "results"
    says("run", scenario, "--results", results, "--set", "matrix=null", "--set", "arms.two.took_ns=5")
    assert "no cell of a matrix" in says("report", "latest", "--results", results, "--matrix", code=2)


def test_a_cell_that_fails_ends_no_other_and_is_named(scenario: Path, says: Says) -> None:
    scenario.write_text(SCENARIO.replace("arms.two.took_ns: [2000000, 3000000, 4000000]", "arms.two.fails: [x, '']"))
    results = scenario.parent / "results"
    said = says("run", scenario, "--results", results, code=4)
    assert "cell 1 (arms.two.fails=x): two: its first 2 trials failed: x" in said
    assert [run["status"] for run in runs_in(results)] == ["failed", "complete"]


def test_an_interrupted_matrix_goes_on_where_it_was(
    scenario: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = FakeStudyArm.measure, []

    def interrupted(arm: FakeStudyArm, trial_id: str, emit: Callable[..., None]) -> None:
        calls.append(trial_id)
        if len(calls) == 16:  # of 36, in the second cell
            raise KeyboardInterrupt
        measure(arm, trial_id, emit)

    results = scenario.parent / "results"
    monkeypatch.setattr(FakeStudyArm, "measure", interrupted)
    said = says("run", scenario, "--results", results, "--set", "trials.blocks.extra=0", code=130)
    assert "cell 2 of 3: interrupted while measuring: 3 finished trials kept" in said
    hint = said.partition("hint: harness ")[2].split()
    assert "3 of 3 complete, 36 trials" in says(*hint, "--results", results)
    assert len(calls) == 37
    assert len(runs_in(results)) == 3
    assert "3 of 3 complete" in says(*hint, "--results", results)
    assert len(calls) == 37


def test_an_interrupt_before_a_cells_first_trial_names_what_is_kept(
    scenario: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, calls = _job.prepare_arms, []

    def interrupted(*args: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return prepare(*args)

    monkeypatch.setattr(_job, "prepare_arms", interrupted)
    results = scenario.parent / "results"
    said = says("run", scenario, "--results", results, code=130)
    assert "interrupted before cell 2 of 3: those before it are kept" in said
    hint = said.partition("hint: harness ")[2].split()
    assert "3 of 3 complete" in says(*hint, "--results", results)


def test_a_budget_is_shared_by_the_cells(scenario: Path, says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[int | None] = []
    carry_out = _job.carry_out

    def seen(job: _job.Job, composition: object) -> None:
        shares.append(job.budget_ns)
        carry_out(job, composition)

    monkeypatch.setattr("harness.cli._sweep.carry_out", seen)
    says("run", scenario, "--results", scenario.parent / "results", "--budget", "30m")
    minutes = [share / 60e9 for share in shares if share is not None]
    assert [round(share) for share in minutes] == [10, 15, 30]


def test_what_any_cell_lacks_is_told_before_anything_is_measured(scenario: Path, says: Says) -> None:
    scenario.write_text(SCENARIO.replace("arms.two.took_ns: [2000000, 3000000, 4000000]", "study.lacks: [[], [dd]]"))
    results = scenario.parent / "results"
    assert "dd: it is not there" in says("run", scenario, "--results", results, code=3)
    assert not results.exists()
    assert "error: cell 2: one: dd: it is not there" in says("plan", scenario, "--results", results, code=3)


def test_validate_and_plan_know_cells(scenario: Path, says: Says) -> None:
    assert "6 blocks; 3 cells of arms.two.took_ns" in says("validate", scenario)
    shown = says("plan", scenario, "--results", scenario.parent / "results")
    assert "matrix: 3 cells, a run each" in shown
    assert "2  arms.two.took_ns=3000000" in shown
    document = json.loads(says("plan", scenario, "--json", "--results", scenario.parent / "results"))
    assert [cell["plan"]["schema"] for cell in document["cells"]] == ["harness.plan/1"] * 3


def test_a_base_needs_one_cell(scenario: Path, says: Says) -> None:
    said = says("run", scenario, "--results", scenario.parent / "results", "--base", "HEAD", code=2)
    assert "its matrix has 3 cells, where one is expected" in said
