"""A stressor of stress-ng by its name: a fixed number of its operations, checked by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.fields import Strings
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.workloads import _driven

RATE = Metric(
    "stress.rate", Unit.PER_S, Better.HIGHER,
    "operations of the stressor a second of real time, as stress-ng counts them: for one stressor and version",
)  # fmt: skip
CPU = _driven.cpu_metric("stress", "operation of the stressor")


class Options(_driven.InsideOptions):
    """`workload: {kind: stress, stressor: vm}`"""

    stressor: str = Field(pattern="^[a-z0-9-]+$", description="its name, as stress-ng --stressors lists them")
    operations: int = Field(ge=1, le=10**12, description="how many, of all its processes together")
    processes: int = Field(default=1, ge=1, le=1024, description="how many processes work at it")
    arguments: Strings = Field(default=(), description="more arguments, such as [--vm-bytes, 32M]")


class _Stress(_driven.Inside):
    name = "stress"
    doc = "one stressor of stress-ng inside, by its name, with verification; the operations that it made are counted"
    options = Options
    metrics = (RATE, CPU)

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        name, count = options.stressor, str(options.operations)
        work = (f"--{name}", str(options.processes), f"--{name}-ops", count, *options.arguments)
        argv = ("stress-ng", "--verify", "--metrics-brief", "--temp-path", "/tmp", *work)
        did, spent = _driven.spending(site, lambda: site.inside(argv, options.timeout_ns))
        _driven.succeeded(did, "stress-ng")
        done, rate = parse_metrics((did.stdout + did.stderr).decode("utf-8", "replace"), options.stressor)
        if done < options.operations:
            raise ValueError(f"stress-ng: {done} of {options.operations} operations of {options.stressor} were made")
        return (Measurement(RATE, rate, {"stressor": options.stressor}), spent.per(CPU, done))


def parse_metrics(text: str, stressor: str) -> tuple[int, float]:
    """Return the operations of a stressor, and how many a second of real time. Raises: ValueError.

    The line that `--metrics-brief` prints: name, operations, real, user and system seconds, operations a second of real
    time, and of CPU time (stress-ng 0.15).
    """
    found = re.search(rf"\b{re.escape(stressor)}\s+(\d+)\s+[\d.]+\s+[\d.]+\s+[\d.]+\s+([\d.]+)\s", text)
    if found is None:
        raise ValueError(f"stress-ng: no metrics of {stressor}")
    return int(found[1]), float(found[2])


PLUGIN: Driven = _Stress()
