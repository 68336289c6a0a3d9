"""What each lever of a start is worth: one arm a lever, each held against the same base in the same blocks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.phases import of_runtime
from harness.analysis.statistics import Estimate, paired_difference
from harness.model.records import READY_METRIC, RunRecord, TrialRecord

MEMORY_METRIC = "memory.pss"


@dataclass(frozen=True, slots=True)
class Worth:
    """One lever: what it adds to the base (below 0: what it saves), and in which phase most of that is.

    `ready` in ns and `memory` in bytes, paired by block; None where nothing could be paired. `phase` is a name and what
    its median grew by, None where the two starts have no phase in common. `changes`: what differs besides time.
    """

    lever: str
    ready: Estimate | None
    memory: Estimate | None
    phase: tuple[str, float] | None
    changes: tuple[str, ...] = ()


def worths(run: RunRecord, records: Sequence[TrialRecord], base: str, levers: Mapping[str, str]) -> list[Worth]:
    """Return what each lever is worth, the one that saves most first; `levers` are runtimes and what each changes."""
    before = _changes(run, base)
    found = [
        Worth(
            lever=lever,
            ready=_difference(records, runtime, base, READY_METRIC),
            memory=_difference(records, runtime, base, MEMORY_METRIC),
            phase=_moved_most(records, runtime, base),
            changes=tuple(text for text in _changes(run, runtime) if text not in before),
        )
        for runtime, lever in levers.items()
    ]
    return sorted(found, key=lambda worth: worth.ready.value if worth.ready else float("inf"))


def _changes(run: RunRecord, runtime: str) -> tuple[str, ...]:
    told = run.arms.get(runtime, {}).get("changes", {})
    return tuple(str(text) for text in told.values()) if isinstance(told, dict) else ()


def _difference(records: Sequence[TrialRecord], runtime: str, base: str, metric: str) -> Estimate | None:
    values: dict[str, dict[int, float]] = {runtime: {}, base: {}}
    for record in records:
        spec = record.spec
        if spec.runtime in values and record.status == "ok" and not spec.warmup and metric in record.metrics:
            values[spec.runtime][spec.block] = float(record.metrics[metric].value)
    shared = values[runtime].keys() & values[base].keys()
    apart = [values[runtime][block] - values[base][block] for block in sorted(shared)]
    return paired_difference(apart) if apart else None


def _moved_most(records: Sequence[TrialRecord], runtime: str, base: str) -> tuple[str, float] | None:
    """Phases that only one of the two has are not told apart from their neighbours, and left out."""
    one = {phase.name: phase.length_ns for phase in of_runtime(records, base)}
    other = {phase.name: phase.length_ns for phase in of_runtime(records, runtime)}
    moved = {name: other[name] - one[name] for name in one.keys() & other.keys()}
    if not moved:
        return None
    name = max(sorted(moved), key=lambda phase: abs(moved[phase]))
    return name, moved[name]
