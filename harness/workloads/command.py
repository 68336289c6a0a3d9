"""A command that runs to its end, or serves until it is stopped; ready when it says so."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.interfaces import Workload
from harness.model.metrics import Absent, Measurement, Metric
from harness.model.spec import ImageConfig, WorkloadSpec
from harness.workloads._options import CommonOptions, ReadyCondition, compile_common


class Options(CommonOptions):
    """`workload: {kind: command, ...}`"""

    ready: ReadyCondition = Field(default=ReadyCondition(exit=True), description="default: exit: true")


class _Command:
    name = "command"
    doc = "a command: ready when it has ended with 0, printed a line, or accepts on a port"
    options = Options
    metrics: tuple[Metric, ...] = ()

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, Options)
        return compile_common(options, image, options.ready.ready())

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """It says nothing about itself: probes measure it."""
        return ()


PLUGIN: Workload = _Command()
