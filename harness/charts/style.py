"""How every chart looks, and how it becomes a file: `Figure` objects, no global state, the same bytes every time.

Colours are those of Okabe and Ito, which people with a colour vision deficiency tell apart; shapes repeat what colours
say. Only `harness.charts` imports matplotlib.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from harness.model.units import format_bytes, format_ns

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333", "#999999")
MARKERS = "osD^vPX*"
INK, FAINT, GRID, ALARM = "#333333", "#bbbbbb", "#e6e6e6", "#c1272d"
DPI = 150
_TITLE_LETTERS = 38
_DOTS_DRAWN = 1500
_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.hashsalt": "harness",
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def look() -> Iterator[None]:
    """Draw in the house style inside the block; nothing of matplotlib's settings changes outside."""
    with mpl.rc_context(_RC):
        yield


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Return an empty figure that lays itself out."""
    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def colours(names: Sequence[str]) -> Mapping[str, str]:
    """Return a colour for each name, the same for the same list."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def markers(names: Sequence[str]) -> Mapping[str, str]:
    """Return a marker's shape for each name."""
    return {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(names)}


def unit_formatter(unit: str) -> FuncFormatter:
    """Return the labels of an axis in a unit, as all tables have them: `1.91 s`, `64 MiB`."""
    formats = {"ns": format_ns, "bytes": format_bytes}
    plain = formats.get(unit)
    return FuncFormatter(lambda value, _place: plain(value) if plain else f"{value:g}")


def title(axes: Axes, text: str) -> None:
    """Set the title of axes, in as many lines as it needs beside long names at the left."""
    axes.set_title("\n".join(textwrap.wrap(text, _TITLE_LETTERS, break_on_hyphens=False)))


def legend(axes: Axes, *, below: bool, columns: int = 3, handles: Sequence[Artist] | None = None) -> None:
    """Draw a legend: `below` the axes of a figure of our own, else inside those that somebody gave us."""
    chosen: dict[str, Any] = {"handles": handles} if handles is not None else {}
    if below:
        axes.figure.legend(loc="outside lower center", ncols=columns, fontsize=9, **chosen)
    else:
        axes.legend(loc="best", fontsize=9, frameon=True, framealpha=0.85, **chosen)


def many(dots: int) -> bool:
    """Return whether there are so many dots that a page had better hold a picture of them than each one."""
    return dots > _DOTS_DRAWN


def byte_locator(span_bytes: float) -> MultipleLocator:
    """Return where ticks of a linear axis of bytes are: at multiples of a power of two, about five of them."""
    return MultipleLocator(2.0 ** max(0, round(math.log2(max(1.0, span_bytes) / 5))))


def ratio_formatter() -> FuncFormatter:
    """Return the labels of an axis of ratios: `1.91x`."""
    return FuncFormatter(lambda value, _place: f"{value:.3g}x")


_ON_PAGE = {INK: "currentColor", FAINT: "var(--faint, #bbbbbb)", GRID: "var(--grid, #e6e6e6)",
            "#ffffff": "var(--paper, #ffffff)"}  # fmt: skip


def to_svg(figure: Figure, *, title: str, description: str, on_page: bool = False) -> str:
    """Return a figure as SVG text, named and described for screen readers, without a date.

    `on_page`: for a page with light and dark colours, from which it takes those of text and grid; no background then.
    """
    with look():
        out = io.StringIO()
        figure.savefig(out, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None}, transparent=on_page)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    if on_page:
        text = re.sub(r' width="[\d.]+pt"| height="[\d.]+pt"', "", text, count=2)
        for colour, variable in _ON_PAGE.items():
            text = text.replace(f"fill: {colour}", f"fill: {variable}").replace(
                f"stroke: {colour}", f"stroke: {variable}"
            )
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    head, rest = text.split(">", 1)
    names = f"<title>{_escape(title)}</title><desc>{_escape(description)}</desc>"
    return f'{head} role="img" aria-label="{_escape(title)}">{names}{rest}'


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG, with nothing in it that changes from one time to the next."""
    with look():
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()


def _escape(text: str) -> str:
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(letter, entity)
    return text
