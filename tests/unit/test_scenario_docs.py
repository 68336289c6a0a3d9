"""docs/scenario.md names every key that a scenario may hold, and no other."""

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from harness import plugins
from harness.images import containerfile, instructions
from harness.model import matrix
from harness.model.scenario import Blocks, Density, Gate, Image, LimitsSection, Scenario, Trials

TEXT = (Path(__file__).parents[2] / "docs" / "scenario.md").read_text()


def keys(model):
    return {info.alias or name for name, info in model.model_fields.items()}


def section(title):
    return re.split(r"^#+ ", TEXT, flags=re.MULTILINE)[[*re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)].index(title) + 1]


def rows(title):
    """Return the first words of the rows of a section's tables."""
    return set(re.findall(r"^\| `(\w+)", section(title), re.MULTILINE))


def test_every_key_is_documented():
    assert rows("Keys") == {*keys(Scenario), matrix.KEY}
    assert rows("image") == keys(Image)
    assert rows("limits") == keys(LimitsSection)
    assert rows("trials") == keys(Trials)
    assert rows("density") == keys(Density)
    assert rows("gate") == keys(Gate)


@pytest.mark.parametrize("name", plugins.names("backends"))
def test_every_option_of_a_backend_is_documented_with_its_default_and_values(name):
    model = plugins.load("backends", name).options
    page = section(f"backend: {name}")
    lines = {key: line for line in page.splitlines() for key in re.findall(r"^\| `(\w+)`", line)}
    assert set(lines) == keys(model)
    for key, info in model.model_fields.items():
        values = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
        assert all(f"`{value}`" in lines[info.alias or key] for value in values)
        if isinstance(info.default, bool) or values:
            assert f"| `{str(info.default).lower()}` |" in lines[info.alias or key]


@pytest.mark.parametrize("name", plugins.names("studies"))
def test_every_option_of_a_study_and_of_its_arms_is_documented(name):
    study = plugins.load("studies", name)
    assert rows(f"study: {name}") == keys(study.options) | keys(study.arm_options)


def test_every_kind_of_workload_is_documented():
    for name in plugins.names("workloads"):
        assert f"`kind: {name}`" in section("workload")


def test_every_instruction_of_a_containerfile_is_documented_as_it_works():
    table = [line.split("|")[1:3] for line in section("Containerfile").splitlines() if re.match(r"\| `[A-Z]+`", line)]
    said = {word: works for words, works in table for word in re.findall(r"`([A-Z]+)`", words)}
    assert set(said) == set(containerfile.KEYWORDS)
    settings = instructions.Settings({}, {}, {})
    for keyword, handler in instructions.HANDLERS.items():
        try:
            handler(settings, containerfile.Instruction(keyword, 1, (), "A=1", ("a",)))
            refused = False
        except instructions.NotSupportedError:
            refused = True
        except instructions.WordError:
            refused = False
        assert said[keyword].lstrip().startswith(("not yet", "refused")) is refused


def test_every_key_of_the_workloads_is_documented():
    command, http = (plugins.load("workloads", name).options for name in ("command", "http"))
    conditions = set(http.model_fields["ready"].annotation.model_fields)
    assert rows("workload") == keys(command) | conditions
    assert keys(http) - keys(command) == {"port"}
    assert "`port`" in section("workload")


def test_defaults_are_those_of_the_model():
    defaults = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section("limits") + section("trials"), re.MULTILINE))
    limits, trials = LimitsSection(), Trials()
    assert limits == LimitsSection.model_validate({"cpus": float(defaults["cpus"]), "memory": defaults["memory"],
                                                   "pids": int(defaults["pids"])})  # fmt: skip
    assert trials.blocks == Blocks(min=10, max=30)
    assert defaults["blocks"] == "{min: 10, max: 30}"
    assert trials.warmup == int(defaults["warmup"])
    assert f"{trials.precision:.0%}" == defaults["precision"]
