"""Tables of GitHub-flavoured Markdown whose cells stay cells, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def plain(text: str) -> str:
    """Return text that stays one table cell and shows as it is: what a workload printed may hold anything."""
    line = " ".join(text.split())
    for letter in "\\`*_":
        line = line.replace(letter, f"\\{letter}")
    for letter in "<>|":
        line = line.replace(letter, f"&#{ord(letter)};")
    return line.replace("](", "]\\(")  # brackets alone are an interval


def table(head: Sequence[str], lines: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> Iterator[str]:
    """Yield the lines of a table; the columns `right` are right-aligned."""
    yield f"| {' | '.join(map(plain, head))} |"
    yield f"|{'|'.join(' ---: ' if place in right else ' --- ' for place in range(len(head)))}|"
    for line in lines:
        yield f"| {' | '.join(map(plain, line))} |"
