"""Memory by the agent's own bench: in a row, in random order, and touched for the first time."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.fields import SizeBytes
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.workloads import _driven

STREAM = Metric(
    "ram.stream", Unit.BYTES_PER_S, Better.HIGHER, "a = b + x c over three arrays of doubles: bytes read and written"
)
RANDOM = Metric(
    "ram.random", Unit.NS, Better.LOWER,
    "one load in a chain through all cache lines of a buffer in random order: caches, TLB, page tables of both levels",
)  # fmt: skip
FAULT = Metric(
    "ram.fault", Unit.NS, Better.LOWER, "the first write to a page of 4 KiB: a page fault; a guest may take two"
)
CPU = _driven.cpu_metric("ram", "MiB that is streamed")
PAGE_BYTES = 4096


class Options(_driven.InsideOptions):
    """`workload: {kind: memory}`"""

    size_bytes: SizeBytes = Field(default=48 << 20, ge=3 << 20, alias="size", description="the three arrays together")
    rounds: int = Field(default=10, ge=1, le=100_000, description="how often they are gone through")
    buffer_bytes: SizeBytes = Field(
        default=32 << 20, ge=1 << 20, alias="buffer", description="for loads in random order"
    )
    loads: int = Field(default=1_000_000, ge=1000, le=10**10, description="loads in random order, at least one round")
    touched_bytes: SizeBytes = Field(default=32 << 20, ge=1 << 20, alias="touched", description="memory touched anew")


class _Memory(_driven.Inside):
    name = "memory"
    doc = "memory bandwidth, latency in random order and page faults, by the agent's own bench; what is read is checked"
    options = Options
    metrics = (STREAM, RANDOM, FAULT, CPU)

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        """The pages come first: what the instance has touched before it need not ask the host for again."""
        assert isinstance(options, Options)
        pages = (f"fault={options.touched_bytes // PAGE_BYTES}", f"random={options.buffer_bytes}:{options.loads}")
        answer = _driven.workbench(site, pages, options.timeout_ns)
        stream = f"stream={options.size_bytes}:{options.rounds}"
        row, spent = _driven.spending(site, lambda: _driven.workbench(site, (stream,), options.timeout_ns))
        return (
            Measurement(STREAM, 1e9 / _driven.per_operation_ns(row, "stream")),
            Measurement(RANDOM, _driven.per_operation_ns(answer, "random")),
            Measurement(FAULT, _driven.per_operation_ns(answer, "fault")),
            spent.per(CPU, options.size_bytes * options.rounds / (1 << 20)),
        )


PLUGIN: Driven = _Memory()
