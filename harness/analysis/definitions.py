"""The same trials as others define their figures, so that published numbers can be reconciled with ours. Pure.

Each figure is the time between two of our milestones that comes nearest to what a project measures, or one of our
memory accounts; `doc` says how it is defined there, and in what ours cannot be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.statistics import Estimate, median_estimate
from harness.model.milestones import DELETED, EXEC, EXITED, INIT, KERNEL, READY, REQUESTED, RETURNED, STOPPING, VCPU
from harness.model.records import RunRecord, TrialRecord

Span = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a definition: the sum of some times from milestone to milestone, or of some memory accounts."""

    name: str
    doc: str
    spans: tuple[Span, ...] = ()
    accounts: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return "bytes" if self.accounts else "ns"

    @property
    def ours(self) -> str:
        """Return in our words what is taken."""
        return " + ".join(self.accounts) or " + ".join(f"{begin} to {end}" for begin, end in self.spans)


@dataclass(frozen=True, slots=True)
class Definition:
    """How one project counts. `source` is where it says so."""

    name: str
    source: str
    figures: tuple[Figure, ...]


_OURS = Definition(
    "harness",
    "docs/metrics.md",
    (
        Figure("start", "asked for until the workload's own readiness condition holds", ((REQUESTED, READY),)),
        Figure("memory", "PSS of all host processes, the VMM included", accounts=("memory.pss",)),
    ),
)
_FIRECRACKER = Definition(
    "firecracker",
    "SPECIFICATION.md and its boot time tests: a device that the guest's init writes to",
    (
        Figure(
            "boot time",
            "InstanceStart until the guest's init; the VMM runs before it, and the kernel may have been read before; "
            "stated with the serial console off",
            ((VCPU, INIT),),
        ),
        Figure(
            "memory overhead",
            "what the VMM needs besides the guest's RAM; under emulation ours has the translated code in it",
            accounts=("memory.vmm",),
        ),
    ),
)
_KATA = Definition(
    "kata",
    "tests/metrics: launch_times.sh and memory_usage.sh",
    (
        Figure("to workload", "`date` before the start until `date` in the workload: two clocks", ((REQUESTED, EXEC),)),
        Figure("to kernel", "before the start until the guest's kernel begins", ((REQUESTED, KERNEL),)),
        Figure("in kernel", "the guest's kernel begins until its last message", ((KERNEL, INIT),)),
        Figure("to quit", "the workload ends until the command returns; ours: stop to deleted", ((STOPPING, DELETED),)),
        Figure("memory", "PSS of VMM, helpers and shims, by smem", accounts=("memory.pss",)),
    ),
)
_CLOUD_HYPERVISOR = Definition(
    "cloud-hypervisor",
    "docs/debug-port.md and performance-metrics: boot_time_ms",
    (
        Figure(
            "boot time",
            "the guest writes 0x40 to port 0x80 as its kernel begins and 0x41 as user space does: no VMM, no firmware",
            ((KERNEL, INIT),),
        ),
    ),
)
_DOCKER_CLI = Definition(
    "docker-cli",
    "time docker run --rm IMAGE COMMAND; docker stats",
    (
        Figure(
            "run --rm",
            "the command's whole time: start, workload, end and removal; when it was ready is not asked. Ours has a "
            "client and a daemon in it only where the backend has them",
            ((REQUESTED, EXITED), (STOPPING, DELETED)),
        ),
        Figure(
            "MEM USAGE",
            "the cgroup's usage without inactive page cache; ours: anonymous, shared and kernel memory",
            accounts=("memory.cgroup.anon", "memory.cgroup.shmem", "memory.cgroup.kernel"),
        ),
    ),
)
_BUCKETBENCH = Definition(
    "bucketbench",
    "estesp/bucketbench: the time of each engine command, repeated by some threads",
    (
        Figure("run", "the engine's call returns; whether all is ready is not asked", ((REQUESTED, RETURNED),)),
        Figure("stop and remove", "both commands; in ours one request", ((STOPPING, DELETED),)),
    ),
)
_ALL = (_OURS, _FIRECRACKER, _KATA, _CLOUD_HYPERVISOR, _DOCKER_CLI, _BUCKETBENCH)
DEFINITIONS = {definition.name: definition for definition in _ALL}


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure of one runtime; `estimate` None: it cannot be had, for `reason`."""

    definition: str
    figure: Figure
    runtime: str
    estimate: Estimate | None
    reason: str = ""


def cells(run: RunRecord, records: Sequence[TrialRecord], names: Sequence[str]) -> list[Cell]:
    """Return every figure of the named definitions for every runtime, from the trials that count."""
    return [
        _cell(name, figure, records, runtime)
        for name in names
        for figure in DEFINITIONS[name].figures
        for runtime in run.runtimes
    ]


def _cell(name: str, figure: Figure, records: Sequence[TrialRecord], runtime: str) -> Cell:
    own = [r for r in records if r.spec.runtime == runtime and r.status == "ok" and not r.spec.warmup]
    values = [value for record in own if (value := _value(record, figure)) is not None]
    if values:
        return Cell(name, figure, runtime, median_estimate(values))
    return Cell(name, figure, runtime, None, _why(own, figure))


def _value(record: TrialRecord, figure: Figure) -> float | None:
    if figure.accounts:
        parts = [record.metrics[name].value for name in figure.accounts if name in record.metrics]
        return float(sum(parts)) if len(parts) == len(figure.accounts) else None
    marks = {REQUESTED: 0, **record.marks}
    if any(name not in marks for span in figure.spans for name in span):
        return None
    return float(sum(marks[end] - marks[begin] for begin, end in figure.spans))


def _why(records: Sequence[TrialRecord], figure: Figure) -> str:
    if not records:
        return "no trial of it succeeded"
    wanted = figure.accounts or tuple(f"startup.{name}" for span in figure.spans for name in span)
    told = [records[-1].absent.get(name) for name in wanted]
    return next((reason for reason in told if reason), f"this run did not measure {figure.ours}")
