"""A scenario of a study from the file to the report, by the command line, with a study that takes no time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.host import noise
from tests.fake_study import FakeStudy

Says = Callable[..., str]
SCENARIO = """\
schema: harness.scenario/1
name: small
study: {kind: fake}
arms:
  one: {took_ns: 1000000}
  two: {took_ns: 3000000, files: 2}
  none:
trials: {blocks: {min: 6, max: 6}, warmup: 1, seed: 7}
"""


@pytest.fixture
def scenario(fake_study: Path) -> Path:
    path = fake_study / "a.yaml"
    path.write_text(SCENARIO)
    return path


def test_validate_plan_and_list_know_studies(scenario: Path, says: Says) -> None:
    assert "small: one, two, none; 6 blocks" in says("validate", scenario)
    shown = says("plan", scenario, "--results", scenario.parent / "results")
    assert "3 arms x 6 blocks" in shown
    assert "fake.took, fake.files" in shown
    assert "what the options say" in says("list", "studies")
    assert "fake.took" in says("list", "metrics")
    document = json.loads(says("schema"))
    kinds = document["definitions"]["StudyScenario"]["oneOf"]
    assert "fake" in {kind["title"] for kind in kinds}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param("kind: fake", "kind: fakes", "study.kind: fakes: unknown; did you mean 'fake'?", id="kind"),
        pytest.param("files: 2", "fils: 2", "arms.two.fils: unknown key; did you mean 'files'?", id="option"),
        pytest.param("trials:", "control: tow\ntrials:", "tow: not one of the arms; did you mean 'two'?", id="control"),
        pytest.param("trials:", "gate: {metrics: [fake.tok]}\ntrials:", "fake.tok: not measured by", id="gate"),
        pytest.param("arms:", "image: {name: a}\narms:", "image: unknown key", id="image"),
    ],
)
def test_mistakes_are_told_at_their_place(scenario: Path, says: Says, old: str, new: str, said: str) -> None:
    scenario.write_text(SCENARIO.replace(old, new))
    assert said in says("validate", scenario, code=2)


def test_a_run_is_recorded_and_reported_like_any_other(scenario: Path, says: Says) -> None:
    results = scenario.parent / "results"
    text = says("run", scenario, "--results", results)
    assert "fake.took: one 1.00 ms, two 3.00 ms; against one: two 3.00x [3.00 - 3.00]." in text
    assert "runtime" not in text
    assert "none: 1 of 2 metrics" in text or "none: fake.took: not installed here" in text
    (directory,) = results.iterdir()
    lines = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()]
    assert len(lines) == 21
    two = next(line for line in lines if line["trial_id"] == "b01-two")
    assert (two["backend"], two["marks"], two["attestation"]) == ("study:fake", {}, None)
    assert two["metrics"]["fake.files"] == {"value": 2, "unit": "count", "labels": {"trial": "b01-two"}}
    run = json.loads((directory / "run.json").read_text())
    assert run["status"] == "complete"
    assert run["arms"]["two"] == {"version": "1"}
    assert run["study"] == {"kind": "fake", "doc": "what the options say", "options": {"lacks": []}}
    assert list((scenario.parent / "home" / "cache" / "runs").iterdir()) == []
    for name in ("md", "csv", "json"):
        assert "fake.files" in says("report", directory, "--format", name)


@pytest.mark.parametrize("disturbs", [(), ("load", "cpu-pressure")])
def test_a_study_is_not_flagged_for_what_it_disturbs_on_purpose(
    scenario: Path, says: Says, monkeypatch: pytest.MonkeyPatch, disturbs: tuple[str, ...]
) -> None:
    monkeypatch.setattr(noise, "LOAD_PER_CPU_MAX", -1.0)
    monkeypatch.setattr(FakeStudy, "disturbs", frozenset(disturbs))
    text = says("run", scenario, "--results", scenario.parent / "results")
    assert ("load: 21 of 21 trials were disturbed" in text) is (not disturbs)


def test_an_interrupted_study_goes_on(scenario: Path, says: Says) -> None:
    results = scenario.parent / "results"
    says("run", scenario, "--results", results)
    (directory,) = results.iterdir()
    journal = directory / "trials.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:8]))
    says("run", "--resume", directory, "--results", results)
    again = [json.loads(line)["trial_id"] for line in journal.read_text().splitlines()]
    assert again == [json.loads(line)["trial_id"] for line in lines]


def test_what_is_missing_is_named_and_nothing_is_measured(scenario: Path, says: Says) -> None:
    scenario.write_text(SCENARIO.replace("kind: fake", "kind: fake, lacks: [dd]"))
    results = scenario.parent / "results"
    says("run", scenario, "--results", results, code=3)
    assert not results.exists()


def test_an_arm_that_always_fails_is_given_up_with_its_reason(scenario: Path, says: Says) -> None:
    scenario.write_text(SCENARIO.replace("files: 2", "files: 2, fails: 'disk: full'"))
    told = says("run", scenario, "--results", scenario.parent / "results", code=4)
    assert "two: 2 of 2 trials failed: disk: full" in told
    assert "block 6/6   one 1.00 ms   two (before)   none 1" in told
