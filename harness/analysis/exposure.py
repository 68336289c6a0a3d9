"""One number for how exposed the host is to a runtime, with its parts: 0.0 is tight, 10.0 the bare root process. Pure.

It may follow its parts, never replace them: beside it stand the weakest part, how much was measured, and whether the
order of the runtimes hangs on the weights.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.isolation import (
    ALLOWED,
    CAPABILITIES,
    NAMESPACES,
    OPERATIONS,
    OWN_KERNEL,
    OWN_NAMESPACES,
    REACHABLE,
    Side,
    boundaries,
    exposure_line,
    sides,
)
from harness.errors import UsageError
from harness.model.report import Report

VERSION = 1
"""Of the set of parts and weights: scores of different versions are not compared, nor those of different hosts."""
DRAWS = 1000
COVERAGE_MIN = 0.8

# -- the parts and their weights -----------------------------------------------------------------------------------


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

    @property
    def key(self) -> str:
        """Its name on a command line: `host-root` for `host's root`."""
        return re.sub(r"[^a-z]+", "-", self.name.replace("'s", ""))


PARTS = (
    Part("system calls", REACHABLE, 3),
    Part("privileged operations", OPERATIONS, 2),
    Part("capabilities", CAPABILITIES, 2),
    Part("writable sysctls", "isolation.writable.sysctls", 2),
    Part("host's root", "isolation.host_root", 1, whole=1),
    Part("host counters seen", "isolation.host_counter_bracketing", 1),
    Part("devices opened", "isolation.devices.opened", 1),
    Part("namespaces shared", OWN_NAMESPACES, 1, whole=NAMESPACES, inverse=True),
    Part("no security label", "isolation.lsm", 1, whole=1, inverse=True),
    Part("machine monitor's calls", ALLOWED, 2, vm_only=True),
)
Parts = Sequence[Part]


def weighted(weights: Mapping[str, float]) -> tuple[Part, ...]:
    """Return the parts with some weights replaced, by `Part.key`. Raises: UsageError."""
    known = {part.key: part for part in PARTS}
    for key, weight in weights.items():
        if key not in known:
            raise UsageError(f"weight of {key}: there is no such part", hint=f"one of {', '.join(known)}")
        if not 0 <= weight < math.inf:
            raise UsageError(f"weight of {key}: {weight:g}: not a number from 0 up")
    parts = tuple(replace(part, weight=weights.get(part.key, part.weight)) for part in PARTS)
    if not any(part.weight for part in parts if not part.vm_only):
        raise UsageError("weights: all are 0, and nothing is left to weigh")
    return parts


def _changed(parts: Parts) -> str:
    """Return in words which weights are not those of the published version."""
    usual = {part.name: part.weight for part in PARTS}
    found = [
        f"{part.name} {part.weight:g} instead of {usual[part.name]:g}"
        for part in parts
        if part.weight != usual[part.name]
    ]
    return f"; weights changed: {', '.join(found)}" if found else ""


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


# -- the score -----------------------------------------------------------------------------------------------------


def shares(side: Side, bare: Side, parts: Parts = PARTS) -> dict[Part, float]:
    """Return how exposed a runtime is by each part that was measured: 0 none, 1 as the bare process."""
    found = {}
    for part in parts:
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


def exposure(side: Side, bare: Side, parts: Parts = PARTS) -> Exposure:
    """Return the composite of one runtime against the bare process of the same run."""
    found = shares(side, bare, parts)
    due = sum(part.weight for part in parts if not part.vm_only or side.own_kernel)
    coverage = sum(part.weight for part in found) / due
    enough = coverage >= COVERAGE_MIN and side.own_kernel is not None
    weakest = max((part for part in found if part.weight), key=lambda part: found[part], default=None)
    return Exposure(
        side.runtime,
        round(_score(found, {part: part.weight for part in found}), 1) if enough else None,
        {part.name: share for part, share in found.items() if part.weight},
        coverage,
        "" if weakest is None else f"{weakest.name} ({found[weakest]:.0%})",
    )


def order_held(all_sides: Sequence[Side], bare: Side, parts: Parts = PARTS, seed: int = 1) -> int:
    """Return in how many of DRAWS draws the order by score stays the same, each weight halved to doubled at random."""
    draw = random.Random(seed)
    found_shares = [shares(side, bare, parts) for side in all_sides]
    order = _order([_score(found, {part: part.weight for part in found}) for found in found_shares])
    held = 0
    for _ in range(DRAWS):
        weights = {part: part.weight * 2 ** draw.uniform(-1, 1) for part in parts}
        held += _order([_score(found, weights) for found in found_shares]) == order
    return held


def _order(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: (round(scores[place], 6), place))


def bare_of(all_sides: Sequence[Side], boundaries: Mapping[str, str]) -> Side | None:
    """Return the plain process of a run, which calibrates the composite; None where the run has none."""
    return next((side for side in all_sides if boundaries.get(side.runtime) == "process"), None)


def exposures(report: Report) -> list[Exposure]:
    """Return the composite of every runtime with its parts; empty where the run has no bare process to compare with.

    Raises: UsageError for a weight of no part.
    """
    found = sides(report)
    bare = bare_of(found, boundaries(report))
    if bare is None or OPERATIONS not in bare.values:
        return []
    parts = weighted(report.weights)
    return [exposure(side, bare, parts) for side in found]


# -- in words ------------------------------------------------------------------------------------------------------


def headlines(all_sides: Sequence[Side], boundaries: Mapping[str, str], parts: Parts = PARTS) -> tuple[str, ...]:
    """Return what is to be read first: a sentence a runtime, then the composite with what belongs to it."""
    return (*(exposure_line(side) for side in all_sides), *score_lines(all_sides, boundaries, parts))


def score_lines(all_sides: Sequence[Side], boundaries: Mapping[str, str], parts: Parts = PARTS) -> list[str]:
    """Return the composite with its parts, its coverage and how far the order hangs on the weights; or nothing."""
    bare = bare_of(all_sides, boundaries)
    if bare is None or len(all_sides) < 2 or OPERATIONS not in bare.values:
        return []
    found = [exposure(side, bare, parts) for side in all_sides]
    scores = ", ".join(f"{one.runtime} {_score_text(one)}" for one in found)
    held = order_held(all_sides, bare, parts)
    first = f"exposure, 0 to 10 (bare root process): {scores}; this order holds in {held} of {DRAWS} draws of weights"
    each = [f"of {one.runtime}: weakest {one.weakest}; {parts_text(one)}" for one in found]
    return [
        first + _changed(parts),
        *(text for text, one in zip(each, found, strict=True) if one.runtime != bare.runtime),
    ]


def _score_text(one: Exposure) -> str:
    return f"insufficient ({one.coverage:.0%} measured)" if one.score is None else f"{one.score:.1f}"


def parts_text(one: Exposure) -> str:
    """Return the parts of a composite, and how much of it was measured."""
    parts = ", ".join(f"{name} {share:.0%}" for name, share in one.parts.items() if round(share, 2))
    return f"{parts or 'nothing'}; the rest 0; {one.coverage:.0%} of the weight measured"
