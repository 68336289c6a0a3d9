"""A trial that starts more and more instances of one runtime, and reads at each number what all of them take.

The counterpart of `harness.trials.trial` for scenarios with `density:`. Instances start one after the other, each when
the one before it is ready. A trial ends before its last number when the next instance would not fit into the memory
budget, when tasks of the host wait for memory, or when an instance does not get ready; what was read until then counts.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis import density as metrics
from harness.errors import TrialError
from harness.host import memory as host
from harness.host.noise import Sampler
from harness.interfaces import Arm, CgroupMemory, Instance
from harness.model.metrics import Absent, Measurement, Metric, Unit
from harness.model.records import Level, MetricValue, TrialRecord, TrialSpec
from harness.model.units import format_bytes
from harness.probes.memory import own_bytes
from harness.trials.ledger import Ledger, Outcome, Progress, now
from harness.trials.trial import ATTEST_NS, STOP_NS, NotReady, abandon, keep_logs, launch

if TYPE_CHECKING:
    from harness.model.scenario import Density


@dataclass(slots=True)
class _Ramp:
    """The instances of one trial, and what the host was before the first of them."""

    arm: Arm
    rule: Density
    trial_id: str
    timeout_ns: int
    log_dir: Path
    before: host.HostMemory = field(default_factory=host.read_host)
    merged_bytes: int = field(default_factory=lambda: host.ksm_saved_bytes() or 0)
    instances: list[Instance] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    ready_ns: int = 0

    def climb(self) -> str:
        """Start and read until something says stop; return what did. Raises: TrialError where none got ready."""
        for count in self.rule.counts:
            waited_us, since_ns = host.waiting_for_memory_us(), time.monotonic_ns()
            why = self._fill(count)
            if not self.levels or len(self.instances) > self.levels[-1].n:
                why = self._read() or why
            why = why or self._pressure(waited_us, since_ns)
            if why:
                return why
        return metrics.PLANNED

    def _fill(self, count: int) -> str:
        """Start instances until there are `count`; return why not, empty when there are."""
        while len(self.instances) < count:
            why = self._no_room()
            if why:
                return why
            name = f"{self.trial_id}-{len(self.instances):03d}"
            try:
                instance = launch(self.arm, name, self.timeout_ns)
            except NotReady as failure:
                self._end_failed(failure, name)
                if not self.instances:
                    raise failure.error from failure
                return f"instance {len(self.instances) + 1} did not get ready: {failure.error.message}"
            except TrialError as error:
                if not self.instances:
                    raise
                return f"instance {len(self.instances) + 1} did not start: {error.message}"
            self.instances.append(instance)
            found = {mark.milestone: mark.at_ns for mark in reversed(instance.marks)}
            self.ready_ns = found["ready"] - found["requested"]
        return ""

    def _end_failed(self, failure: NotReady, name: str) -> None:
        with contextlib.suppress(TrialError):  # the first failure is the cause
            failure.instance.stop(time.monotonic_ns())
        keep_logs(failure.instance, Outcome(), self.log_dir / name)

    def _no_room(self) -> str:
        """Return why the next instance must not be started, judged by what those before it took on average."""
        if not self.instances:
            return ""
        budget = self.rule.budget_bytes or self.before.available_bytes // 2
        taken = host.read_sizes(self._pids()).pss
        after = taken * (len(self.instances) + 1) / len(self.instances)
        if after <= budget:
            return ""
        return f"memory budget: {len(self.instances)} take {format_bytes(taken)} of {format_bytes(budget)}"

    def _pressure(self, waited_us: int | None, since_ns: int) -> str:
        waited_now_us = host.waiting_for_memory_us()
        if waited_us is None or waited_now_us is None:
            return ""
        ratio = (waited_now_us - waited_us) * 1000 / max(1, time.monotonic_ns() - since_ns)
        return f"memory pressure: tasks waited {ratio:.0%} of the time" if ratio > self.rule.pressure else ""

    def _pids(self) -> tuple[int, ...]:
        return tuple(pid for instance in self.instances for pid in instance.pids())

    def _read(self) -> str:
        """Add what all instances take now, after a while in which they and the host come to rest.

        Return which of them has gone meanwhile: then there is nothing to add.
        """
        time.sleep(self.rule.settle_ns / 1e9)
        pids, since_ns = self._pids(), time.monotonic_ns()
        own_ns, all_ns = host.cpu_ns(pids), host.host_cpu_ns()
        time.sleep(self.rule.window_ns / 1e9)
        took_ns = time.monotonic_ns() - since_ns
        own_ratio, all_ratio = (host.cpu_ns(pids) - own_ns) / took_ns, (host.host_cpu_ns() - all_ns) / took_ns
        gone = [number for number, instance in enumerate(self.instances, 1) if not host.read_sizes(instance.pids()).rss]
        if gone:
            return f"instance {gone[0]} of {len(self.instances)} has ended by itself"
        memory, sizes = host.read_host(), host.read_sizes(self._pids())
        values: dict[Metric, float | None] = {
            metrics.OWN: self._sum(own_bytes),
            metrics.HOST: memory.used_bytes - self.before.used_bytes,
            metrics.CACHE: memory.cache_bytes - self.before.cache_bytes,
            metrics.PSS: sizes.pss,
            metrics.USS: sizes.uss,
            metrics.CGROUP: self._sum(lambda use: use.current_bytes if use else None),
            metrics.MERGED: None if (saved := host.ksm_saved_bytes()) is None else saved - self.merged_bytes,
            metrics.CPU: round(own_ratio, 6),
            metrics.HOST_CPU: round(all_ratio, 6),
            metrics.READY: self.ready_ns,
        }
        told = {key.name: MetricValue(value, key.unit.value) for key, value in values.items() if value is not None}
        self.levels.append(Level(len(self.instances), told))
        return ""

    def _sum(self, of: Callable[[CgroupMemory | None], int | None]) -> int | None:
        """Return something of all their cgroups together, None where one of them does not tell."""
        values = [of(instance.cgroup_memory()) for instance in self.instances]
        told = [value for value in values if value is not None]
        return sum(told) if len(told) == len(values) else None

    def end(self, outcome: Outcome) -> None:
        """Stop all of them, the last one first; one that cannot be stopped fails the trial."""
        for instance in reversed(self.instances):
            try:
                instance.stop(time.monotonic_ns() + STOP_NS)
            except TrialError as error:
                outcome.fail(error)
        if self.instances:
            keep_logs(self.instances[0], outcome, self.log_dir)


@dataclass(frozen=True, slots=True)
class RampContender:
    """One prepared runtime of which each trial starts as many instances as the rule allows."""

    arm: Arm
    rule: Density
    timeout_ns: int

    def run(self, spec: TrialSpec, log_dir: Path, progress: Progress) -> TrialRecord:
        """Return the record of one trial, with its levels. Raises: StoreError when logs cannot be written."""
        progress(spec, "starting")
        gc.collect()
        ledger, outcome = Ledger(), Outcome()
        started, sampler = now(), Sampler()
        ramp = _Ramp(self.arm, self.rule, spec.trial_id, self.timeout_ns, log_dir)
        try:
            stopped = ramp.climb()
            _conclude(ramp, stopped, ledger)
            outcome.attestation = ramp.instances[0].attest(time.monotonic_ns() + ATTEST_NS)
        except TrialError as error:
            outcome.fail(error)
        except BaseException:
            for instance in ramp.instances:
                abandon(instance)
            raise
        progress(spec, "stopping")
        ramp.end(outcome)
        failed = outcome.status != "ok"
        ledger.complete(metrics.TRIAL_METRICS, "not measured: the trial failed before" if failed else "it was not read")
        return TrialRecord(
            spec=spec,
            status=outcome.status,
            started=started,
            error=outcome.error,
            ending=outcome.ending,
            accelerator=self.arm.accelerator,
            metrics=ledger.values,
            absent=ledger.absent,
            attestation=outcome.attestation,
            noise=sampler.finish(),
            levels=tuple(ramp.levels),
        )


def _conclude(ramp: _Ramp, stopped: str, ledger: Ledger) -> None:
    """Say what the readings of one trial amount to. Raises: TrialError where there is none."""
    if not ramp.levels:
        raise TrialError(f"density: {stopped}: before anything was read")
    ledger.emit(Measurement(metrics.INSTANCES, ramp.levels[-1].n, {"stopped by": stopped}))
    labels = {"numbers": " ".join(str(level.n) for level in ramp.levels)}
    for metric, reading in metrics.SLOPES.items():
        found = metrics.line(metrics.points(ramp.levels, reading.name))
        if found is None:
            ledger.emit(Absent(metric, f"{reading.name}: read at fewer than two numbers of instances"))
        else:
            ledger.emit(Measurement(metric, found.slope if metric.unit is Unit.RATIO else round(found.slope), labels))
