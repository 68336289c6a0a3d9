"""`harness gate`, `compare` and `history` on runs written to disk: exit codes, formats, and what is refused."""

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from harness.cli.main import cli, run
from harness.results.store import RunDirectory
from tests.example_run import example_run, example_trials


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two runs: `base`, and `slow` whose VM starts 1.5 times slower."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    write(tmp_path, "20260101T000000Z-base-00000001", 1.0)
    write(tmp_path, "20260102T000000Z-slow-00000002", 1.5)
    return tmp_path / "results"


def write(path, run_id, factor, blocks=15, **changed):
    record = example_run(run_id=run_id, **changed)
    resolved = {"gate": {"margin": 0.1, "metrics": ["startup.ready"]}}
    directory = RunDirectory.create(path / "results", record, "name: x\n", resolved)
    for trial in example_trials(blocks=blocks):
        directory.append(slower(trial, factor))
    directory.close()


def slower(trial, factor):
    if trial.spec.runtime != "vm" or "startup.ready" not in trial.metrics:
        return trial
    value = trial.metrics["startup.ready"]
    return replace(trial, metrics={**trial.metrics, "startup.ready": replace(value, value=value.value * factor)})


def call(*arguments):
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


def code(*arguments):
    return run(list(arguments))


def test_a_regression_ends_with_one_and_says_what(results, capsys):
    assert code("gate", "slow-00000002", "--baseline", "base-00000001") == 1
    shown = capsys.readouterr().out
    assert "startup.ready *" in shown
    assert "1.50x [" in shown
    assert "regressed: startup.ready of vm" in shown


def test_the_same_run_passes(results):
    write(results.parent, "20260103T000000Z-same-00000003", 1.0)
    assert code("gate", "same-00000003", "--baseline", "base-00000001", "--margin", "0.3") == 0


def test_undecided_is_its_own_code_only_where_asked(results, capsys):
    write(results.parent, "20260103T000000Z-few-00000003", 1.0, blocks=5)
    assert code("gate", "few-00000003", "--baseline", "base-00000001") == 0
    assert "undecided" in capsys.readouterr().err
    assert code("gate", "few-00000003", "--baseline", "base-00000001", "--strict") == 5


def test_nothing_to_compare_is_no_pass(results):
    write(results.parent, "20260103T000000Z-other-00000003", 1.0, scenario_hash="f" * 64)
    assert code("gate", "other-00000003", "--baseline", "base-00000001") == 3
    assert code("gate", "slow-00000002") == 3  # no history yet
    assert code("compare", "base-00000001", "other-00000003") == 2
    assert code("compare", "base-00000001", "other-00000003", "--anyway") == 0


def test_junit_tells_failure_from_error(results, tmp_path):
    path = tmp_path / "junit.xml"
    code("gate", "slow-00000002", "--baseline", "base-00000001", "--format", "junit", "--output", str(path))
    suite = ET.parse(path).getroot()[0]
    assert suite.get("failures") == "1"
    failed = {case.get("classname") for case in suite if case.find("failure") is not None}
    assert failed == {"http-start.vm"}
    code("gate", "slow-00000002", "--format", "junit", "--output", str(path))
    suite = ET.parse(path).getroot()[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")


def test_json_and_markdown(results):
    document = json.loads(call("compare", "base-00000001", "slow-00000002", "--format", "json").stdout)
    assert document["schema"] == "harness.gate/1"
    assert document["outcome"] == "regressed"
    text = call("gate", "slow-00000002", "--baseline", "base-00000001", "--format", "markdown").stdout
    assert text.startswith("## ❌ regressed")
    assert "<details>" in text


def test_github_gets_an_annotation(results, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code("gate", "slow-00000002", "--baseline", "base-00000001")
    assert "::error title=startup.ready of vm regressed::" in capsys.readouterr().err
    code("gate", "slow-00000002", "--baseline", "base-00000001", "--format", "junit")
    assert "::error" not in capsys.readouterr().err, "told once"


def test_accepted_changes_pass_and_are_named(results, tmp_path, capsys):
    path = tmp_path / "accepted.yaml"
    path.write_text('- {metric: "startup.*", runtime: vm, since: 20260102T000000Z-slow, reason: new firmware}\n')
    assert code("gate", "slow-00000002", "--baseline", "base-00000001", "--accepted", str(path)) == 0
    assert "accepted: new firmware" in capsys.readouterr().out
    path.write_text("- {metric: x}\n")
    assert code("gate", "slow-00000002", "--baseline", "base-00000001", "--accepted", str(path)) == 2


def test_history_of_runs(results, capsys):
    for place in range(16):
        run_id = f"202602{place + 1:02}T000000Z-h-{place:08x}"
        write(results.parent, run_id, 1.5 if place >= 12 else 1.0, blocks=6, started=f"2026-02-{place + 1:02}")
        assert code("history", "add", run_id, "--commit", f"{place:040x}") == 0
    assert code("history", "add", run_id) == 0
    assert "already in" in capsys.readouterr().out
    assert code("history", "show", "http-start", "--margin", "0.1") == 0
    assert "regressed" in capsys.readouterr().out
    assert code("gate", run_id) == 1
    capsys.readouterr()
    assert code("gate", run_id, "--format", "markdown") == 1
    shown = capsys.readouterr().out
    assert "| vm | 1.50x | 16 |" in shown
    assert "- startup.ready of vm: `▁▁▁▁▁▁▁▁▁▁▁▁████` 424.4 to 636.7" in shown
    assert '```mermaid\nxychart-beta\n    title "startup.ready of vm"\n    x-axis "run" 1 --> 16\n' in shown
    assert shown.count("```mermaid") == 1, "only what is red"
    assert code("gate", "20260210T000000Z-h-00000009", "--strict") == 5  # 10 runs of 11
    for name in ("chart.svg", "chart.png"):
        assert code("history", "chart", "http-start", "--output", name) == 0
    first = (results.parent / "chart.svg").read_bytes()
    code("history", "chart", "http-start", "--output", "chart.svg")
    assert (results.parent / "chart.svg").read_bytes() == first
    assert b"<desc>" in first


def test_history_that_is_not_there(results, capsys):
    assert code("history", "show", "boot") == 2
    assert "history add RUN" in capsys.readouterr().err


def test_a_run_beside_its_base_is_judged_by_its_pairs_and_is_no_point_of_a_history(results, capsys):
    name = "20260103T000000Z-both-00000003"
    record = example_run(run_id=name, base={"revision": "main", "commit": "0123456789"})
    record = replace(record, runtimes=(*record.runtimes, *(f"{runtime}@base" for runtime in record.runtimes)))
    directory = RunDirectory.create(results, record, "name: x\n", {"gate": {"metrics": ["startup.ready"]}})
    for trial in example_trials(blocks=15):
        directory.append(slower(trial, 1.5))
        spec = replace(trial.spec, runtime=f"{trial.spec.runtime}@base", trial_id=f"{trial.spec.trial_id}@base")
        directory.append(replace(trial, spec=spec))
    directory.close()
    assert code("gate", name) == 1
    shown = capsys.readouterr().out
    assert "against revision main (01234567), margin 5%" in shown
    assert "regressed: startup.ready of vm" in shown
    assert code("history", "add", name) == 2
    assert "beside a base revision" in capsys.readouterr().err


def test_options_of_measuring_need_a_base(results, capsys):
    assert code("gate", "slow-00000002", "--only", "vm") == 2
    assert "--base REVISION" in capsys.readouterr().err
