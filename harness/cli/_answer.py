"""What `harness run` writes to stdout: a table, or with --json exactly one document, whatever happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import click

from harness import plugins
from harness.cli._output import print_json, problem_json
from harness.errors import HarnessError, RunFailed, ScenarioError
from harness.model.report import Report, Series
from harness.report.terminal import TerminalRenderer

ERROR_SCHEMA = "harness.error/1"
EXIT_BUG = 70


def error_json(error: Exception) -> dict[str, Any]:
    """Return an error as a document; one that is not ours is a bug."""
    ours = isinstance(error, HarnessError)
    return {
        "schema": ERROR_SCHEMA,
        "exit_code": error.exit_code if isinstance(error, HarnessError) else EXIT_BUG,
        "kind": type(error).__name__,
        "message": str(error) if ours else f"{type(error).__name__}: {error}",
        "hint": error.hint if isinstance(error, HarnessError) else None,
        "problems": [problem_json(p) for p in error.problems] if isinstance(error, ScenarioError) else [],
    }


class Answer:
    """A context: with `as_json`, an error that leaves it is written as a document unless a report was.

    Not `shown`: stdout is somebody else's, and the report stays in the run's directory.
    """

    def __init__(self, *, as_json: bool, shown: bool = True) -> None:
        self.as_json = as_json
        self._shown = shown
        self._given = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        if not self.as_json or self._given or not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
            return
        print_json(error_json(error))

    def report(self, report: Report, again: str, gated: Sequence[str]) -> None:
        """Print the report, with full rows for `gated` metrics; `again` is the command that prints it once more.

        Raises: RunFailed where stdout is full.
        """
        if not self._shown:
            return
        renderer = plugins.load("report", "json") if self.as_json else TerminalRenderer(gated=tuple(gated))
        self._write(renderer.render(report), again)

    def series(self, series: Series, again: str, gated: Sequence[str]) -> None:
        """Print the table of a matrix; all else as for `report`."""
        from harness.report import _series  # noqa: PLC0415  (most runs have no matrix)

        text = _series.as_json(series) if self.as_json else TerminalRenderer(gated=tuple(gated)).render_series(series)
        self._write(text, again)

    def _write(self, text: str, again: str) -> None:
        self._given = True
        try:
            click.echo(text, nl=False)
        except BrokenPipeError:
            raise
        except OSError as error:
            # The interpreter flushes stdout once more at its end: give it somewhere to write.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise RunFailed(f"stdout: cannot be written: {error.strerror}", hint=again) from error
