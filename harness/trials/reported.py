"""What a workload reports about itself, taken in like what a probe measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import TrialError
from harness.interfaces import Driven, Emit, Instance, Probe, Workload
from harness.model.metrics import Metric
from harness.model.spec import RootTree
from harness.trials.driven import Driver

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Reported:
    """A probe that reads the output of `workload`, so that its metrics go the way of all others."""

    workload: Workload

    @property
    def name(self) -> str:
        return self.workload.name

    @property
    def doc(self) -> str:
        return f"what the workload itself reports: {self.workload.doc}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.workload.metrics

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        """Its output is complete only when it has been stopped."""
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Raises: TrialError where the output does not show that the work was done."""
        stdout, stderr = instance.output()
        try:
            items = tuple(self.workload.parse(stdout, stderr))
        except ValueError as error:
            raise TrialError(
                f"workload: {self.workload.name}: its output does not show the work done: {error}"
            ) from error
        for item in items:
            emit(item)


def probes_with(
    workload: Workload, probes: tuple[Probe, ...], options: BaseModel | None = None, tree: RootTree | None = None
) -> tuple[Probe, ...]:
    """Return the probes of a run; what the workload itself says comes first, if it says anything.

    `options` and `tree` are for a workload that is driven.
    """
    if isinstance(workload, Driven):
        assert options is not None
        assert tree is not None
        return (Driver(workload, options, tree), *probes)
    return (Reported(workload), *probes) if workload.metrics else probes


def within(probes: tuple[Probe, ...], token: str) -> tuple[Probe, ...]:
    """Return the same probes for the run `token`, whose network a driven workload needs."""
    return tuple(probe.within(token) if isinstance(probe, Driver) else probe for probe in probes)
