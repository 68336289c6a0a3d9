"""Reading YAML strictly: what is refused, and where messages point."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import Problem, ScenarioError, UsageError
from harness.model.document import MAX_BYTES, Position, did_you_mean, excerpt, override, parse, read


def refusal(text):
    with pytest.raises(ScenarioError) as caught:
        parse(text, "a.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", None),
        ("null", None), ("22:22", "22:22"), ("0755", 755), ("0o755", 0o755), ("0x1F", 31), ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"), ("1.5", 1.5), ("1e3", 1000.0), ("1.", 1.0), ("-7", -7), ('"7"', "7"),
        ("256MiB", "256MiB"), ("5%", "5%"), ("<<", "<<"), ("'x'", "x"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text, value):
    assert parse(f"a: {text}\n", "a.yaml").data == {"a": value}


def test_positions_of_keys_and_values():
    document = parse("a:\n  b: [1, {c: 2}]\n", "a.yaml")
    assert document.spans[("a", "b")].key == Position(2, 3)
    assert document.spans[("a", "b", 0)].value == Position(2, 7)
    assert document.spans[("a", "b", 1, "c")].value == Position(2, 14)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: 1\nb: 2\na: 3\n", "a.yaml:3:1: a: duplicate key; first given on line 1", id="duplicate"),
        pytest.param("a: &x 1\n", "a.yaml:1:4: anchors and aliases are not supported", id="anchor"),
        pytest.param("a: *x\n", "a.yaml:1:4: anchors and aliases are not supported", id="alias"),
        pytest.param("a: !!python/object:os.system x\n", "a.yaml:1:4: tags are not supported", id="tag"),
        pytest.param("a: 1\n---\nb: 2\n", "a.yaml:2:1: a second document", id="two-documents"),
        pytest.param("%YAML 1.1\n---\na: 1\n", "a.yaml:2:1: a %YAML directive for another version", id="yaml-1.1"),
        pytest.param("[1]: 2\n", "a.yaml:1:1: expected a name as key", id="list-as-key"),
        pytest.param("? {a: 1}\n: 2\n", "a.yaml:1:3: expected a name as key", id="mapping-as-key"),
        pytest.param("a: b: c\n", "a.yaml:1:5: mapping values are not allowed here", id="two-colons"),
        pytest.param("a: [1\nb: 2\n", "a.yaml:2:2: expected ',' or ']'", id="open-list"),
        pytest.param("a:\n\t- b\n", "a.yaml:2:1: found character '\\t'", id="tab"),
        pytest.param("a: \x07\n", "a.yaml:1:4: unacceptable character", id="control-character"),
        pytest.param("[" * 5000, "a.yaml:1:33: nested deeper than 32 levels", id="deep"),
        pytest.param("#[#} }]1b:>\n>1 #!&],|#&]{\u2028\u2028%\n:\"|[a", "a.yaml:1:1: ", id="parser-trips"),
        pytest.param("a: .nan\n", "a.yaml:1:4: .nan: not a finite number", id="nan"),
        pytest.param("a: " + "9" * 5000, "a.yaml:1:4: 9999", id="huge-number"),
    ],
)  # fmt: skip
def test_refused(text, message):
    assert refusal(text)[0].startswith(message)


def test_an_alias_bomb_is_refused_before_it_grows():
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [{', '.join(['*a'] * 9)}]\n" for n in "bcdefgh")
    assert "anchors and aliases are not supported" in refusal(bomb)[0]


def test_all_refusals_come_at_once():
    assert len(refusal("a: !x 1\na: &y 2\nb: *y\n")) == 4


def test_big_files_are_not_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ScenarioError, match="larger than 1 MiB"):
        read(tmp_path / "a.yaml")


def test_other_encodings_are_refused_at_their_byte(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ScenarioError, match=r"a\.yaml:2:4: not UTF-8"):
        read(tmp_path / "a.yaml")


def test_a_missing_file_has_no_line(tmp_path):
    with pytest.raises(ScenarioError, match=r"none\.yaml: cannot be read: No such file or directory"):
        read(tmp_path / "none.yaml")


def outcome(text):
    try:
        return parse(text, "a.yaml")
    except ScenarioError as error:
        return error.problems


@given(st.text(alphabet=" \n\t:-[]{}&*!%?|>'\"#,ab1\x07\u2028é", max_size=80))
def test_any_text_is_read_or_refused_with_a_problem(text):
    assert outcome(text)


def test_override_sets_makes_and_replaces():
    document = parse("a: {b: 1}\nlist: [x, y]\n", "a.yaml")
    for assignment in ("a.b=2", "a.c.d=[1, 2]", "list.1=z", "e=no"):
        document = override(document, assignment)
    assert document.data == {"a": {"b": 2, "c": {"d": [1, 2]}}, "list": ["x", "z"], "e": "no"}


def test_override_leaves_the_original_alone():
    document = parse("a: {b: 1}\n", "a.yaml")
    override(document, "a.b=2")
    assert document.data == {"a": {"b": 1}}


def test_a_mistake_in_an_override_names_it():
    document = override(parse("a: {b: 1}\n", "a.yaml"), "a.b=x")
    assert str(document.problem(("a", "b"), "wrong")) == "--set a.b=x: a.b: wrong"
    assert str(document.problem(("a",), "wrong")) == "a.yaml:1:4: a: wrong"


@pytest.mark.parametrize("assignment", ["a", "=1", "a..b=1", ".=1", ""])
def test_an_override_needs_a_key_and_a_value(assignment):
    with pytest.raises(UsageError, match=r"expected dotted\.key=value"):
        override(parse("a: 1\n", "a.yaml"), assignment)


@pytest.mark.parametrize("assignment", ["list.7=x", "list.x=1", "a=[1"])
def test_an_override_that_cannot_be(assignment):
    with pytest.raises(ScenarioError, match=r"--set "):
        override(parse("list: [1]\n", "a.yaml"), assignment)


def test_did_you_mean():
    assert did_you_mean("memroy", ["memory", "cpus"]) == "; did you mean 'memory'?"
    assert did_you_mean("zzz", ["memory", "cpus"]) == "; known: cpus, memory"
    assert did_you_mean("zzz", []) == ""


def test_excerpt_points_at_the_column():
    shown = excerpt(Problem("a.yaml", 2, 3, "", "wrong"), ["a:", "  b: 1"])
    assert shown == "    2 |   b: 1\n      |   ^"


def test_excerpt_of_a_place_that_is_not_there():
    assert excerpt(Problem("a.yaml", 0, 0, "", "wrong"), ["a"]) == ""
    assert excerpt(Problem("a.yaml", 9, 1, "", "wrong"), ["a"]) == ""


def test_a_scenario_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boot.yaml").touch()
    with pytest.raises(ScenarioError) as caught:
        read(Path("scenarios/boot.yaml"))
    assert caught.value.hint == f"paths count from the current directory: {tmp_path}"
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path / "bot.yaml")
    assert caught.value.hint == f"did you mean '{tmp_path / 'boot.yaml'}'?"
