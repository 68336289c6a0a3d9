"""Tables of `harness container`: what there is, and where the time of a start went."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from harness.cli._output import console
from harness.engine.life import Started
from harness.engine.prepare import Prepared
from harness.engine.record import Sight

if TYPE_CHECKING:
    from rich.table import Table

_SMALL_RATIO = 0.02
_BAR_COLUMNS = 16
_OTHER_COLUMNS = 48  # those of numbers and bars, and what is between them
_COMMAND_COLUMNS = 28


# -- ps --------------------------------------------------------------------------------------------------------------


def _ago(text: str) -> str:
    """Return how long a moment is ago: `12 seconds`, `3 minutes`, `5 hours`, `2 days`."""
    seconds = max(0, round((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()))
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def status_text(sight: Sight) -> str:
    """Return a status for people."""
    if sight.status == "exited":
        if sight.ending is None or sight.ending.code is None:
            return "Exited (code unknown)"
        return f"Exited ({sight.ending.code}) {_ago(sight.ending.finished)} ago"
    if sight.status == "created":
        return "Created"
    return f"Up {_ago(sight.record.created)}" + (" (Paused)" if sight.status == "paused" else "")


def print_containers(sights: Sequence[Sight]) -> None:
    """Write one line a container to stdout, newest first; no line is folded or cut, so that scripts can read them."""
    rows = [("ID", "NAME", "IMAGE", "COMMAND", "STATUS", "CREATED")]
    for sight in reversed(sights):
        record = sight.record
        command = shlex.join(record.command)
        short = command if len(command) <= _COMMAND_COLUMNS else command[: _COMMAND_COLUMNS - 1] + "…"
        plain = "".join(letter if letter.isprintable() else "?" for letter in short)
        rows.append((record.id, record.name, record.image, plain, status_text(sight), f"{_ago(record.created)} ago"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def sight_json(sight: Sight) -> dict[str, Any]:
    """Return a container as JSON data; `exit_code` is null where it runs, or nobody saw its end."""
    ending = sight.ending
    return {
        **asdict(sight.record),
        "status": sight.status,
        "pid": sight.pid or None,
        "exit_code": ending.code if ending else None,
        "finished": ending.finished if ending else None,
        "oom_kills_count": ending.oom_kills_count if ending else None,
    }


# -- trace -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a start: who did it, what it was, how long it took."""

    who: str
    what: str
    took_ns: int


def trace_parts(prepared: Prepared, started: Started) -> list[Part]:
    """Return every part of a start in its order: Python's, the launcher's steps, Python's again."""
    launched = started.launched
    moments = [launched.began_ns, *launched.times_ns]
    steps = [
        Part(f"{index}", str(step) if index else "start the launcher", after - before)
        for index, (step, (before, after)) in enumerate(zip(launched.steps, pairwise(moments), strict=False))
    ]
    return [
        *(Part("harness", what, took_ns) for what, took_ns in prepared.times_ns.items()),
        Part("harness", "read the bundle, make the cgroup, plan", launched.began_ns - started.asked_ns),
        *steps,
        Part("harness", "write down the state", started.created_ns - moments[-1]),
        Part("harness", "start: let it execute the program", started.started_ns - started.created_ns),
    ]


def fold(parts: Sequence[Part], total_ns: int) -> list[Part]:
    """Return the parts with runs of small steps as one: their numbers, their names, their sum."""
    rows: list[Part] = []
    small: list[Part] = []
    for part in [*parts, None]:
        if part is not None and part.who != "harness" and part.took_ns < _SMALL_RATIO * total_ns:
            small.append(part)
            continue
        if len(small) == 1:
            rows += small
        elif small:
            names = list(dict.fromkeys(entry.what.split(" ")[0] for entry in small))
            rows.append(Part(f"{small[0].who}-{small[-1].who}", ", ".join(names), sum(e.took_ns for e in small)))
        small = []
        rows += [part] if part is not None else []
    return rows


def _trace_table(parts: Sequence[Part], total_ns: int, width: int) -> Table:
    """Return the table; WHAT is cut to what is left of `width` columns, since rich would narrow all columns alike."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    numbers = ("STEP", "left"), ("µs", "right"), ("%", "right"), ("", "left"), ("WHAT", "left")
    for title, justify in numbers:
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    largest_ns = max(1, *(part.took_ns for part in parts))
    for part in [*parts, Part("sum", "from the image to the program's execve", total_ns)]:
        bar = "" if part.who == "sum" else "━" * round(part.took_ns / largest_ns * _BAR_COLUMNS)
        what = Text(part.what)
        what.truncate(max(width - _OTHER_COLUMNS, len("WHAT")), overflow="ellipsis")
        table.add_row(part.who, f"{part.took_ns / 1e3:.0f}", f"{100 * part.took_ns / total_ns:.1f}", bar, what)
    return table


def print_trace(prepared: Prepared, started: Started) -> None:
    """Write the table to stderr: the container's own output is on stdout."""
    parts = trace_parts(prepared, started)
    total_ns = max(1, sum(part.took_ns for part in parts))
    terminal = console()
    with terminal.capture() as captured:
        terminal.print(_trace_table(fold(parts, total_ns), total_ns, terminal.width))
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()), err=True)
