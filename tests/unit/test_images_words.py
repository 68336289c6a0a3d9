import pytest

from harness.images.words import WordError, assignments, expand, split

VARIABLES = {"A": "one", "B": "two words", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", "one"),
        ("${A}x", "onex"),
        ("$Ax", ""),
        ("'$A'", "$A"),
        ('"$A $B"', "one two words"),
        (r"\$A", "$A"),
        (r'"\$A \n"', r"$A \n"),
        ("${NONE:-$A}", "one"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${A:+yes}", "yes"),
        ("${EMPTY:+yes}", ""),
        ("${EMPTY+yes}", "yes"),
        ("${A:?gone}", "one"),
        ("100$", "100$"),
        ("a  b", "a  b"),
    ],
)
def test_expand(text, expected):
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("'a", "never closed"),
        ('"a', "never closed"),
        ("${A", "expected '}'"),
        ("${A/x/y}", "expected '}'"),
        ("${}", "without the name"),
        ("${NONE:?tell me}", "NONE: tell me"),
        ("${A:-x", "never closed"),
    ],
)
def test_words_that_cannot_be_read(text, why):
    with pytest.raises(WordError, match=why):
        expand(text, VARIABLES)


def test_a_value_with_blanks_stays_one_word():
    assert split("$B 'c d' e\\ f", VARIABLES) == ["two words", "c d", "e f"]


def test_assignments_new_and_old_form():
    assert assignments('X=1 Y="2 3" Z=$A', VARIABLES) == {"X": "1", "Y": "2 3", "Z": "one"}
    assert assignments("X the rest of $A", VARIABLES) == {"X": "the rest of one"}
    with pytest.raises(WordError, match="Y: expected NAME=VALUE"):
        assignments("X=1 Y", VARIABLES)


def test_another_escape_character():
    assert expand(r"C:\$A", VARIABLES, escape="`") == "C:\\one"
