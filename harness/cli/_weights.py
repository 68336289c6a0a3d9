"""The option that gives parts of the exposure score another weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from harness.analysis.exposure import weighted
from harness.errors import UsageError


def _read(_context: click.Context, _option: click.Parameter, values: Sequence[str]) -> Mapping[str, float]:
    """Return the weights of `PART=NUMBER`, checked. Raises: UsageError."""
    found = {}
    for text in values:
        key, _, number = text.partition("=")
        try:
            found[key] = float(number)
        except ValueError:
            raise UsageError(f"--weight {text}: {number!r}: not a number", hint="--weight system-calls=5") from None
    weighted(found)
    return found


weights_option = click.option(
    "--weight", "weights", multiple=True, metavar="PART=NUMBER", callback=_read,
    help="Another weight for a part of the exposure score: system-calls=5. Repeat it.",
)  # fmt: skip
