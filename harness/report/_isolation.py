"""Isolation as every format shows it: first a card for each runtime, to tell them apart at a glance, then sentences and
two tables, one of what the workload reaches, one of what stands in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.exposure import exposures, headlines, weighted
from harness.analysis.isolation import (
    ALLOWED,
    BOUNDARY,
    CAPABILITIES,
    HIGH_RISK,
    NAMESPACES,
    OPERATIONS,
    OWN_KERNEL,
    OWN_NAMESPACES,
    PREFIX,
    REACHABLE,
    USED,
    Side,
    boundaries,
    contained_of,
    holes,
    kept_of,
    peer_lines,
    sides,
    study_lines,
)
from harness.model.report import Report
from harness.report import _tables as tables

BOUNDARY_NOTE = (
    "what a workload would have to take over to get at the host: a container's own tasks, a VM's monitor and helpers; "
    "all of it acts on the host's kernel"
)
_RATIOS = {"isolation.host_counter_bracketing"}
_BOOLEANS = {
    "kernel.shared", "no_new_privs", "host_processes.visible", "host_root", "lsm",
    "boundary.root", "boundary.no_new_privs", "boundary.lsm",
}  # fmt: skip
_LEFT_OUT = "isolation.namespace."
"""Each kind of namespace by itself: their count names them."""


def cell_text(side: Side, metric: str) -> str:
    """Return one value for people: with what it is out of, and a star where it acts on a kernel of its own."""
    value = side.values.get(metric)
    if value is None:
        return "-"
    labels = side.labels.get(metric, {})
    star = "*" if labels.get("acts_on") == OWN_KERNEL else ""
    if metric.removeprefix(PREFIX) in _BOOLEANS:
        return f"{'yes' if value else 'no'}{star}"
    if metric in _RATIOS:
        return f"{value:.0%}{star}"
    whole = labels.get("of")
    return f"{value:g}{f'/{whole}' if whole else ''}{star}"


def metrics_of(all_sides: Sequence[Side], *, boundary: bool) -> list[str]:
    """Return the rows of one of the two tables, as the probes list them."""
    names = dict.fromkeys(metric for side in all_sides for metric in side.values)
    return [m for m in names if m.startswith(BOUNDARY) == boundary and not m.startswith(_LEFT_OUT)]


def rows(all_sides: Sequence[Side], *, boundary: bool) -> list[list[str]]:
    """Return one of the two tables without its head: name, then one cell a runtime."""
    prefix = BOUNDARY if boundary else PREFIX
    return [
        [metric.removeprefix(prefix), *(cell_text(side, metric) for side in all_sides)]
        for metric in metrics_of(all_sides, boundary=boundary)
    ]


def property_table(all_sides: Sequence[Side], names: Mapping[str, str]) -> list[str]:
    """Return what the workload reaches, as lines of aligned text; none where nothing was measured."""
    return _aligned("the workload reaches", all_sides, names, boundary=False)


def boundary_table(all_sides: Sequence[Side], names: Mapping[str, str]) -> list[str]:
    """Return what the process in between is and may do, as lines of aligned text."""
    return _aligned("the process in between", all_sides, names, boundary=True)


def _aligned(title: str, all_sides: Sequence[Side], names: Mapping[str, str], *, boundary: bool) -> list[str]:
    found = rows(all_sides, boundary=boundary)
    if not found:
        return []
    lines = [[title, *(names.get(side.runtime, side.runtime) for side in all_sides)], *found]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]


def boundary_matrix(report: Report) -> list[list[str]]:
    """Return what stands in between as a table: a head, one line a property; empty where it was not looked at."""
    found = sides(report)
    lines = rows(found, boundary=True)
    head = ["the process in between", *(tables.runtime_label(report, side.runtime) for side in found)]
    return [head, *lines] if lines else []


def without_boundary(matrix: list[list[str]]) -> list[list[str]]:
    """Return the table of properties without those of the process in between, which has a table of its own."""
    lines = [line for line in matrix if not line[0].startswith(BOUNDARY)]
    return lines if len(lines) > 1 else []


def measured(report: Report) -> bool:
    """Return whether the surface of any runtime was measured."""
    return any(REACHABLE in side.values for side in sides(report))


def report_lines(report: Report) -> tuple[str, ...]:
    """Return the headlines on isolation of a run; empty where its surface was not measured.

    Raises: UsageError for a weight of no part.
    """
    if not measured(report):
        return study_lines(report)
    found = sides(report)
    better = {name: about.get("better", "") for name, about in report.run.metrics.items()}
    backends = {trial.spec.runtime: trial.spec.backend for trial in report.records}
    lines = headlines(found, boundaries(report), weighted(report.weights))
    return (*lines[: len(found)], *peer_lines(found, backends, better), *lines[len(found) :])


# -- at a glance ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Card:
    """One runtime in a few words. `kind` is own, shared, bare (no isolation at all) or plain (not of the surface).

    `backend` is empty where it has the runtime's name. `score` is the composite, whose parts stand below it on every
    page; None where there is none.
    """

    name: str
    kind: str
    badge: str
    facts: tuple[str, ...]
    backend: str = ""
    score: float | None = None


def glance(report: Report) -> list[Card]:
    """Return a card a runtime; empty for a run that tells nothing of isolation."""
    scores = {one.runtime: one.score for one in exposures(report)}
    kinds, backends = boundaries(report), {trial.spec.runtime: trial.spec.backend for trial in report.records}
    cards = (
        [(side.runtime, _card(side, kinds.get(side.runtime, ""))) for side in sides(report)]
        if measured(report)
        else _study_cards(report)
    )
    return [
        replace(
            card,
            name=tables.runtime_label(report, runtime),
            backend="" if report.run.study or backends.get(runtime) == runtime else backends.get(runtime, ""),
            score=scores.get(runtime),
        )
        for runtime, card in cards
    ]


def _card(side: Side, boundary: str) -> Card:
    if side.own_kernel is None:
        return Card("", "plain", "whose kernel is not known", ())
    if side.own_kernel:
        return Card("", "own", "own kernel", ("none of the host's within direct reach", *_monitor_facts(side)))
    facts = [text for metric, text in _facts(side).items() if metric in side.values]
    if boundary == "process":
        return Card("", "bare", "no isolation", tuple(facts))
    return Card("", "shared", "host's kernel", (*facts, *holes(side)))


def _facts(side: Side) -> Mapping[str, str]:
    risk = f", {side.values[HIGH_RISK]:g} of high risk" if HIGH_RISK in side.values else ""
    return {
        REACHABLE: f"{side.of(REACHABLE)} system calls{risk}",
        OPERATIONS: f"{side.of(OPERATIONS)} privileged operations",
        CAPABILITIES: f"{side.values.get(CAPABILITIES, 0):g} capabilities",
        OWN_NAMESPACES: f"{side.values.get(OWN_NAMESPACES, 0):g} of {NAMESPACES} namespaces its own",
    }


def _monitor_facts(side: Side) -> list[str]:
    if ALLOWED not in side.values:
        return ["what its machine monitor may call was not measured"]
    used = f", makes {side.values[USED]:g}" if USED in side.values else ""
    return [f"behind it a monitor that may make {side.of(ALLOWED)} host calls{used}"]


def _study_cards(report: Report) -> list[tuple[str, Card]]:
    kind = str(report.run.study.get("kind")) if report.run.study else ""
    found = []
    for runtime in report.run.runtimes:
        contained = contained_of(report.cells, runtime)
        if kind == "interference":
            facts = tuple(kept.text() for kept in kept_of(report.cells, runtime))
            found.append((runtime, Card("", "plain", "beside a noisy one", facts or ("not measured",))))
        elif kind == "containment":
            facts = tuple(contained.text().split("; ")) if contained else ("not measured",)
            found.append((runtime, Card("", "plain", "when it breaks", facts)))
    return found
