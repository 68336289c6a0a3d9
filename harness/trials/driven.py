"""Has a driven workload do its work while the instance is ready, as a probe among the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.backends import _network
from harness.errors import TrialError
from harness.host.paths import runtime_dir
from harness.interfaces import Driven, Emit, Instance
from harness.loading.site import InstanceSite
from harness.model.metrics import Metric
from harness.model.spec import RootTree

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Driver:
    """A probe that drives `workload`. `tree` has the client's programs; by `token` the run's network is found."""

    workload: Driven
    options: BaseModel
    tree: RootTree
    token: str = ""

    def within(self, token: str) -> Driver:
        """Return the same probe in a run that has been prepared."""
        return replace(self, token=token)

    @property
    def name(self) -> str:
        return self.workload.name

    @property
    def doc(self) -> str:
        return f"what the workload did: {self.workload.doc}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.workload.metrics

    @contextlib.contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        """Let the other probes read first, which want an instance that is ready and idle. Raises: TrialError."""
        yield
        scratch = runtime_dir() / self.token / "client"
        site = InstanceSite(instance, _network.of_run(self.token), self.tree, scratch)
        with contextlib.closing(site):
            try:
                for item in self.workload.drive(self.options, site):
                    emit(item)
            except ValueError as error:
                raise TrialError(f"workload: {self.name}: the work was not done: {error}") from error

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Everything was measured while it ran."""
