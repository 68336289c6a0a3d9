"""Where pages come from: the templates of this package. jinja2 is imported when asked for."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(**modules: ModuleType) -> Environment:
    """Return the templates' environment; they may call `modules`. Unknown names are errors, text is escaped."""
    import jinja2  # noqa: PLC0415 - 60 ms

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report", "."), undefined=jinja2.StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.globals.update(modules)
    return made
