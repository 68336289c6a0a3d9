"""A program that does nothing and ends: what a start costs, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from harness.interfaces import Workload
from harness.model.metrics import Absent, Measurement, Metric
from harness.model.spec import ImageConfig, Ready, WorkloadSpec
from harness.workloads._driven import InsideOptions
from harness.workloads._options import DEFAULT_PATH

PROGRAM = "harness:true"


class _Noop:
    name = "noop"
    doc = "a program that ends at once, as /bin/true: the agent's own, ready when it has ended"
    options: type[BaseModel] = InsideOptions
    metrics: tuple[Metric, ...] = ()

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, InsideOptions)
        env = {"PATH": DEFAULT_PATH, **image.env}
        return WorkloadSpec(argv=(PROGRAM,), env=env, ready=Ready("exit"), timeout_ns=options.timeout_ns)

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """It says nothing about itself: probes measure it."""
        return ()


PLUGIN: Workload = _Noop()
