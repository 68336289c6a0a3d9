"""What a host gives up for each further instance: the readings of a `density:` run, and the lines through them.

A trial of such a run starts instances of one runtime, one after the other, up to each number in `density.counts`, and
at each number it reads what all of them take together. `rows` gives these readings in a tidy form, for frames, tables
and charts, one row a reading:

    runtime block warmup status accelerator n metric value unit
    vm      1     False  ok     tcg         4 density.pss 512000000 bytes

All memory is counted from what there was before the first instance. The metrics of the readings are LEVEL_METRICS.
`slope` is the line through one trial's readings. One trial is one observation: the interval of a slope is that of the
median over trials, like any other metric's (`memory.marginal`, `cpu.marginal`), and needs six blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from harness.analysis.statistics import Estimate, median, median_estimate
from harness.model.metrics import Better, Metric, Unit
from harness.model.records import Level, MetricValue, TrialRecord


def _level(name: str, unit: Unit, doc: str) -> Metric:
    return Metric(f"density.{name}", unit, Better.LOWER, doc)


OWN = _level("own", Unit.BYTES, "anonymous, tmpfs and kernel memory of their cgroups: what goes when they go")
HOST = _level("host", Unit.BYTES, "memory that the host has less than before the first one, page cache not counted")
CACHE = _level("cache", Unit.BYTES, "page cache that the host has more than before the first one (it can be reclaimed)")
PSS = _level("pss", Unit.BYTES, "proportional set size of all their host processes together")
USS = _level("uss", Unit.BYTES, "pages that one of these processes maps alone, summed")
CGROUP = _level("cgroup", Unit.BYTES, "what is charged to their cgroups together")
MERGED = _level("merged", Unit.BYTES, "memory that KSM saves on the whole host, more than before the first one")
CPU = _level("cpu", Unit.RATIO, "CPU time of all their host processes in a second of waiting: 1 is one core")
HOST_CPU = _level("cpu.host", Unit.RATIO, "CPU time of the whole host in the same second, whoever took it")
READY = _level("ready", Unit.NS, "from `requested` to `ready` of the last one, the others being idle")
UNEXPLAINED = _level("unexplained", Unit.BYTES, "density.host less density.own: what their cgroups do not explain")
"""Not recorded: it follows from two readings (`steps`)."""
LEVEL_METRICS = (OWN, HOST, CACHE, PSS, USS, CGROUP, MERGED, CPU, HOST_CPU, READY)


def _slope(name: str, unit: Unit, of: Metric, doc: str) -> Metric:
    return Metric(name, unit, Better.LOWER, f"{doc}: slope of {of.name} over the numbers of instances in one trial")


MARGINAL = _slope("memory.marginal", Unit.BYTES, OWN, "memory of the host that goes to one more instance")
CPU_MARGINAL = _slope("cpu.marginal", Unit.RATIO, CPU, "CPU time of one more idle instance, 1 is one core")
SLOPES: Mapping[Metric, Metric] = {
    MARGINAL: OWN,
    _slope("memory.marginal.host", Unit.BYTES, HOST, "memory that the whole host has less, others' changes too"): HOST,
    _slope("memory.marginal.pss", Unit.BYTES, PSS, "the same by its processes"): PSS,
    _slope("memory.marginal.uss", Unit.BYTES, USS, "the same, what no other process maps"): USS,
    _slope("memory.marginal.cgroup", Unit.BYTES, CGROUP, "the same by its cgroup"): CGROUP,
    _slope("memory.marginal.cache", Unit.BYTES, CACHE, "page cache for one more instance"): CACHE,
    CPU_MARGINAL: CPU,
    _slope("cpu.marginal.host", Unit.RATIO, HOST_CPU, "the same of the whole host, kernel threads too"): HOST_CPU,
}
"""What one trial says, by the reading that it is the slope of; the headline first."""
INSTANCES = Metric("density.instances", Unit.COUNT, Better.HIGHER, "how many ran at once when the trial ended")
PLANNED = "all that were planned"
"""What a trial was `stopped by` (a label of `density.instances`) that got to its last number."""
TRIAL_METRICS = (*SLOPES, INSTANCES)


@dataclass(frozen=True, slots=True)
class Line:
    """A line through readings at different n: `slope` in the metric's unit an instance, `start` its value at n = 0."""

    slope: float
    start: float

    def at(self, n: float) -> float:
        return self.start + self.slope * n


def line(points: Sequence[tuple[float, float]]) -> Line | None:
    """Return the Theil-Sen line through (n, value): the median of the slopes of all pairs; None below two n.

    One reading that a neighbour on the host disturbed does not move it, as it would least squares.
    Source: Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968).
    """
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x1 != x2]
    if not slopes:
        return None
    slope = median(slopes)
    return Line(slope, median([y - slope * x for x, y in points]))


def points(levels: Sequence[Level], metric: str) -> list[tuple[float, float]]:
    """Return (n, value) of one metric of a trial, by rising n; those at which it was not measured are left out."""
    return [(level.n, level.metrics[metric].value) for level in levels if metric in level.metrics]


def rows(records: Sequence[TrialRecord]) -> Iterator[dict[str, Any]]:
    """Return every reading of a run, in the order in which they were made; see the head of this file."""
    for record in records:
        common = {
            "runtime": record.spec.runtime,
            "block": record.spec.block,
            "warmup": record.spec.warmup,
            "status": record.status,
            "accelerator": record.accelerator,
        }
        for level in record.levels:
            for name, reading in level.metrics.items():
                yield {**common, "n": level.n, "metric": name, "value": reading.value, "unit": reading.unit}


def _reading(level: Level, metric: str) -> MetricValue | None:
    """Return what was read, or what two readings leave unexplained; None where it was not measured."""
    if metric != UNEXPLAINED.name:
        return level.metrics.get(metric)
    host, own = level.metrics.get(HOST.name), level.metrics.get(OWN.name)
    return None if host is None or own is None else MetricValue(host.value - own.value, host.unit)


@dataclass(frozen=True, slots=True)
class Step:
    """One metric of one runtime at one number of instances, over the counted trials that came so far."""

    runtime: str
    n: int
    metric: str
    unit: str
    estimate: Estimate


def steps(records: Sequence[TrialRecord], metric: str) -> list[Step]:
    """Return median and interval of one metric by runtime and n; trials that failed, and warm-up, do not count."""
    values: dict[tuple[str, int], list[float]] = {}
    unit = ""
    for record in records:
        if record.status != "ok" or record.spec.warmup:
            continue
        for level in record.levels:
            reading = _reading(level, metric)
            if reading is not None:
                values.setdefault((record.spec.runtime, level.n), []).append(reading.value)
                unit = reading.unit
    return [Step(runtime, n, metric, unit, median_estimate(found)) for (runtime, n), found in values.items()]
