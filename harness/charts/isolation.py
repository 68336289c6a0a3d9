"""How exposed the host is to each runtime, part by part, as one small heat map: what the headline number is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from harness.analysis.exposure import PARTS, Exposure
from harness.charts import style
from harness.errors import UsageError

_HIGH, _NONE = style.COLOURS[1], "#eeeeee"


def exposure(found: Sequence[Exposure], names: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """Draw one column a runtime and one row a part: the darker, the closer to the bare root process (100 %).

    Raises: UsageError where nothing was measured.
    """
    rows = [part.name for part in PARTS if any(part.name in one.parts for one in found)]
    if not rows:
        raise UsageError(
            "exposure: no part of it was measured in this run", hint="metrics: [isolation, surface, boundary]"
        )
    with style.look():
        axes = ax
        if axes is None:
            axes = style.new_figure(2.3 + 0.95 * len(found), 1.5 + 0.32 * len(rows)).add_subplot()
        for column, one in enumerate(found):
            for row, name in enumerate(rows):
                _cell(axes, row, column, one.parts.get(name))
        scores = ["-" if one.score is None else f"{one.score:.1f}" for one in found]
        heads = [f"{names.get(one.runtime, one.runtime)}\n{score}" for one, score in zip(found, scores, strict=True)]
        axes.set_xlim(-0.5, len(found) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(found)), heads)
        axes.set_yticks(range(len(rows)), rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("share of what the bare root process reaches of the host; below the name: 0 to 10", fontsize=8)
    return axes


def _cell(axes: Axes, row: int, column: int, share: float | None) -> None:
    if share is None:
        axes.text(column, row, "-", ha="center", va="center", color="#888888", fontsize=9)
        return
    axes.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, color=_NONE, linewidth=0))
    axes.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, color=_HIGH, alpha=0.75 * share, linewidth=0))
    axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=9, color="#222222")


def in_words(found: Sequence[Exposure]) -> str:
    """Return the picture in words."""
    return "; ".join(f"{one.runtime}: {one.weakest} is most exposed" for one in found if one.weakest)
