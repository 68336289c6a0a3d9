"""What isolates each runtime, as a run has measured it, in sentences: host exposure, interference, containment. Pure.

Two questions that are never averaged into one answer: what of the host's kernel the workload can call by itself, and
what it could call once it had taken over the process that stands in between. A value that acts on a kernel of the
guest's own is no exposure of the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.model.report import Cell, Report

PREFIX = "isolation."
BOUNDARY = "isolation.boundary."
OWN_KERNEL = "own kernel"
NAMESPACES = 8
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


# -- headlines -----------------------------------------------------------------------------------------------------


def exposure_line(side: Side) -> str:
    """Return in one sentence what of the host is within reach, directly and behind the process in between."""
    if side.own_kernel is None:
        return f"{side.runtime}: whose kernel it runs on is not known, so nothing of this can be judged"
    if side.own_kernel:
        return f"{side.runtime}: own kernel, none of the host's within direct reach; {_monitor(side)}"
    parts = ["the host's kernel"]
    risk = f" ({side.values[HIGH_RISK]:g} of high risk)" if HIGH_RISK in side.values else ""
    for metric, words in ((REACHABLE, f"system calls{risk}"), (OPERATIONS, "privileged operations")):
        if metric in side.values:
            parts.append(f"{side.of(metric)} {words}")
    for metric, words in (
        (CAPABILITIES, "capabilities"),
        (OWN_NAMESPACES, f"of {NAMESPACES} namespaces own"),
    ):
        if metric in side.values:
            parts.append(f"{side.values[metric]:g} {words}")
    found = "".join(f"; {hole}" for hole in holes(side))
    return f"{side.runtime}: {', '.join(parts)}{found}"


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


def holes(side: Side) -> list[str]:
    """Return by name what of the host is open to a runtime that should not be."""
    found = []
    for metric, words in _HOLES.items():
        if side.on_host(metric):
            names = side.labels.get(metric, {}).get("names", "")
            found.append(f"{words}: {names.split()[0]}" if names else words)
    return found


# -- one beside another ------------------------------------------------------------------------------------------

_VARIES = frozenset({"isolation.host_counter_bracketing", USED, "isolation.boundary.descriptors"})
"""Rows that differ from look to look: what happens meanwhile is in them."""


@dataclass(frozen=True, slots=True)
class Beside:
    """The properties by which one runtime exposes less or more of the host than another; `same` counts the equal."""

    less: tuple[str, ...]
    more: tuple[str, ...]
    same: int


def compared(one: Side, other: Side, better: Mapping[str, str]) -> Beside:
    """Return how one runtime compares with another, row by row. `better`: lower or higher, by metric.

    Rows that both have and that say something of the host are compared; those that vary from look to look are not.
    """
    less, more, same = [], [], 0
    for metric, direction in better.items():
        mine, theirs = one.on_host(metric), other.on_host(metric)
        if mine is None or theirs is None or metric in _VARIES or direction not in {"lower", "higher"}:
            continue
        if mine == theirs:
            same += 1
        elif (mine < theirs) == (direction == "lower"):
            less.append(metric)
        else:
            more.append(metric)
    return Beside(tuple(less), tuple(more), same)


def beside_line(one: Side, other: Side, better: Mapping[str, str]) -> str:
    """Return how one runtime compares with another, in a sentence."""
    found = compared(one, other, better)

    def told(metrics: tuple[str, ...]) -> str:
        names = (f"{m.removeprefix(PREFIX)} {one.values[m]:g} not {other.values[m]:g}" for m in metrics)
        return ", ".join(names) or "nothing"

    more = f"; more: {told(found.more)}" if found.more else "; more on no row"
    return (
        f"{one.runtime} beside {other.runtime} exposes less: {told(found.less)}{more}; {found.same} rows are the same"
    )


def peer_lines(all_sides: Sequence[Side], backends: Mapping[str, str], better: Mapping[str, str]) -> list[str]:
    """Return the built-in runtime beside Docker, where a look has both; `backends` are by runtime."""
    ours, dockers = (
        next((side for side in all_sides if backends.get(side.runtime) == name), None) for name in ("builtin", "docker")
    )
    return [beside_line(ours, dockers, better)] if ours and dockers else []


# -- disturbed and broken ------------------------------------------------------------------------------------------

_KEPT, _SAME = ".kept", ".aa"
_INTERFERENCE, _CONTAINMENT = "interference.", "containment."


@dataclass(frozen=True, slots=True)
class Kept:
    """What a runtime keeps of one kind of its work beside a noisy one, and how far its A/A control is from 1.

    `kept` is the median over the blocks, None where it was not measured; `lo` and `hi` are its 95 % interval, None
    below six blocks; `floor` is the control's worst block.
    """

    kind: str
    kept: float | None
    floor: float
    lo: float | None = None
    hi: float | None = None

    @property
    def shown(self) -> bool:
        """Whether there is a difference at all: one that the control does not show too."""
        return self.kept is not None and abs(1 - self.kept) > self.floor

    def text(self) -> str:
        """Return it in words: `CPU keeps 45% (A/A within 8%)`."""
        word = {"cpu": "CPU"}.get(self.kind, self.kind)
        if self.kept is None:
            return f"{word} not measured"
        told = f"keeps {self.kept:.0%}" if self.shown else "no difference shown"
        return f"{word} {told} (A/A within {self.floor:.0%})"


def kept_of(cells: Sequence[Cell], runtime: str) -> list[Kept]:
    """Return what one runtime keeps, by kind of work; empty where nothing of it was asked."""
    own = {cell.metric: cell for cell in cells if cell.runtime == runtime}
    found = []
    for metric, cell in own.items():
        if metric.startswith(_INTERFERENCE) and metric.endswith(_KEPT):
            same = own.get(metric.removesuffix(_KEPT) + _SAME)
            low = same.minimum if same and same.minimum is not None else 1.0
            high = same.maximum if same and same.maximum is not None else 1.0
            kind = metric.removeprefix(_INTERFERENCE).removesuffix(_KEPT)
            found.append(Kept(kind, cell.median, max(1 - low, high - 1, 0.0), cell.lo, cell.hi))
    return found


def interference_line(report: Report, runtime: str) -> str:
    """Return what a runtime keeps of its work beside a noisy one; a loss within that of its A/A control is none."""
    parts = [kept.text() for kept in kept_of(report.cells, runtime)]
    return f"{runtime} beside a noisy one: {', '.join(parts) or 'not measured'}"


@dataclass(frozen=True, slots=True)
class Contained:
    """How many faults of how many stayed where they were made; by name which broke out, and which were never tried."""

    held: float
    of: str
    broke: tuple[str, ...]
    untried: tuple[str, ...]

    def text(self) -> str:
        """Return it in words: `4 of 5 faults contained, not: disk; never tried: panic (shared kernel)`."""
        broke = f", not: {', '.join(self.broke)}" if self.broke else ""
        untried = f"; never tried: {', '.join(self.untried)}" if self.untried else ""
        return f"{self.held:g} of {self.of} faults contained{broke}{untried}"


def contained_of(cells: Sequence[Cell], runtime: str) -> Contained | None:
    """Return what became of one runtime's faults, over all blocks the worst; None where none was measured."""
    own = [cell for cell in cells if cell.runtime == runtime and cell.metric.startswith(_CONTAINMENT)]
    held = next((cell for cell in own if cell.metric == "containment.held"), None)
    if held is None or held.minimum is None:
        return None
    faults = [cell for cell in own if cell.metric.count(".") == 1 and cell.exact and cell is not held]
    return Contained(
        held.minimum,
        held.labels.get("of", "?"),
        tuple(cell.metric.removeprefix(_CONTAINMENT) for cell in faults if cell.minimum == 0),
        tuple(f"{cell.metric.removeprefix(_CONTAINMENT)}{_why(cell)}" for cell in faults if not cell.n),
    )


def _why(cell: Cell) -> str:
    """Return why a fault was not tried, in its first words: ` (shared kernel)`."""
    return f" ({cell.absent[0].partition(':')[0]})" if cell.absent else ""


def containment_line(report: Report, runtime: str) -> str:
    """Return how many faults stayed where they were made, and which did not."""
    found = contained_of(report.cells, runtime)
    return f"{runtime}: {found.text() if found else 'containment not measured'}"


def study_lines(report: Report) -> tuple[str, ...]:
    """Return the headlines of a run of one of the two studies; empty for any other."""
    lines = {"interference": interference_line, "containment": containment_line}
    line = lines.get(str(report.run.study.get("kind"))) if report.run.study else None
    return tuple(line(report, runtime) for runtime in report.run.runtimes) if line else ()
