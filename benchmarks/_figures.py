"""From the samples of a start benchmark to its tables: medians, deciles, ratios with their intervals, verdicts."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks._same import Sample

COLUMNS = {"prepare": "prepared_ns", "execve": "execed_ns", "exit": "exited_ns", "deleted": "deleted_ns"}
TARGETS = {"crun": 0.35, "runc": 0.20, "docker": 0.03}
"""At most so much of the other's median may the built-in runtime take."""
RESIDENT_TOLERANCE = 0.20
_RESAMPLES = 1000
_CONFIDENCE = 0.95

Samples = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One row's median over another's, with its bootstrap interval over blocks (percentiles, 95 %)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}-{self.high:.3f}]"


def column(samples: Sequence[Sample], name: str) -> list[int]:
    return [getattr(sample, COLUMNS[name]) for sample in samples]


def ratio(ours: Sequence[int], theirs: Sequence[int]) -> Ratio:
    """Return the ratio of medians; the same blocks are drawn for both, since what disturbs one disturbs the other."""
    chance = random.Random(0)
    blocks = range(len(ours))
    found = []
    for _ in range(_RESAMPLES):
        chosen = chance.choices(blocks, k=len(blocks))
        found.append(statistics.median(ours[i] for i in chosen) / statistics.median(theirs[i] for i in chosen))
    found.sort()
    edge = round(_RESAMPLES * (1 - _CONFIDENCE) / 2)
    return Ratio(statistics.median(ours) / statistics.median(theirs), found[edge], found[-1 - edge])


def table(samples: Samples) -> str:
    """Return medians with p10 and p90, in ms since the request."""
    lines = [f"{'ms since the request':22}" + "".join(f"{name:>22}" for name in COLUMNS)]
    for name, row in samples.items():
        lines.append(f"{name:22}" + "".join(f"{_cell(column(row, kind)):>22}" for kind in COLUMNS))
    return "\n".join(lines)


def _cell(values_ns: Sequence[int]) -> str:
    if not any(values_ns):
        return "-"
    deciles = statistics.quantiles(values_ns, n=10, method="inclusive")
    median, low, high = (value / 1e6 for value in (statistics.median(values_ns), deciles[0], deciles[-1]))
    return f"{median:.2f} ({low:.1f}-{high:.1f})"


def ratios(samples: Samples, ours: str = "builtin") -> list[dict[str, object]]:
    """Return the ratio of our row to each other one, until the execve and until all is deleted, with the verdict.

    A target is met when both medians are; where the interval has the target in it, that is said.
    """
    found: list[dict[str, object]] = []
    for name in samples:
        if name == ours:
            continue
        pairs = {
            kind: ratio(column(samples[ours], kind), column(samples[name], kind)) for kind in ("execve", "deleted")
        }
        found.append({"to": name, **pairs, "target": TARGETS.get(name), "verdict": _verdict(name, pairs)})
    return found


def _verdict(name: str, pairs: Mapping[str, Ratio]) -> str:
    target = TARGETS.get(name)
    if target is None:
        return ""
    word = "met" if all(pair.value <= target for pair in pairs.values()) else "missed"
    close = any(pair.low <= target <= pair.high for pair in pairs.values())
    return f"{word} (target {target:.2f}{', within the interval' if close else ''})"


def ratio_table(samples: Samples) -> str:
    lines = [f"{'builtin over':22}{'to execve':>26}{'to deleted':>26}"]
    for row in ratios(samples):
        lines.append(f"{row['to']:22}{row['execve']!s:>26}{row['deleted']!s:>26}  {row['verdict']}")
    return "\n".join(lines)


def resident_line(small: Samples, large: Samples, gap: str) -> str:
    """Return how the start of a large parent compares to a small one's."""
    words = []
    for name in ("builtin", "floor"):
        if name in small and name in large:
            before, after = (statistics.median(column(each[name], "deleted")) for each in (small, large))
            words.append(f"{name} {after / before:.2f}")
            if name == "builtin":
                words[-1] += " (met)" if after / before <= 1 + RESIDENT_TOLERANCE else " (missed)"
    return f"1 GiB resident over small, gap {gap}: {', '.join(words)}; target: at most {1 + RESIDENT_TOLERANCE:.2f}"


def step_table(steps: Sequence[str], samples: Sequence[Sample]) -> str:
    """Return where the time of a traced start goes: medians of each step, in µs, and those of what is around them."""
    costs: dict[str, list[int]] = {
        "request to the launcher's first step": [],
        **{f"{i:3} {s}": [] for i, s in enumerate(steps)},
    }
    names = list(costs)
    around = ("last step to execve", "execve to exit known", "exit to deleted")
    costs |= {name: [] for name in around}
    for sample in samples:
        before = 0
        for name, at_ns in zip((names[0], *names[2:]), sample.trace_ns, strict=False):
            costs[name].append(at_ns - before)
            before = at_ns
        times = (before, sample.execed_ns, sample.exited_ns, sample.deleted_ns)
        for name, start, end in zip(around, times, times[1:], strict=False):
            costs[name].append(end - start)
    lines = [
        f"{statistics.median(ns) / 1e3:9.1f} us (p90 {_p90(ns):7.1f})  {name:.100}" for name, ns in costs.items() if ns
    ]
    return "\n".join(lines)


def _p90(values_ns: Sequence[int]) -> float:
    return statistics.quantiles(values_ns, n=10, method="inclusive")[-1] / 1e3
