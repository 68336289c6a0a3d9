"""Formats for other tools, held against what those tools say they read."""

import json
import re
from xml.etree import ElementTree as ET

import pytest

from harness import plugins
from harness.analysis.summary import analyse
from tests.example_run import example_run, example_trials, fail

REPORT = analyse(example_run(), example_trials())


def render(name, report=REPORT):
    return plugins.load("report", name).render(report)


@pytest.mark.parametrize("direction", ["smaller", "bigger"])
def test_github_action_benchmark(direction):
    entries = json.loads(render(f"gab-{direction}"))
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    assert all(isinstance(entry["value"], float | int) and isinstance(entry["unit"], str) for entry in entries)
    assert all(isinstance(entry.get("range", ""), str) and isinstance(entry["extra"], str) for entry in entries)
    assert any("startup.ready" in name for name in names) == (direction == "smaller")


def test_ratio_to_the_control_is_an_entry_of_its_own():
    entries = {entry["name"]: entry for entry in json.loads(render("gab-smaller"))}
    assert entries["http-start/vm startup.ready"]["unit"] == "ms"
    assert entries["http-start/vm startup.ready vs process"]["value"] > 100
    assert "accelerator tcg" in entries["http-start/vm startup.ready"]["extra"]


def test_bencher():
    document = json.loads(render("bmf"))
    measures = document["http-start/vm"]
    assert measures["startup-ready-ms"]["lower_value"] < measures["startup-ready-ms"]["value"]
    assert "startup-ready-ratio-vs-control" in measures
    assert all(len(name) <= 64 and "value" in entry for names in document.values() for name, entry in names.items())


def test_openmetrics():
    text = render("openmetrics")
    assert text.endswith("# EOF\n")
    sample = re.compile(r'[a-z_]+\{(?:[a-z_]+="[^"]*",?)+\} -?[0-9.e+-]+')
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(sample.fullmatch(line) for line in lines)
    assert len(set(lines)) == len(lines)
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(set(families)) == len(families)


def test_junit_keeps_broken_apart_from_slow():
    trials = [trial for trial in example_trials() if trial.status == "ok"]
    broken = [fail(t, "agent: died\x00 <&>") if t.spec.trial_id == "b03-vm" else t for t in trials]
    suite = ET.fromstring(render("junit", analyse(example_run(), broken)))[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
    (error,) = suite.iter("error")
    assert "b03-vm" in error.text


def test_latex_escapes_and_balances():
    text = render("latex")
    assert text.count(r"\begin{") == text.count(r"\end{")
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) == 5 for row in rows)
    assert not re.search(r"(?<!\\)[_%#]", body)
