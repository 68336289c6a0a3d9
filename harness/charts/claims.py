"""The claims of the text as a picture for a slide: both sides, the effect with its interval, the verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.evidence import times
from harness.charts import style
from harness.model.report import Claim, Contrast

_WIDTH_INCHES, _HEIGHT_INCHES = 13.33, 7.5  # 16:9, as slides are
_PITCH = {"name": 0.015, "vm": 0.16, "container": 0.385, "effect": 0.595, "verdict": 0.845}
_WORDS = {"holds": "✓ holds here", "fails": "✗ does not hold here", "not shown": "? undecided"}
_COLOURS = {"holds": "#00664a", "fails": "#a83c00", "not shown": "#666666"}
_CLAIMED = "#5a5a5a"


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Letters in points and the height of a row in inches, as they fit the number of rows."""

    name: float
    text: float
    small: float
    row_inches: float
    top_inches: float

    @classmethod
    def of(cls, rows: int) -> _Sizes:
        top = 1.25
        row = min(1.05, (_HEIGHT_INCHES - top - 0.62) / max(1, rows))
        scale = min(1.0, 0.55 + row / 2)
        return cls(15 * scale, 14 * scale, 10.5 * scale, row, top)


def claims_picture(claims: Sequence[Claim], *, title: str, caption: str, vm_label: str = "") -> Figure:
    """Return a slide (16:9) of these rows. `vm_label`: what VMs ran on; `caption` names runs and machine."""
    with style.look():
        figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(_HEIGHT_INCHES, 0)  # inches from the top, so that a line of text is a number
        sizes = _Sizes.of(len(claims))
        axes.text(_PITCH["name"], 0.5, title, fontsize=21, fontweight="bold", va="center")
        _head(axes, sizes, f"virtual machine ({vm_label})" if vm_label else "virtual machine")
        for place, claim in enumerate(claims):
            _row(axes, claim, sizes, sizes.top_inches + place * sizes.row_inches)
        axes.text(_PITCH["name"], _HEIGHT_INCHES - 0.15, "\n".join(textwrap.wrap(caption, 165)), fontsize=9.5,
                  color=_CLAIMED, va="bottom", linespacing=1.3)  # fmt: skip
    return figure


def _head(axes: Axes, sizes: _Sizes, vm: str) -> None:
    heads = {"vm": vm, "container": "container", "effect": "effect, 95 % interval", "verdict": "verdict"}
    for column, words in heads.items():
        axes.text(_PITCH[column], sizes.top_inches - 0.12, words, fontsize=12, color=_CLAIMED, va="bottom")


def _row(axes: Axes, claim: Claim, sizes: _Sizes, top: float) -> None:
    axes.axhline(top, color=style.GRID, linewidth=1)
    first = top + sizes.row_inches * 0.31
    second = top + sizes.row_inches * 0.72
    middle = (first + second) / 2
    name = _wrapped(claim.feature, 0.14, sizes.name)
    axes.text(_PITCH["name"], middle, name, fontsize=sizes.name, fontweight="bold", va="center")
    _side(axes, sizes, (first, second), "vm", claim.claim_vm, claim.short_vm)
    if claim.claim_vm:
        _side(axes, sizes, (first, second), "container", claim.claim_container, claim.short_container)
    else:  # a statement on containers alone has the width of both columns
        axes.text(_PITCH["vm"], first, f"“{_fit(claim.claim_container, 0.43, sizes.small)}”", fontsize=sizes.small,
                  color=_CLAIMED, va="center", style="italic")  # fmt: skip
        axes.text(_PITCH["container"], second, _fit(claim.short_container, 0.2, sizes.text), fontsize=sizes.text,
                  va="center")  # fmt: skip
    if claim.contrast:
        _effect(axes, claim.contrast, sizes, first, second)
    else:
        axes.text(_PITCH["effect"], first, _no_effect(claim), fontsize=sizes.small, color=_CLAIMED, va="center")
    axes.text(_PITCH["verdict"], middle, _wrapped(_WORDS[claim.verdict], 0.15, sizes.name), fontsize=sizes.name,
              fontweight="bold", color=_COLOURS[claim.verdict], va="center")  # fmt: skip


def _side(axes: Axes, sizes: _Sizes, lines: tuple[float, float], column: str, claimed: str, measured: str) -> None:
    if claimed:
        axes.text(_PITCH[column], lines[0], f"“{_fit(claimed, 0.22, sizes.small)}”", fontsize=sizes.small,
                  color=_CLAIMED, va="center", style="italic")  # fmt: skip
    axes.text(_PITCH[column], lines[1], _fit(measured, 0.2, sizes.text), fontsize=sizes.text, va="center")


def _effect(axes: Axes, contrast: Contrast, sizes: _Sizes, first: float, second: float) -> None:
    axes.text(_PITCH["effect"], first, times(contrast), fontsize=sizes.text, va="center")
    axes.text(_PITCH["effect"], second, _fit(contrast.of, 0.245, sizes.small * 0.9), fontsize=sizes.small * 0.9,
              color=_CLAIMED, va="center")  # fmt: skip


def _no_effect(claim: Claim) -> str:
    if claim.verdict == "not shown":
        return "not measured here" if not claim.short_container else "too few blocks"
    return "by properties, exact" if claim.claim_vm else "shown by doing it"


def _letters(share: float, points: float) -> int:
    """Return how many letters fit into a share of the picture's width: one of DejaVu Sans is about 0.55 em wide."""
    return int(share * _WIDTH_INCHES * 72 / (0.55 * points))


def _fit(text: str, share: float, points: float) -> str:
    letters = _letters(share, points)
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def _wrapped(text: str, share: float, points: float) -> str:
    """Return bold text, which is wider, in as many lines as it needs."""
    return "\n".join(textwrap.wrap(text, int(_letters(share, points) / 1.25), break_long_words=False))


def describe(claims: Sequence[Claim]) -> str:
    """Return the picture in words."""
    return "; ".join(f"{claim.feature}: {_WORDS[claim.verdict][2:]}" for claim in claims)
