"""Many workloads in one instance, one after the other: the servers run side by side, and each is asked in its turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.fields import Strict
from harness.model.metrics import Absent, Measurement, Metric
from harness.model.spec import ImageConfig, NetworkKind, WorkloadSpec
from harness.workloads import (
    _driven,
    compile,
    cpu,
    memory,
    network,
    postgres,
    python,
    redis,
    sqlite,
    stress,
    syscalls,
    web,
)
from harness.workloads._options import CommonOptions, ReadyCondition, compile_common

PARTS: dict[str, Driven] = {
    part.name: part
    for part in (
        module.PLUGIN
        for module in (cpu, memory, syscalls, python, compile, sqlite, stress, web, redis, postgres, network)
    )
}


class Parts(Strict):
    """What is measured, and its options: `cpu: {}` takes the defaults. What is not named is left out."""

    cpu: cpu.Options | None = None
    memory: memory.Options | None = None
    syscalls: syscalls.Options | None = None
    python: python.Options | None = None
    compile: compile.Options | None = None
    sqlite: sqlite.Options | None = None
    stress: stress.Options | None = None
    web: web.Options | None = None
    redis: redis.Options | None = None
    postgres: postgres.Options | None = None
    network: network.Options | None = None


class Options(CommonOptions):
    """`workload: {kind: everything, parts: {cpu: {}, redis: {}}}`"""

    ready: ReadyCondition = Field(default=ReadyCondition(line="ready"), description="default: line: ready")
    parts: Parts = Field(description="what is measured, one after the other")


class _Everything:
    name = "everything"
    doc = "the other driven workloads, one after the other in one instance, whose image starts all servers"
    options = Options
    network: NetworkKind | None = "bridge"
    metrics: tuple[Metric, ...] = tuple(metric for part in PARTS.values() for metric in part.metrics)

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, Options)
        return compile_common(options, image, options.ready.ready())

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Everything is measured while it is ready."""
        return ()

    def drive(self, options: BaseModel, site: Site) -> Iterator[Measurement | Absent]:
        """A part that fails ends the trial: what was measured before it stays."""
        assert isinstance(options, Options)
        for name, part in PARTS.items():
            chosen = getattr(options.parts, name)
            if chosen is None:
                yield from _driven.absent(part.metrics, "not asked for in this scenario")
                continue
            try:
                yield from part.drive(chosen, site)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


PLUGIN: Driven = _Everything()
