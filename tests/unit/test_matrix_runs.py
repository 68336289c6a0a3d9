"""A scenario with a matrix, from the file to table and picture: the command line, with a study that takes no time."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import _compose, _job
from harness.errors import CapabilityError, HarnessError, StoreError
from harness.results.store import series_lock
from tests.fake_study import FakeStudy, FakeStudyArm

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
trials: {blocks: {min: 6, max: 6, extra: 0}, warmup: 0, seed: 7}
"""


@pytest.fixture
def scenario(fake_study: Path) -> Path:
    path = fake_study / "a.yaml"
    path.write_text(SCENARIO)
    return path


def runs_in(results: Path) -> list[dict[str, Any]]:
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


def hinted(said: str) -> list[str]:
    """Return the command that an error's hint names."""
    return said.partition("hint: harness ")[2].split()


def raises_at(measure: Callable[..., None], calls: list[str], number: int) -> Callable[..., None]:
    """Return `measure`, interrupted at a call; `calls` has the trials of all."""

    def interrupted(arm: FakeStudyArm, trial_id: str, emit: Callable[..., None]) -> None:
        calls.append(trial_id)
        if len(calls) == number:
            raise KeyboardInterrupt
        measure(arm, trial_id, emit)

    return interrupted


def test_an_interrupted_matrix_goes_on_where_it_was_and_beside_its_other_cells(
    scenario: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    results, elsewhere = scenario.parent / "results", scenario.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(FakeStudyArm, "measure", raises_at(FakeStudyArm.measure, calls, 16))  # of 36: the second cell
    said = says("run", scenario, "--results", results, code=130)
    assert "cell 2 of 3: interrupted while measuring: 3 finished trials kept" in said
    monkeypatch.chdir(elsewhere)
    for _ in range(2):
        assert "3 of 3 complete, 36 trials" in says(*hinted(said))
        assert len(calls) == 37
        assert len(runs_in(results)) == 3
    assert not list(elsewhere.iterdir())


@pytest.fixture
def in_the_second_cell(scenario: Path, says: Says) -> str:
    """What was said when a run was interrupted while its second cell was prepared."""
    prepare, calls = _job.prepare_arms, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return prepare(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_job, "prepare_arms", interrupted)
        return says("run", scenario, "--results", scenario.parent / "results", code=130)


def test_an_interrupt_before_a_cells_first_trial_names_what_is_kept(in_the_second_cell: str, says: Says) -> None:
    assert "interrupted before the first trial of cell 2 of 3: the cells before it are kept" in in_the_second_cell
    assert "3 of 3 complete" in says(*hinted(in_the_second_cell))


def test_an_interrupt_while_a_cell_is_cleaned_up_names_what_goes_on(
    scenario: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_up, calls = _job._clean_up, []

    def interrupted(*args: Any) -> None:
        calls.append(args)
        clean_up(*args)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_job, "_clean_up", interrupted)
    said = says("run", scenario, "--results", scenario.parent / "results", code=130)
    assert "--resume" in hinted(said)
    assert "3 of 3 complete" in says(*hinted(said))


@pytest.mark.parametrize(("error", "cells"), [(CapabilityError, [1, 3]), (StoreError, [1])])
def test_what_goes_wrong_before_a_cells_first_trial_loses_no_other(
    scenario: Path, says: Says, monkeypatch: pytest.MonkeyPatch, error: type[HarnessError], cells: list[int]
) -> None:
    prepare = FakeStudy.prepare

    def fails(study: FakeStudy, arm: str, options: Any, arm_options: Any, context: Any) -> FakeStudyArm:
        if arm_options.took_ns == 3_000_000:
            raise error("it: went wrong", hint="mend it")
        return prepare(study, arm, options, arm_options, context)

    monkeypatch.setattr(FakeStudy, "prepare", fails)
    results = scenario.parent / "results"
    said = says("run", scenario, "--results", results, code=4)
    assert "error: cell 2 (arms.two.took_ns=3000000): it: went wrong\nhint: mend it" in said
    assert [run["matrix"]["number"] for run in runs_in(results)] == cells


def test_a_cell_is_not_measured_on_another_host_than_the_first(
    scenario: Path, in_the_second_cell: str, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compose, "host_class", lambda _facts: "another")
    said = says(*hinted(in_the_second_cell), code=4)
    assert "and is now another\nhint: cells of one matrix must be comparable: start a new run" in said
    assert len(runs_in(scenario.parent / "results")) == 1


def test_a_neighbour_that_cannot_be_read_and_another_name_do_no_harm(scenario: Path, says: Says) -> None:
    results = scenario.parent / "results"
    said = says("run", scenario, "--results", results)
    paths = sorted(results.iterdir())
    torn = results / "20260101T000000Z-torn-00000000"
    torn.mkdir()
    (torn / "run.json").write_text("{")
    assert says("report", paths[0], "--matrix") == said
    renamed = paths[0].rename(results / "renamed")
    assert "3 of 3 complete" in says("report", renamed, "--matrix")
    assert "3 of 3 complete" in says("run", "--resume", renamed)


def test_two_cannot_go_on_with_one_matrix(scenario: Path, says: Says) -> None:
    results = scenario.parent / "results"
    says("run", scenario, "--results", results)
    first = min(results.iterdir(), key=lambda path: json.loads((path / "run.json").read_text())["matrix"]["number"])
    with series_lock(first):
        assert "another harness measures other cells" in says("run", "--resume", first, code=2)


def test_properties_that_a_key_changes_are_in_the_table(scenario: Path, says: Says) -> None:
    scenario.write_text(SCENARIO.replace("arms.two.took_ns: [2000000, 3000000, 4000000]", "arms.two.files: [1, 5]"))
    results = scenario.parent / "results"
    text = says("run", scenario, "--results", results)
    table = [line.split() for line in text.partition("fake.files")[2].splitlines()[2:6]]
    assert table == [
        ["one", "1", "6", "1", "-"], ["5", "6", "1", "-"], ["two", "1", "6", "1", "-"], ["5", "6", "5", "-"]
    ]  # fmt: skip


def test_a_runtime_that_failed_in_a_cell_keeps_its_row(scenario: Path, says: Says) -> None:
    text = SCENARIO.replace("arms.two.took_ns: [2000000, 3000000, 4000000]", "arms.two.fails: ['', x]")
    scenario.write_text(text.replace("two: {}", "two: {took_ns: 5}\n  three: {took_ns: 7}"))
    results = scenario.parent / "results"
    says("run", scenario, "--results", results, code=4)
    said = says("report", "latest", "--results", results, "--matrix")
    assert ["x", "0", "-", "-", "2", "failed"] in [line.split() for line in said.splitlines()]


def test_a_bundle_says_how_its_cell_is_repeated(scenario: Path, says: Says, tmp_path: Path) -> None:
    results = scenario.parent / "results"
    says("run", scenario, "--results", results)
    says("bundle", "latest", "--results", results, "--output", tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        readme = tar.extractfile(next(name for name in tar.getnames() if name.endswith("README")))
        assert readme is not None
        assert re.search(r"--set trials\.seed=7 --set arms\.two\.took_ns=\d000000\n", readme.read().decode())


def test_values_are_no_markup(scenario: Path, says: Says) -> None:
    scenario.write_text(SCENARIO.replace("took_ns: [2000000, 3000000, 4000000]", "fails: ['', '[/x]', '[red]']"))
    results = scenario.parent / "results"
    says("run", scenario, "--results", results, code=4)
    assert '2/3: arms.two.fails="[/x]"' in " ".join(says("list", "runs", "--results", results).split())


def test_a_cell_that_the_budget_cut_short_goes_on(scenario: Path, says: Says) -> None:
    results = scenario.parent / "results"
    assert "the time budget was used up after 1 block" in says("run", scenario, "--results", results, "--budget", "1ns")
    assert "3 of 3 complete, 36 trials" in says("run", "--resume", "latest", "--results", results)


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
    assert 'error: cell 2 (study.lacks=["dd"]): one: dd: it is not there' in says(
        "run", scenario, "--results", results, code=3
    )
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
