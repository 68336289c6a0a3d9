"""What a call of the kernel costs, by the agent's own bench: the calls that every program makes."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.workloads import _driven

_DOCS = {
    "getpid": "getpid, which does nothing: the way into the kernel and back, a seccomp filter with it",
    "open_close": "open and close /dev/null",
    "fork": "fork, end and wait for a small process",
    "fork_exec": "fork, execve of a small static program, end and wait",
    "pipe_round": "a byte through a pipe to another process and back: two switches",
    "futex_round": "hand a turn to another process by a futex and get it back: two switches",
    "fault": "the first write to a page of memory",
}
METRICS = {part: Metric(f"syscall.{part}", Unit.NS, Better.LOWER, f"{doc}; mean") for part, doc in _DOCS.items()}
CPU = _driven.cpu_metric("syscall", "round of everything: fork and execve once, 1000 getpid, 50 of each other")

_CALLS, _SWITCHES, _PAGES = 1000, 50, 50


class Options(_driven.InsideOptions):
    """`workload: {kind: syscalls}`"""

    rounds: int = Field(default=100, ge=10, le=100_000, description="how much of everything, see docs/workloads.md")


class _Syscalls(_driven.Inside):
    name = "syscalls"
    doc = "system calls, starting processes, switching between them, page faults, by the agent's own bench"
    options = Options
    metrics = (*METRICS.values(), CPU)

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        rounds = options.rounds
        amounts = {"call": _CALLS, "fork": 1, "pipe": _SWITCHES, "futex": _SWITCHES, "fault": _PAGES}
        parts = [f"{part}={amount * rounds}" for part, amount in amounts.items()]
        answer, spent = _driven.spending(site, lambda: _driven.workbench(site, parts, options.timeout_ns))
        times = (Measurement(metric, _driven.per_operation_ns(answer, part)) for part, metric in METRICS.items())
        return (*times, spent.per(CPU, rounds))


PLUGIN: Driven = _Syscalls()
