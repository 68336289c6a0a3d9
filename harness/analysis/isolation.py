"""How exposed the host is to each runtime: three headlines, the parts, and, only beside them, one number. Pure.

Two questions that are never averaged into one answer: what of the host's kernel the workload can call by itself, and
what it could call once it had taken over the process that stands in between. A value that acts on a kernel of the
guest's own is no exposure of the host.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.model.report import Report

PREFIX = "isolation."
OWN_KERNEL = "own kernel"
NAMESPACES = 8
VERSION = 1
"""Of the set of parts and weights: scores of different versions are not compared, nor those of different hosts."""
DRAWS = 1000
COVERAGE_MIN = 0.8
SHARED = "isolation.kernel.shared"
REACHABLE = "isolation.syscalls.reachable"
HIGH_RISK = "isolation.syscalls.high_risk"
OPERATIONS = "isolation.privileged_ops"
CAPABILITIES = "isolation.capabilities.effective"
OWN_NAMESPACES = "isolation.namespaces.own"
ALLOWED = "isolation.boundary.syscalls.allowed"
USED = "isolation.boundary.syscalls.used"


@dataclass(frozen=True, slots=True)
class Side:
    """One runtime: its values by metric, what explains them, and whether it has a kernel of its own (None: unknown)."""

    runtime: str
    values: Mapping[str, float]
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def own_kernel(self) -> bool | None:
        shared = self.values.get(SHARED)
        return None if shared is None else not shared

    def on_host(self, metric: str) -> float | None:
        """Return a value that says something about the host, None where there is none or it acts on another kernel."""
        if self.labels.get(metric, {}).get("acts_on") == OWN_KERNEL:
            return None
        return self.values.get(metric)

    def of(self, metric: str) -> str:
        """Return a count with what it is out of: `300 of 362`."""
        value, whole = self.values.get(metric), self.labels.get(metric, {}).get("of")
        if value is None:
            return "unknown"
        return f"{value:g} of {whole}" if whole else f"{value:g}"


def sides(report: Report) -> tuple[Side, ...]:
    """Return every runtime of a run that has anything on isolation."""
    found = []
    for runtime in report.run.runtimes:
        cells = [c for c in report.cells if c.runtime == runtime and c.metric.startswith(PREFIX)]
        values = {cell.metric: cell.median for cell in cells if cell.median is not None}
        if values:
            found.append(Side(runtime, values, {cell.metric: cell.labels for cell in cells}))
    return tuple(found)


def boundaries(report: Report) -> dict[str, str]:
    """Return what stands between each runtime's workload and the host: process, container or vm."""
    return {name: str(report.run.arms.get(name, {}).get("boundary", "")) for name in report.run.runtimes}


def exposures(report: Report) -> list[Exposure]:
    """Return the composite of every runtime with its parts; empty where the run has no bare process to compare with."""
    found = sides(report)
    bare = bare_of(found, boundaries(report))
    return [] if bare is None or OPERATIONS not in bare.values else [exposure(side, bare) for side in found]


# -- headlines -----------------------------------------------------------------------------------------------------


def exposure_line(side: Side) -> str:
    """Return in one sentence what of the host is within reach, directly and behind the process in between."""
    if side.own_kernel is None:
        return f"{side.runtime}: whose kernel it runs on is not known, so nothing of this can be judged"
    if side.own_kernel:
        return f"{side.runtime}: own kernel, none of the host's within direct reach; {_monitor(side)}"
    parts = ["the host's kernel"]
    for metric, words in (
        (REACHABLE, "system calls ({high} of high risk)"),
        (OPERATIONS, "privileged operations"),
    ):
        if metric in side.values:
            parts.append(f"{side.of(metric)} {words.format(high=side.values.get(HIGH_RISK, math.nan))}")
    for metric, words in (
        (CAPABILITIES, "capabilities"),
        (OWN_NAMESPACES, f"of {NAMESPACES} namespaces own"),
    ):
        if metric in side.values:
            parts.append(f"{side.values[metric]:g} {words}")
    return f"{side.runtime}: {', '.join(parts)}{_holes(side)}".replace("(nan of high risk) ", "")


def _monitor(side: Side) -> str:
    if ALLOWED not in side.values:
        return "what its machine monitor may call was not measured"
    used = f" and makes {side.values[USED]:g}" if USED in side.values else ""
    return f"its machine monitor may call {side.of(ALLOWED)} of the host's system calls{used}"


_HOLES = {
    "isolation.engine_sockets": "an engine's socket within reach",
    "isolation.host_processes.visible": "sees the host's processes",
    "isolation.mounts.host_writable": "host files writable",
    "isolation.writable.sysctls": "sysctls writable",
}


def _holes(side: Side) -> str:
    found = []
    for metric, words in _HOLES.items():
        if side.on_host(metric):
            names = side.labels.get(metric, {}).get("names", "")
            found.append(f"{words}: {names.split()[0]}" if names else words)
    return f"; {', '.join(found)}" if found else ""


# -- one number ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the composite. `whole`: its value where nothing is isolated; None: that of the bare process.

    `inverse`: more of it isolates more, out of `whole`. `vm_only`: counts where there is a machine monitor.
    """

    name: str
    metric: str
    weight: float
    whole: float | None = None
    inverse: bool = False
    vm_only: bool = False


PARTS = (
    Part("system calls", REACHABLE, 3),
    Part("privileged operations", OPERATIONS, 2),
    Part("capabilities", CAPABILITIES, 2),
    Part("writable sysctls", "isolation.writable.sysctls", 2),
    Part("host counters seen", "isolation.host_counter_bracketing", 1),
    Part("devices opened", "isolation.devices.opened", 1),
    Part("namespaces shared", OWN_NAMESPACES, 1, whole=NAMESPACES, inverse=True),
    Part("host's root", "isolation.host_root", 1, whole=1),
    Part("no security label", "isolation.lsm", 1, whole=1, inverse=True),
    Part("machine monitor's calls", ALLOWED, 2, vm_only=True),
)


@dataclass(frozen=True, slots=True)
class Exposure:
    """0.0 (tight) to 10.0 (the bare root process of the same run). Never to be shown without `parts`.

    `parts` are shares from 0 to 1 by name; `coverage` is the weight that was measured, of all; `weakest` the part that
    is most exposed. `score` is None where too little was measured.
    """

    runtime: str
    score: float | None
    parts: Mapping[str, float]
    coverage: float
    weakest: str


def shares(side: Side, bare: Side) -> dict[Part, float]:
    """Return how exposed a runtime is by each part that was measured: 0 none, 1 as the bare process."""
    found = {}
    for part in PARTS:
        if part.vm_only and not side.own_kernel:
            continue
        own = side.labels.get(part.metric, {}).get("acts_on") == OWN_KERNEL
        if own or (side.own_kernel and part.metric == OWN_NAMESPACES):
            found[part] = 0.0  # it acts on the guest's kernel: none of the host's is exposed by it
            continue
        value, base = side.values.get(part.metric), part.whole or bare.values.get(part.metric)
        if part.vm_only:
            base = bare.values.get(REACHABLE)
        if value is None or not base:
            continue
        share = 1 - value / base if part.inverse else value / base
        found[part] = min(1.0, max(0.0, share))
    return found


def _score(found: Mapping[Part, float], weights: Mapping[Part, float]) -> float:
    total = sum(weights[part] for part in found)
    return 10 * sum(weights[part] * share for part, share in found.items()) / total if total else math.nan


def exposure(side: Side, bare: Side) -> Exposure:
    """Return the composite of one runtime against the bare process of the same run."""
    weights = {part: part.weight for part in PARTS}
    found = shares(side, bare)
    due = sum(part.weight for part in PARTS if not part.vm_only or side.own_kernel)
    coverage = sum(part.weight for part in found) / due
    enough = coverage >= COVERAGE_MIN and side.own_kernel is not None
    weakest = max(found, key=lambda part: found[part], default=None)
    return Exposure(
        side.runtime,
        round(_score(found, weights), 1) if enough else None,
        {part.name: share for part, share in found.items()},
        coverage,
        "" if weakest is None else f"{weakest.name} ({found[weakest]:.0%})",
    )


def order_held(all_sides: Sequence[Side], bare: Side, seed: int = 1) -> int:
    """Return in how many of DRAWS draws the order by score stays the same, each weight halved to doubled at random."""
    draw = random.Random(seed)
    parts = [shares(side, bare) for side in all_sides]
    order = _order([_score(found, {part: part.weight for part in PARTS}) for found in parts])
    held = 0
    for _ in range(DRAWS):
        weights = {part: part.weight * 2 ** draw.uniform(-1, 1) for part in PARTS}
        held += _order([_score(found, weights) for found in parts]) == order
    return held


def _order(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: (round(scores[place], 6), place))


def bare_of(all_sides: Sequence[Side], boundaries: Mapping[str, str]) -> Side | None:
    """Return the plain process of a run, which calibrates the composite; None where the run has none."""
    return next((side for side in all_sides if boundaries.get(side.runtime) == "process"), None)


def headlines(all_sides: Sequence[Side], boundaries: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is to be read first: a sentence a runtime, then the composite with what belongs to it."""
    lines = [exposure_line(side) for side in all_sides]
    bare = bare_of(all_sides, boundaries)
    if bare is None or len(all_sides) < 2 or OPERATIONS not in bare.values:
        return tuple(lines)
    found = [exposure(side, bare) for side in all_sides]
    scores = ", ".join(f"{one.runtime} {_score_text(one)}" for one in found)
    held = order_held(all_sides, bare)
    lines.append(
        f"exposure, 0 to 10 (bare root process): {scores}; this order holds in {held} of {DRAWS} draws of weights"
    )
    lines += [
        f"of {one.runtime}: weakest {one.weakest}; {parts_text(one)}" for one in found if one.runtime != bare.runtime
    ]
    return tuple(lines)


def _score_text(one: Exposure) -> str:
    return f"insufficient ({one.coverage:.0%} measured)" if one.score is None else f"{one.score:.1f}"


def parts_text(one: Exposure) -> str:
    """Return the parts of a composite, and how much of it was measured."""
    parts = ", ".join(f"{name} {share:.0%}" for name, share in one.parts.items() if round(share, 2))
    return f"{parts or 'nothing'}; the rest 0; {one.coverage:.0%} of the weight measured"


# -- disturbed and broken ------------------------------------------------------------------------------------------

_KEPT = (("cpu", "CPU"), ("memory", "memory"), ("fork", "fork"))


def interference_line(report: Report, runtime: str) -> str:
    """Return what a runtime keeps of its work beside a noisy one; a loss within that of its A/A control is none."""
    parts = []
    for kind, word in _KEPT:
        kept = report.cell(f"interference.{kind}.kept", runtime)
        same = report.cell(f"interference.{kind}.aa", runtime)
        if kept is None or kept.median is None:
            parts.append(f"{word} not measured")
            continue
        low = same.minimum if same and same.minimum is not None else 1.0
        high = same.maximum if same and same.maximum is not None else 1.0
        floor = max(1 - low, high - 1, 0.0)
        within = abs(1 - kept.median) <= floor
        told = "no difference shown" if within else f"keeps {kept.median:.0%}"
        parts.append(f"{word} {told} (A/A within {floor:.0%})")
    return f"{runtime} beside a noisy one: {', '.join(parts)}"


def containment_line(report: Report, runtime: str) -> str:
    """Return how many faults stayed where they were made, and which did not."""
    held = report.cell("containment.held", runtime)
    if held is None or held.minimum is None:
        return f"{runtime}: containment not measured"
    faults = [cell for cell in report.cells if cell.runtime == runtime and cell.metric.count(".") == 1]
    names = [cell for cell in faults if cell.exact and cell.metric.startswith("containment.") and cell is not held]
    broke = [cell.metric.partition(".")[2] for cell in names if cell.minimum == 0]
    untried = [cell.metric.partition(".")[2] for cell in names if not cell.n]
    text = f"{runtime}: {held.minimum:g} of {held.labels.get('of', '?')} faults contained"
    text += f", not: {', '.join(broke)}" if broke else ""
    return f"{text}; never tried: {', '.join(untried)} (shared kernel)" if untried else text


def study_lines(report: Report) -> tuple[str, ...]:
    """Return the headlines of a run of one of the two studies; empty for any other."""
    lines = {"interference": interference_line, "containment": containment_line}
    line = lines.get(str(report.run.study.get("kind"))) if report.run.study else None
    return tuple(line(report, runtime) for runtime in report.run.runtimes) if line else ()
