"""Marks out of a byte stream that also carries console text."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from harness.agent.marks import LINE_MAX_BYTES, MarkParser, delivery_ns
from harness.model.milestones import Mark


def test_a_mark_between_console_text() -> None:
    parser = MarkParser()
    marks = parser.feed(b"[    0.0] Linux\n\x1einit 123\n[    0.1] more", 7)
    assert marks == [Mark("init", 7, "", 123)]
    assert bytes(parser.console) == b"[    0.0] Linux\n[    0.1] more"


def test_detail_is_everything_after_the_second_word() -> None:
    assert MarkParser().feed(b"\x1eerror 5 exec: /x: No such file\n", 1)[0].detail == "exec: /x: No such file"


def test_what_is_no_mark_is_console_text() -> None:
    parser = MarkParser()
    assert parser.feed(b"\x1enot a mark\n", 1) == []
    assert bytes(parser.console) == b"not a mark"


def test_a_line_that_never_ends_is_bounded() -> None:
    parser = MarkParser()
    for _ in range(10):
        parser.feed(b"\x1e" + b"x" * LINE_MAX_BYTES, 1)
    assert len(parser.console) > LINE_MAX_BYTES


def test_the_console_is_bounded() -> None:
    parser = MarkParser(console_max_bytes=10)
    parser.feed(b"y" * 100, 1)
    assert len(parser.console) == 10


@given(st.lists(st.integers(0, 60), max_size=20))
def test_however_the_bytes_are_cut_the_marks_are_the_same(cuts: list[int]) -> None:
    stream = b"boot\x1einit 1\ntext\x1eexec 22 detail here\n\x1eready 333\n"
    parser, marks = MarkParser(), []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        marks += parser.feed(stream[start:end], 9)
    assert [(mark.milestone, mark.inside_ns, mark.detail) for mark in marks] == [
        ("init", 1, ""),
        ("exec", 22, "detail here"),
        ("ready", 333, ""),
    ]
    assert bytes(parser.console) == b"boottext"


def test_delivery_is_a_difference_of_one_clock_or_relative_to_the_quickest() -> None:
    marks = [Mark("cal", 150, "", 100), Mark("cal", 290, "", 200)]
    assert delivery_ns(marks, same_clock=True) == [50, 90]
    assert delivery_ns(marks, same_clock=False) == [0, 40]
