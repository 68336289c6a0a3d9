"""What the command line writes: results to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import HarnessError, Problem, ScenarioError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from harness.interfaces import Capability

CI_WIDTH_COLUMNS = 100


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout; it carries its `schema`."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    click.echo(f"note: {message}", err=True)


def console() -> Console:
    """Return a terminal for tables on stdout: no bars and no control codes outside a TTY or in CI."""
    from rich.console import Console  # noqa: PLC0415  (40 ms that `validate` need not pay)

    quiet = bool(os.environ.get("CI")) or not sys.stdout.isatty()
    width = CI_WIDTH_COLUMNS if quiet and "COLUMNS" not in os.environ else shutil.get_terminal_size().columns
    return Console(force_interactive=False if quiet else None, width=width, highlight=False, soft_wrap=False)


def print_table(table: Table) -> None:
    """Write a table to stdout without the blanks that would pad its lines."""
    terminal = console()
    with terminal.capture() as captured:
        terminal.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_error(error: HarnessError) -> None:
    """Write an error to stderr: each mistake of a file with its source line, then the hint."""
    if isinstance(error, ScenarioError):
        for problem in error.problems:
            _print_problem(problem)
        if len(error.problems) > 1:
            click.echo(f"{len(error.problems)} errors", err=True)
    else:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error.message}", err=True)
    if error.hint:
        click.echo(f"{click.style('hint:', bold=True)} {error.hint}", err=True)


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return a problem as JSON data; `line` and `column` are null where it has no place in the file."""
    return {
        "path": problem.path,
        "line": problem.line or None,
        "column": problem.column or None,
        "key": problem.key,
        "code": problem.code,
        "message": problem.message,
    }


def _print_problem(problem: Problem) -> None:
    from harness.model.document import excerpt  # noqa: PLC0415  (only errors need it)

    click.echo(f"{click.style('error:', fg='red', bold=True)} {problem}", err=True)
    source = excerpt(problem, _lines(problem.path))
    if source:
        click.echo(source, err=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        click.echo(annotation(problem), err=True)


def print_need(need: Capability, *, who: str = "", indent: int) -> None:
    """Write one line about something that a backend needs, and what helps where it is missing."""
    margin = " " * indent
    words = ": ".join(filter(None, (who, need.name, need.reason)))
    click.echo(f"{margin}{'ok     ' if need.available else 'MISSING'}  {words}")
    if not need.available and need.hint:
        click.echo(f"{margin}         {need.hint}")


def annotation(problem: Problem) -> str:
    """Return a problem as a GitHub workflow command, which marks the line in a pull request.

    Source: docs.github.com, "Workflow commands for GitHub Actions"; escapes as in actions/toolkit, command.ts.
    """
    message = f"{problem.key}: {problem.message}" if problem.key else problem.message
    for letter, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        message = message.replace(letter, code)
    if not problem.line:
        return f"::error::{message}"
    path = problem.path
    for letter, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C")):
        path = path.replace(letter, code)
    return f"::error file={path},line={problem.line},col={problem.column}::{message}"


def _lines(path: str) -> Sequence[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except (OSError, ValueError):  # an override is no file; a file may have gone since
        return ()
