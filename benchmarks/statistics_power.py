"""What the statistics promise, held against simulated hosts: coverage, false alarms, and how soon a step is found.

    .venv/bin/python -m benchmarks.statistics_power [--repeats 1000] [--histories 200] [--json]

Times of a trial have skewed noise (sd 8 %, log-normal), 5 % outliers (up to +100 %) and a host that drifts slowly
(sd 10 % over a run); `blocks` are randomised complete blocks as runs have them, `one after the other` is AAA...BBB,
which no run of ours is. Coverage is the share of 95 % intervals that hold the true ratio 1.10. Histories have noise of
3 % and 5 % outliers; a step is +10 %.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.analysis.changepoint import MIN_RUNS, tail_step
from harness.analysis.decision import Decision, confirmed
from harness.analysis.gate import Policy, Samples, changes
from harness.analysis.sensitivity import smallest_change
from harness.analysis.statistics import decide, paired_ratio

TRUE_RATIO = 1.10
BLOCKS = (10, 15, 20, 30)
MARGIN = 0.05
LOWER = {"unit": "ns", "better": "lower", "assume": "nothing"}


def drift(source: random.Random, n: int) -> list[float]:
    """A host's state over n moments: a random walk, scaled to 10 % over the run."""
    steps = [source.gauss(0, 1) for _ in range(n)]
    walk, total = [], 0.0
    for step in steps:
        total += step
        walk.append(total)
    scale = math.sqrt(sum(value * value for value in walk) / n) or 1.0
    return [0.10 * value / scale for value in walk]


def noise(source: random.Random) -> float:
    spike = source.uniform(0.1, 0.7) if source.random() < 0.05 else 0.0
    return source.gauss(0, 0.08) + spike


def pairs(source: random.Random, n: int, ratio: float, *, blocks: bool) -> list[float]:
    """Return candidate / control for n pairs, taken in random order inside blocks or one runtime after the other."""
    host = drift(source, 2 * n)
    places = [source.sample((2 * k, 2 * k + 1), 2) if blocks else (k, n + k) for k in range(n)]
    logs = [math.log(ratio) + noise(source) + host[b] - noise(source) - host[a] for a, b in places]
    return [math.exp(value) for value in logs]


def coverage(n: int, repeats: int, *, blocks: bool) -> dict[str, Any]:
    source, held, widths = random.Random(f"coverage {n} {blocks}"), 0, []
    for _ in range(repeats):
        found = paired_ratio(pairs(source, n, TRUE_RATIO, blocks=blocks))
        assert found.lo is not None
        assert found.hi is not None
        held += found.lo <= TRUE_RATIO <= found.hi
        widths.append((found.hi - found.lo) / found.value)
    order = "blocks" if blocks else "one after the other"
    width = sorted(widths)[len(widths) // 2]
    return {"order": order, "blocks": n, "coverage_ratio": held / repeats, "median_width_ratio": width}


def gate_alarms(n: int, repeats: int, ratio: float) -> dict[str, Any]:
    """Return how often a gate on 4 comparisons is red, one of which has `ratio`, the others 1."""
    source, red = random.Random(f"gate {n} {ratio}"), 0
    for _ in range(repeats):
        samples = []
        for place in range(4):
            values = pairs(source, n, ratio if place == 0 else 1.0, blocks=True)
            samples.append(Samples("startup.ready", f"r{place}", [1.0] * n, values, paired=True))
        found = changes({"startup.ready": LOWER}, samples, Policy(("startup.*",), MARGIN))
        red += any(change.verdict == "regressed" for change in found)
    return {"blocks": n, "true_ratio": ratio, "red_ratio": red / repeats}


def confirmed_gate(n: int, repeats: int, ratio: float) -> dict[str, Any]:
    """Return how often one guarded comparison is red: in a first batch, and after a second of as many blocks."""
    source, first, both = random.Random(f"confirm {n} {ratio}"), 0, 0
    for _ in range(repeats):
        decision, fresh = (_decision(source, n, ratio) for _ in range(2))
        first += decision.outcome == "regressed"
        both += confirmed(decision, fresh).outcome == "regressed"
    return {"blocks": n, "true_ratio": ratio, "red_ratio": first / repeats, "confirmed_ratio": both / repeats}


def _decision(source: random.Random, n: int, ratio: float) -> Decision:
    values = pairs(source, n, ratio, blocks=True)
    samples = [Samples("startup.ready", "r", [1.0] * n, values, paired=True)]
    policy = Policy(("startup.*",), MARGIN)
    return Decision("revisions", "base", "now", policy, changes({"startup.ready": LOWER}, samples, policy))


def detectable(n: int, repeats: int) -> dict[str, Any]:
    """Return how often the smallest change that `doctor --aa` names is found: 8 of 10 times, as it says."""
    source, red, named = random.Random(f"detectable {n}"), 0, []
    for _ in range(repeats):
        smallest = smallest_change(paired_ratio(pairs(source, n, 1.0, blocks=True)), n, MARGIN)
        assert smallest is not None
        named.append(smallest)
        red += _decision(source, n, 1 + smallest).outcome == "regressed"
    return {"blocks": n, "named_median_ratio": sorted(named)[len(named) // 2], "found_ratio": red / repeats}


def stopping(ratio: float, repeats: int) -> dict[str, Any]:
    """Return when the three-way stop ends, and how often its interval holds the truth."""
    source, used, held = random.Random(f"stop {ratio}"), [], 0
    for _ in range(repeats):
        values = pairs(source, 30, ratio, blocks=True)
        n = next((n for n in range(10, 31, 5) if decide(values[:n], MARGIN, 0.05) != "more"), 30)
        found = paired_ratio(values[:n])
        used.append(n)
        held += (found.lo or 0) <= ratio <= (found.hi or math.inf)
    return {"true_ratio": ratio, "mean_blocks": sum(used) / repeats, "coverage_ratio": held / repeats}


def history(source: random.Random, n: int, step_at: int | None) -> list[float]:
    values = []
    for place in range(n):
        spike = source.uniform(0.1, 0.3) if source.random() < 0.05 else 0.0
        level = math.log(TRUE_RATIO) if step_at is not None and place >= step_at else 0.0
        values.append(level + spike + source.gauss(0, 0.03))
    return values


def alarms(histories: int) -> dict[str, Any]:
    """Return in how many histories that change nothing any of 26 pushes raises an alarm."""
    source, wrong = random.Random("quiet"), 0
    for number in range(histories):
        values = history(source, MIN_RUNS + 26, None)
        pushes = range(MIN_RUNS, MIN_RUNS + 26)
        wrong += any(tail_step(values[: n + 1], f"{number}:{n}", math.log1p(MARGIN)) for n in pushes)
    return {"pushes": 26, "false_alarm_ratio": wrong / histories}


def detection(after: int, histories: int) -> dict[str, Any]:
    """Return how often a step is found by `after` runs, any of which may raise the alarm, after 35 quiet ones."""
    source, found, near = random.Random(f"step {after}"), 0, 0
    for number in range(histories):
        values = history(source, 35 + after, 35)
        steps = [tail_step(values[: 35 + n], f"{number}:{n}", math.log1p(MARGIN)) for n in range(3, after + 1)]
        there = [step for step in steps if step is not None]
        found += bool(there)
        near += bool(there) and abs(there[0].index - 35) <= 1
    return {"runs_after": after, "found_ratio": found / histories, "located_ratio": near / max(1, found)}


def table(title: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"\n{title}"
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="simulated runs for each row")
    parser.add_argument("--histories", type=int, default=200, help="simulated histories for each row")
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args()
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "coverage of 95 % intervals, true ratio 1.10": lambda: [
            coverage(n, given.repeats, blocks=blocks) for blocks in (True, False) for n in BLOCKS
        ],
        "gate on 4 comparisons, margin 5 %": lambda: [
            gate_alarms(n, given.repeats, ratio) for ratio in (1.0, 1.15, 1.25) for n in (10, 20, 30)
        ],
        "gate on one comparison, before and after confirmation, margin 5 %": lambda: [
            confirmed_gate(n, given.repeats, ratio) for ratio in (1.0, 1.05, 1.15, 1.25) for n in (20, 30)
        ],
        "doctor --aa: the change that it names, margin 5 %": lambda: [detectable(n, given.repeats) for n in BLOCKS],
        "adaptive stop, 10 to 30 blocks": lambda: [stopping(ratio, given.repeats) for ratio in (1.0, 1.10, 1.5)],
        "history gate, nothing changed": lambda: [alarms(given.histories)],
        "history gate, a step of +10 %": lambda: [detection(after, given.histories) for after in (3, 5, 6, 8)],
    }
    found = {title: make() for title, make in parts.items()}
    if given.as_json:
        print(json.dumps({"schema": "harness.benchmark/1", "tables": found}, indent=2))
        return
    for title, rows in found.items():
        print("\n".join(table(title, rows)))


if __name__ == "__main__":
    main()
