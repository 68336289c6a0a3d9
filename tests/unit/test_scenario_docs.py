"""docs/scenario.md names every key that a scenario may hold, and no other."""

import re
from pathlib import Path

from harness import plugins
from harness.model.reading import NOT_YET
from harness.model.scenario import Blocks, Gate, Image, LimitsSection, Scenario, Trials

TEXT = (Path(__file__).parents[2] / "docs" / "scenario.md").read_text()


def keys(model):
    return {info.alias or name for name, info in model.model_fields.items()}


def section(title):
    return re.split(r"^#+ ", TEXT, flags=re.MULTILINE)[[*re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)].index(title) + 1]


def rows(title):
    """Return the first words of the rows of a section's tables."""
    return set(re.findall(r"^\| `(\w+)", section(title), re.MULTILINE))


def test_every_key_is_documented():
    assert rows("Keys") == keys(Scenario)
    assert rows("image") == keys(Image)
    assert rows("limits") == keys(LimitsSection)
    assert rows("trials") == keys(Trials)
    assert rows("gate") == keys(Gate)


def test_every_key_of_the_workloads_is_documented():
    command, http = (plugins.load("workloads", name).options for name in ("command", "http"))
    conditions = set(http.model_fields["ready"].annotation.model_fields)
    assert rows("workload") == keys(command) | conditions
    assert keys(http) - keys(command) == {"port"}
    assert "`port`" in section("workload")


def test_what_is_not_supported_yet_is_said():
    line = next(line for line in TEXT.splitlines() if line.startswith("Not supported yet"))
    assert set(re.findall(r"`(\w+)`", line)) == set(NOT_YET)


def test_defaults_are_those_of_the_model():
    defaults = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section("limits") + section("trials"), re.MULTILINE))
    limits, trials = LimitsSection(), Trials()
    assert limits == LimitsSection.model_validate({"cpus": float(defaults["cpus"]), "memory": defaults["memory"],
                                                   "pids": int(defaults["pids"])})  # fmt: skip
    assert trials.blocks == Blocks(min=10, max=30)
    assert defaults["blocks"] == "{min: 10, max: 30}"
    assert trials.warmup == int(defaults["warmup"])
    assert f"{trials.precision:.0%}" == defaults["precision"]
