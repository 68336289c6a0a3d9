"""A series in text alone: blocks for a terminal, a Mermaid chart where Markdown is shown with pictures."""

from __future__ import annotations

from collections.abc import Sequence

from harness.model.history import Judged

LAST = 20
_BLOCKS = "▁▂▃▄▅▆▇█"


def newest(judged: Judged, last: int = LAST) -> list[float]:
    """Return what is compared of the newest runs, oldest first: ratios to the control, or medians."""
    count = len(judged.series.points)
    return [float(judged.series.compared(place) or 0) for place in range(max(0, count - last), count)]


def sparkline(values: Sequence[float]) -> str:
    """Return one block a value, from the lowest to the highest of them."""
    low, high = min(values), max(values)
    return "".join(_BLOCKS[int((value - low) / (high - low) * 7.999) if high > low else 0] for value in values)


def mermaid(judged: Judged) -> list[str]:
    """Return the newest runs as a chart in a fence, which GitHub and GitLab draw; elsewhere its numbers can be read.

    Source: Mermaid, "XY Chart" (xychart-beta). Pictures cannot be put into a job summary: it shows no `data:` URIs.
    """
    series, values = judged.series, newest(judged)
    what = "ratio to the control" if series.relative else series.unit
    pad = (max(values) - min(values)) * 0.1 or abs(values[0]) * 0.05 or 1.0
    first = len(series.points) - len(values) + 1
    return [
        "```mermaid",
        "xychart-beta",
        f'    title "{series.metric} of {series.runtime}"',
        f'    x-axis "run" {first} --> {len(series.points)}' if len(values) > 1 else f'    x-axis "run" [{first}]',
        f'    y-axis "{what}" {min(values) - pad:.4g} --> {max(values) + pad:.4g}',
        f"    line [{', '.join(f'{value:.4g}' for value in values)}]",
        "```",
    ]
