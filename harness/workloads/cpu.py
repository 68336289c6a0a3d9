"""Arithmetic alone, by the agent's own bench: what a virtual CPU, a quota or an emulator leaves of a processor."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.workloads import _driven

INTEGER = Metric(
    "compute.integer", Unit.PER_S, Better.HIGHER,
    "steps a second of a chain of 64-bit multiplications, each of which waits for the one before; one thread",
)  # fmt: skip
FLOAT = Metric(
    "compute.float", Unit.PER_S, Better.HIGHER, "operations a second of products of 64 x 64 matrices of doubles"
)
CPU = _driven.cpu_metric("compute", "million steps of the integer chain")

_MASK = (1 << 64) - 1
_FACTOR, _ADDEND = 6364136223846793005, 1442695040888963407  # Knuth, MMIX; csrc/agent/workbench.c


class Options(_driven.InsideOptions):
    """`workload: {kind: cpu}`"""

    steps: int = Field(default=100_000_000, ge=1000, le=10**11, description="steps of the chain of integers")
    products: int = Field(default=200, ge=1, le=10**7, description="products of matrices")


class _Cpu(_driven.Inside):
    name = "cpu"
    doc = "integer and floating-point arithmetic, by the agent's own bench; the result is checked"
    options = Options
    metrics = (INTEGER, FLOAT, CPU)

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        integer = f"integer={options.steps}"
        answer, spent = _driven.spending(site, lambda: _driven.workbench(site, (integer,), options.timeout_ns))
        expected = chain(options.steps)
        if answer.get("integer_result") != str(expected):
            raise ValueError(f"integer: {answer.get('integer_result')} came out, {expected} is right")
        floats = _driven.workbench(site, (f"float={options.products}",), options.timeout_ns)
        return (
            Measurement(INTEGER, 1e9 / _driven.per_operation_ns(answer, "integer")),
            Measurement(FLOAT, 1e9 / _driven.per_operation_ns(floats, "float")),
            spent.per(CPU, options.steps / 1e6),
        )


def chain(steps: int) -> int:
    """Return what `steps` steps make of 1, by squaring the step instead of making it so often."""
    factor, addend, value = _FACTOR, _ADDEND, 1
    while steps:
        if steps & 1:
            value = (value * factor + addend) & _MASK
        factor, addend = factor * factor & _MASK, addend * (factor + 1) & _MASK
        steps >>= 1
    return value


PLUGIN: Driven = _Cpu()
