"""Many workloads in one instance, one after the other: the servers run side by side, and each is asked in its turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

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


# Under names of their own: a field hides the module that it is called after.
_Cpu = cpu.Options
_Memory = memory.Options
_Syscalls = syscalls.Options
_Python = python.Options
_Compile = compile.Options
_Sqlite = sqlite.Options
_Stress = stress.Options
_Web = web.Options
_Redis = redis.Options
_Postgres = postgres.Options
_Network = network.Options


class Parts(Strict):
    """What is measured, and its options: `cpu: {}` takes the defaults. What is not named is left out."""

    cpu: _Cpu | None = Field(default=None, description=PARTS["cpu"].doc)
    memory: _Memory | None = Field(default=None, description=PARTS["memory"].doc)
    syscalls: _Syscalls | None = Field(default=None, description=PARTS["syscalls"].doc)
    python: _Python | None = Field(default=None, description=PARTS["python"].doc)
    compile: _Compile | None = Field(default=None, description=PARTS["compile"].doc)
    sqlite: _Sqlite | None = Field(default=None, description=PARTS["sqlite"].doc)
    stress: _Stress | None = Field(default=None, description=PARTS["stress"].doc)
    web: _Web | None = Field(default=None, description=PARTS["web"].doc)
    redis: _Redis | None = Field(default=None, description=PARTS["redis"].doc)
    postgres: _Postgres | None = Field(default=None, description=PARTS["postgres"].doc)
    network: _Network | None = Field(default=None, description=PARTS["network"].doc)


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
        """The echo that `network` wants is the agent's own: it starts what the image starts."""
        assert isinstance(options, Options)
        spec = compile_common(options, image, options.ready.ready())
        asked = options.parts.network
        return spec if asked is None else replace(spec, argv=(network.ECHO, str(asked.port), *spec.argv))

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
