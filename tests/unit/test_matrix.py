"""`matrix:` of a scenario, from the file to its cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ScenarioError, UsageError
from harness.model import matrix
from harness.model.checking import Known
from harness.model.document import flow, override, parse
from harness.model.fields import Strict
from harness.model.reading import load, load_cells

TEXT = """\
schema: harness.scenario/1
name: sized
image: {name: busybox}
workload: {kind: sleep}
matrix:
  limits.memory: [64MiB, 1GiB]
  runtimes.vm.cpus: [1, 2, 4]
runtimes:
  process: {backend: process}
  vm: {backend: vm}
metrics: [startup]
"""


class Nothing(Strict):
    pass


class Sized(Strict):
    cpus: int = 1


KNOWN = Known({"process": Nothing, "vm": Sized}, {"sleep": Nothing}, ("startup",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "a.yaml"
    found.write_text(TEXT)
    return found


def test_every_combination_is_a_scenario_of_its_own_and_the_first_key_changes_slowest(path: Path) -> None:
    cells = load_cells(path, KNOWN)
    assert [tuple(cell.cell.values()) for cell in cells] == [
        (size, cpus) for size in ("64MiB", "1GiB") for cpus in ("1", "2", "4")
    ]  # fmt: skip
    last = cells[-1]
    assert (last.scenario.limits.memory_bytes, last.scenario.runtimes["vm"].options.cpus) == (1 << 30, 4)
    assert "matrix" not in last.resolved()


def test_a_cell_is_what_the_same_values_of_set_make(path: Path) -> None:
    for cell in load_cells(path, KNOWN):
        again = load(path, KNOWN, overrides=cell.overrides)
        assert again.resolved() == cell.resolved()


def test_set_leaves_one_value_of_a_key_or_none_of_the_matrix(path: Path) -> None:
    cells = load_cells(path, KNOWN, overrides=["limits.memory=2GiB"])
    assert [dict(cell.cell) for cell in cells] == [{"runtimes.vm.cpus": text} for text in ("1", "2", "4")]
    assert {cell.scenario.limits.memory_bytes for cell in cells} == {2 << 30}
    (alone,) = load_cells(path, KNOWN, overrides=["matrix=null"])
    assert alone.cell == {}


def test_set_of_a_part_of_what_is_swept_is_not_lost_silently(path: Path) -> None:
    path.write_text(TEXT.replace("limits.memory: [64MiB, 1GiB]", "limits: [{memory: 64MiB}, {memory: 1GiB}]"))
    with pytest.raises(ScenarioError, match=r"6:3: matrix\.limits: --set limits\.cpus: is a part of what is swept"):
        load_cells(path, KNOWN, overrides=["limits.cpus=2"])
    cells = load_cells(path, KNOWN, overrides=["limits={memory: 2GiB}", "limits.cpus=2"])
    assert {(cell.scenario.limits.memory_bytes, cell.scenario.limits.cpus) for cell in cells} == {(2 << 30, 2.0)}


def test_a_file_of_keys_takes_no_time(path: Path) -> None:
    path.write_text(TEXT.replace("matrix:\n", "matrix:\n" + "".join(f"  a{n}: [1]\n" for n in range(50_000))))
    with pytest.raises(ScenarioError, match="50002 keys are more than 100"):
        load_cells(path, KNOWN)


def test_who_takes_one_scenario_says_how_to_choose(path: Path) -> None:
    with pytest.raises(UsageError, match="its matrix has 6 cells, where one is expected") as caught:
        load(path, KNOWN)
    assert caught.value.hint == "choose one: --set limits.memory=64MiB --set runtimes.vm.cpus=1"


MISTAKES = [
    ("[1, 2, 4]", "[1, two, 4]", "a.yaml:7:25: runtimes.vm.cpus: expected an integer, got 'two'"),
    ("[64MiB, 1GiB]", "[64, 1GiB]", "a.yaml:6:19: limits.memory: expected at least 1MiB"),
    ("limits.memory:", "limit.memory:", "a.yaml:6:3: limit: unknown key; did you mean 'limits'?"),
    ("vm.cpus:", "vn.cpus:", "a.yaml:7:3: runtimes.vn.backend: missing"),
    ("limits.memory:", "name:", "a.yaml:6:3: matrix.name: name: cannot be swept"),
    ("limits.memory:", "limits..memory:", "a.yaml:6:3: matrix.limits..memory: limits..memory: cannot be swept"),
    ("[1, 2, 4]", "4", "a.yaml:7:21: matrix.runtimes.vm.cpus: expected a list of values"),
    ("[1, 2, 4]", "[]", "a.yaml:7:21: matrix.runtimes.vm.cpus: expected a list of values"),
    ("[1, 2, 4]", "[1, 2, 1]", "a.yaml:7:28: matrix.runtimes.vm.cpus.2: 1: is there twice"),
    ("limits.memory: [64MiB, 1GiB]", "runtimes.vm: [{backend: vm}]",
     "a.yaml:7:3: matrix.runtimes.vm.cpus: is a part of runtimes.vm, which is swept too"),
    ("limits.memory: [64MiB, 1GiB]", "control: [process, vm]", "a.yaml:6:3: matrix.control: control: cannot be swept"),
    ("[1, 2, 4]", str([*range(1, 102)]), "a.yaml:7:3: matrix.runtimes.vm.cpus: 101 values are more than 100"),
    ("runtimes.vm.cpus:", "metrics.first:", "a.yaml:7:3: matrix.metrics.first: has no entry 'first'"),
    ("[1, 2, 4]", str([*range(1, 52)]), "a.yaml:5:1: matrix: 2 x 51 combinations are more than 100"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_a_mistake_is_told_once_at_its_place(path: Path, old: str, new: str, message: str) -> None:
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ScenarioError) as caught:
        load_cells(path, KNOWN)
    (said,) = caught.value.problems
    assert str(said).removeprefix(f"{path.parent}/").startswith(message)


def test_a_matrix_is_a_mapping(path: Path) -> None:
    path.write_text(TEXT.replace("matrix:\n", "matrix: []\nother:\n"))
    with pytest.raises(ScenarioError, match="matrix: expected keys with lists of values"):
        load_cells(path, KNOWN)


def test_a_mistake_of_set_is_not_blamed_on_a_cell_nor_the_other_way_round(path: Path) -> None:
    path.write_text(TEXT.replace("[1, 2, 4]", "[1, two]"))
    with pytest.raises(ScenarioError) as caught:
        load_cells(path, KNOWN, overrides=["trials.blocks.max=3", "trials.warmup=no"])
    places = {problem.key: (Path(problem.path).name, problem.line) for problem in caught.value.problems}
    assert places["runtimes.vm.cpus"] == ("a.yaml", 7)
    assert places["trials.warmup"] == ("--set trials.warmup=no", 0)


def test_a_matrix_of_set_names_the_override(path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_cells(path, KNOWN, overrides=["matrix={limits.memory: [64MiB, 3]}"])
    (said,) = caught.value.problems
    assert said.path == "--set matrix={limits.memory: [64MiB, 3]}"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.", min_size=1), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(VALUES)
def test_a_value_in_one_line_is_read_as_the_same_value(value: object) -> None:
    assert override(parse("{}", "a.yaml"), f"a={flow(value)}").data == {"a": value}


@pytest.mark.parametrize(
    ("value", "text"),
    [("64MiB", "64MiB"), ("q35", "q35"), ("true", '"true"'), ("12", '"12"'), (True, "true"), ("a: b", '"a: b"'),
     (["/bin/true"], '["/bin/true"]'), ("http://x/y", "http://x/y"), (None, "null"), ("", '""'), (0.5, "0.5")],
)  # fmt: skip
def test_a_value_in_one_line_is_as_short_as_it_can_be(value: object, text: str) -> None:
    assert flow(value) == text


def test_a_label_says_all_settings() -> None:
    assert matrix.label({"a.b": "1", "c": "x"}) == "a.b=1, c=x"


def test_values_are_short_in_tables_unless_two_would_be_alike() -> None:
    assert matrix.shortened(['{"kind": "http", "port": 8080}', '{"kind": "noop"}', "128MiB", '["/bin/true", "x"]']) == (
        "kind=http port=8080", "kind=noop", "128MiB", "/bin/true x",
    )  # fmt: skip
    assert matrix.shortened(["/a/long/way/to/the/image/webserver"]) == ("/a/long/way/t…ge/webserver",)
    alike = ["/a/long/way/to/1/image/webserver", "/a/long/way/to/2/image/webserver"]
    assert matrix.shortened(alike) == tuple(alike)
    assert matrix.shortened(["1", "2", "1"]) == ("1", "2", "1")
