"""Starts that were prepared: held before the workload runs, paused, or saved to disk. Over any backend's own arm.

    cold      everything from nothing: the backend's arm as it is
    warm      all is made but the workload, which the agent runs when it is told to (a pre-forked instance)
    resumed   it was ready, and then stopped: by the cgroup's freezer, or the guest's CPUs by libvirt
    restored  it was ready once, and saved to a file; every trial begins from that file. -internal: the file is a
              snapshot inside the guest's disk; -external: it was taken beside it, while the guest ran on

Only what comes after the request is timed. What came before it, and what it keeps meanwhile, is told in `Before`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.backends import _connection
from harness.errors import CapabilityError, TrialError
from harness.host.memory import read_sizes
from harness.images.storage.usage import allocated_bytes
from harness.interfaces import (
    Arm,
    Before,
    Boundary,
    Capability,
    CgroupMemory,
    ExecResult,
    Instance,
    Json,
    Preparable,
    RunContext,
    SavedForm,
    Saving,
)
from harness.model.milestones import INIT, READY, REQUESTED, Mark
from harness.model.records import Attestation
from harness.model.spec import WorkloadSpec

Start = Literal["cold", "warm", "resumed", "restored", "restored-internal", "restored-external"]
_FORMS: Mapping[Start, SavedForm] = {
    "restored": "file", "restored-internal": "internal", "restored-external": "external",
}  # fmt: skip
ONLY_VMS = "only VMs of the embedded libvirt are saved to a file"
_ANSWER_NS = 30_000_000_000


def workload_for(start: Start, workload: WorkloadSpec) -> WorkloadSpec:
    """Return the workload as an instance gets it that is prepared this way."""
    return replace(workload, hold=True) if start == "warm" else workload


def needs(start: Start, backend: str, options: object) -> tuple[Capability, ...]:
    """Return what a prepared start needs of its backend, as far as that can be told before anything is made."""
    if start not in _FORMS:
        return ()
    stored = getattr(options, "stored", None)  # of libvirt's options
    if backend != "libvirt":
        reason, hint = ONLY_VMS, "start: resumed or start: warm is what it has instead"
    elif _connection.is_daemon(getattr(options, "uri", None)):
        reason, hint = "a libvirt daemon's guest is not saved", "leave out uri"
    elif start == "restored-internal" and getattr(stored, "driver", "") != "qcow2":
        reason, hint = "its root is no qcow2 that could hold the state", "storage: qcow2"
    elif start == "restored-external" and getattr(stored, "driver", "") == "qcow2":
        reason, hint = "its root is a disk that is written to", "storage: raw"
    else:
        return ()
    return (Capability(f"start: {start}", available=False, reason=reason, hint=hint),)


@contextlib.contextmanager
def prepared(arm: Arm, start: Start, runtime: str, timeout_ns: int, context: RunContext) -> Iterator[Arm]:
    """Have an arm whose starts are prepared this way; `cold` is the arm itself. That one stays the caller's to close.

    Raises: CapabilityError for what the backend cannot do; TrialError where what is saved does not get ready.
    """
    if start == "cold":
        yield arm
    elif start not in _FORMS:
        yield _WaitingArm(arm, start, runtime, timeout_ns)
    elif isinstance(arm, Saving):
        restoring = _RestoringArm(arm, start, runtime, timeout_ns, context.work / f"{runtime}.saved")
        try:
            yield restoring
        finally:
            restoring.close()
    else:
        raise CapabilityError(f"{runtime}: start: {start}: {ONLY_VMS}")


class Woken:
    """An instance from the moment at which it is asked for: marks of what came before are not shown.

    `again`: it stood still when it was ready, so that it counts as ready when the agent says so anew.
    """

    def __init__(self, inner: Instance, requested_ns: int, before: Before, *, again: bool) -> None:
        self._inner = inner
        self._requested_ns = requested_ns
        self._again = again
        self._ready: list[Mark] = []
        self.before = before

    @property
    def inner(self) -> Preparable:
        return _preparable(self._inner, "instance")

    @property
    def boundary(self) -> Boundary:
        return self._inner.boundary

    @property
    def memory_bytes(self) -> int:
        return self._inner.memory_bytes

    @property
    def address(self) -> str | None:
        return self._inner.address

    @property
    def marks(self) -> Sequence[Mark]:
        since = [mark for mark in self._inner.marks if mark.at_ns >= self._requested_ns and mark.milestone != REQUESTED]
        if self._again:
            since = [mark for mark in since if mark.milestone != READY]
        return [Mark(REQUESTED, self._requested_ns), *sorted([*since, *self._ready], key=lambda mark: mark.at_ns)]

    def pids(self) -> tuple[int, ...]:
        return self._inner.pids()

    def cgroup_memory(self) -> CgroupMemory | None:
        return self._inner.cgroup_memory()

    def wait(self, milestone: str, deadline_ns: int) -> Mark:
        if milestone != READY or not self._again:
            return self._inner.wait(milestone, deadline_ns)
        if not self._ready:
            self._ready.append(Mark(READY, self.inner.again(deadline_ns).at_ns))
        return self._ready[0]

    def inside(self) -> Mapping[str, Json]:
        return self._inner.inside()

    def attest(self, deadline_ns: int) -> Attestation:
        return self._inner.attest(deadline_ns)

    def calibrate(self, count: int, gap_ns: int = 0) -> Sequence[Mark]:
        return self._inner.calibrate(count, gap_ns)

    def exec(self, argv: Sequence[str], timeout_ns: int) -> ExecResult:
        return self._inner.exec(argv, timeout_ns)

    def output(self) -> tuple[bytes, bytes]:
        return self._inner.output()

    def console(self) -> bytes:
        return self._inner.console()

    def stop(self, deadline_ns: int) -> None:
        self._inner.stop(deadline_ns)


def _preparable(instance: Instance, runtime: str) -> Preparable:
    if not isinstance(instance, Preparable):
        raise TrialError(f"{runtime}: its backend cannot prepare a start")
    return instance


@contextlib.contextmanager
def _ended_on_failure(instance: Instance) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(TrialError):  # what is frozen cannot be killed (cgroup v1); a VM may run already
            if isinstance(instance, Preparable):
                instance.resume()
        with contextlib.suppress(TrialError):  # the first failure is the cause
            instance.stop(time.monotonic_ns())
        raise


@dataclass
class _WaitingArm:
    """Each launch makes an instance, has it wait, and then asks for it."""

    arm: Arm
    start: Start
    runtime: str
    timeout_ns: int

    @property
    def facts(self) -> Mapping[str, Json]:
        return {**self.arm.facts, "start": self.start}

    @property
    def accelerator(self) -> str | None:
        return self.arm.accelerator

    def launch(self, trial_id: str) -> Instance:
        begun_ns = time.monotonic_ns()
        instance = self.arm.launch(trial_id)
        with _ended_on_failure(instance):
            waiting = _preparable(instance, self.runtime)
            deadline_ns = begun_ns + self.timeout_ns
            if self.start == "warm":
                instance.wait(INIT, deadline_ns)
                instance.calibrate(1)  # answered: it holds
            else:
                instance.wait(READY, deadline_ns)
                instance.calibrate(1)  # its console is open
                waiting.pause(deadline_ns)
            took_ns = time.monotonic_ns() - begun_ns
            before = Before(self.start, took_ns, held_bytes=read_sizes(instance.pids()).pss)
            requested_ns = time.monotonic_ns()
            if self.start == "warm":
                waiting.go(requested_ns + _ANSWER_NS)
            else:
                waiting.resume()
        return Woken(instance, requested_ns, before, again=self.start == "resumed")

    def close(self) -> None:
        """There is nothing of its own."""


class _RestoringArm:
    """One instance is made ready and saved to a file, when the arm is prepared; every launch begins from that file."""

    def __init__(self, arm: Saving, start: Start, runtime: str, timeout_ns: int, place: Path) -> None:
        self._arm = arm
        self._form = _FORMS[start]
        self._place = place
        begun_ns = time.monotonic_ns()
        self._template = arm.launch(f"saved-{runtime}")
        with _ended_on_failure(self._template):
            self._template.wait(READY, begun_ns + timeout_ns)
            self._template.calibrate(1)
            place.mkdir(parents=True)
            made_ns = time.monotonic_ns()
            arm.save(self._template, place / "state", self._form)
        saved_ns = time.monotonic_ns() - made_ns
        self._before = Before(
            start, made_ns - begun_ns + saved_ns, saved_bytes=allocated_bytes(place), saving_ns=saved_ns
        )

    @property
    def facts(self) -> Mapping[str, Json]:
        return {**self._arm.facts, "start": self._before.start, "saved_bytes": self._before.saved_bytes}

    @property
    def accelerator(self) -> str | None:
        return self._arm.accelerator

    def launch(self, trial_id: str) -> Instance:
        instance = self._arm.restore(self._template, self._place / "state", self._form, trial_id)
        requested = next(mark for mark in instance.marks if mark.milestone == REQUESTED)
        return Woken(instance, requested.at_ns, self._before, again=True)

    def close(self) -> None:
        """Remove what the saved instance was made of."""
        self._template.stop(time.monotonic_ns())
