"""What happens when a sandbox breaks: does it stay in there? A neighbour's heart beats meanwhile.

Each fault is bounded before it begins, and happens in an instance that this study made. A kernel panic is caused only
where the boot id inside has proven that the kernel is not the host's; the program inside checks that once more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from harness.errors import HarnessError, TrialError
from harness.interfaces import Capability, Emit, Instance, Json, RunContext, Study, StudyArm
from harness.model.fields import Strict
from harness.model.metrics import Absent, Assume, Better, Measurement, Metric, Unit
from harness.model.spec import Limits
from harness.studies import _pair

LIMITS = Limits(cpus=1, memory_bytes=128 << 20, pids=64)
OVER_BYTES = 256 << 20
GAP_NS_MAX = 1_000_000_000
"""A neighbour that once was still for longer than this, and than five of its quiet gaps, was disturbed."""
_GONE_NS = 10_000_000_000
FAULTS = {
    "memory": "a child takes 256 MiB under a limit of 128 MiB: it alone is killed",
    "processes": "as many processes as it can get under a limit of 64: further ones are refused",
    "disk": "256 MiB written to its root: refused when what it may have is full",
    "panic": "the kernel is made to panic, where it is proven not to be the host's: the sandbox ends",
    "killed": "the process between it and the host (VMM, or its first process) is killed: nothing of it is left",
}


def _contained(fault: str) -> Metric:
    doc = f"{FAULTS[fault]}; the neighbour's heart goes on beating"
    return Metric(f"containment.{fault}", Unit.BOOL, Better.HIGHER, doc, Assume.EXACT)


def _gap(fault: str) -> Metric:
    doc = f"longest silence of the neighbour from before {fault} to seconds after; a beat is 20 ms"
    return Metric(f"containment.gap.{fault}", Unit.NS, Better.LOWER, doc)


HELD = Metric("containment.held", Unit.COUNT, Better.HIGHER, "faults that were contained, of those tried", Assume.EXACT)
CONTAINED, GAP = {fault: _contained(fault) for fault in FAULTS}, {fault: _gap(fault) for fault in FAULTS}
QUIET = Metric("containment.gap.quiet", Unit.NS, Better.LOWER, "the same with no fault at all: the control")
DETECTED = Metric("containment.panic.detected", Unit.NS, Better.LOWER, "from the panic until its processes have ended")
METRICS = (HELD, *CONTAINED.values(), QUIET, *GAP.values(), DETECTED)


class Options(Strict):
    """What is run."""

    image: str = Field(default="busybox", description="image of the local store")
    beat_ms: int = Field(
        default=3000, ge=400, le=10_000, description="how long the neighbour's heart beats around each fault, in ms"
    )


class ArmOptions(Strict):
    """One runtime whose sandboxes break."""

    backend: str = Field(description="what it runs in")
    options: Mapping[str, Any] = Field(default={}, description="options of that backend")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a fault ended as it should, and what was seen."""

    as_expected: bool
    seen: str


def _memory(instance: Instance) -> Outcome:
    said = instance.exec(["harness:probe", "fault", "memory", str(OVER_BYTES)], _GONE_NS)
    text = said.stdout.decode("ascii", "replace").strip() or f"ended with {said.returncode}"
    alive = instance.exec(["harness:probe", "nothing"], _GONE_NS).returncode == 0
    return Outcome(text == "killed 9" and alive, f"child {text}, sandbox {'alive' if alive else 'dead'}")


def _processes(instance: Instance) -> Outcome:
    made, why = _pair.ask(instance, "fault", "processes", "0", bound_ms=10_000)
    expected = why == errno.EAGAIN and made < LIMITS.pids
    return Outcome(expected, f"{made} processes, then {errno.errorcode.get(why, 'no refusal')}")


def _disk(instance: Instance) -> Outcome:
    said = instance.exec(["harness:probe", "fault", "disk", str(OVER_BYTES)], 2 * _GONE_NS)
    if said.returncode:  # a root in memory takes the sandbox's own, and whoever writes there is killed for it
        alive = instance.exec(["harness:probe", "nothing"], _GONE_NS).returncode == 0
        return Outcome(alive, f"the writer ended with {said.returncode}, sandbox {'alive' if alive else 'dead'}")
    written, why = map(int, said.stdout.split())
    full = why in {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
    return Outcome(full, f"{written >> 20} MiB, then {errno.errorcode.get(why, 'no refusal')}")


def _living(pids: Sequence[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in {"Z", "X"}:
                found.append(pid)
    return found


def _gone(pids: Sequence[int]) -> bool:
    end_ns = time.monotonic_ns() + _GONE_NS
    while _living(pids) and time.monotonic_ns() < end_ns:
        time.sleep(0.005)
    return not _living(pids)


def _panic(instance: Instance) -> Outcome:
    """The exec never answers: the kernel that ran it is gone."""
    host = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    pids = instance.pids()
    words = ""
    try:
        said = instance.exec(["harness:probe", "fault", "panic", host], _GONE_NS)
        words = f"; the program inside ended with {said.returncode}"
    except TrialError:
        pass
    gone = _gone(pids)
    console = b"Kernel panic" in instance.console()
    words += "; its console says: Kernel panic" if console else "; its console says nothing of it"
    return Outcome(gone and console, f"{'its processes have ended' if gone else 'still there'}{words}")


def _killed(instance: Instance) -> Outcome:
    pids = instance.pids()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pids[0], signal.SIGKILL)
    gone = _gone(pids)
    return Outcome(gone, "nothing left" if gone else f"left: {len(_living(pids))} processes")


LIVES_ON: Mapping[str, Callable[[Instance], Outcome]] = {"memory": _memory, "processes": _processes, "disk": _disk}
ENDS: Mapping[str, Callable[[Instance], Outcome]] = {"panic": _panic, "killed": _killed}


def own_kernel(instance: Instance) -> bool:
    """Return whether an instance is a VM whose kernel was proven, by its boot id, not to be the host's."""
    inside = instance.inside().get("boot_id")
    host = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return instance.boundary == "vm" and isinstance(inside, str) and len(inside) == len(host) and inside != host


class _Heart:
    """The neighbour's longest silence during a block and until its beating ends."""

    def __init__(self, neighbour: Instance, beat_ms: int) -> None:
        self._neighbour, self._beat_ms = neighbour, beat_ms
        self._said: list[int] = []
        self._error: HarnessError | None = None
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        try:
            self._said = _pair.ask(self._neighbour, "victim", "beat", str(self._beat_ms), bound_ms=self._beat_ms)
        except HarnessError as error:
            self._error = error

    def __enter__(self) -> _Heart:
        self._thread.start()
        time.sleep(0.3)  # some beats before the fault
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    @property
    def gap_ns(self) -> int | None:
        """None where the neighbour has died."""
        return self._said[0] if self._said and self._error is None else None


@dataclass
class ContainmentArm:
    """One runtime."""

    pair: _pair.Pair
    beat_ms: int
    facts: Mapping[str, Json]
    accelerator: str | None
    took_ns: int = 0

    def measure(self, trial_id: str, emit: Emit) -> None:
        verdicts: list[bool] = []
        with self.pair.started(trial_id) as (broken, neighbour):
            with _Heart(neighbour, self.beat_ms) as heart:
                pass
            quiet_ns = heart.gap_ns
            if quiet_ns is None:
                raise TrialError("the neighbour did not answer with nothing beside it")
            emit(Measurement(QUIET, quiet_ns))
            for fault, cause in LIVES_ON.items():
                verdicts.append(self._one(fault, cause, broken, neighbour, quiet_ns, emit))
            for fault, cause in ENDS.items():
                if fault == "panic" and not own_kernel(broken):
                    reason = "shared kernel: a panic here would be the host's, so it is never tried"
                    for metric in (CONTAINED["panic"], GAP["panic"], DETECTED):
                        emit(Absent(metric, reason))
                    continue
                with self._other(f"{trial_id}-{fault[0]}") as instance:
                    verdicts.append(self._one(fault, cause, instance, neighbour, quiet_ns, emit))
                    if fault == "panic":
                        emit(Measurement(DETECTED, self.took_ns))
        emit(Measurement(HELD, sum(verdicts), {"of": str(len(verdicts))}))

    def _one(
        self, fault: str, cause: Callable[[Instance], Outcome], broken: Instance, neighbour: Instance, quiet_ns: int,
        emit: Emit,
    ) -> bool:  # fmt: skip
        with _Heart(neighbour, self.beat_ms) as heart:
            started_ns = time.monotonic_ns()
            outcome = cause(broken)
            self.took_ns = time.monotonic_ns() - started_ns
        gap_ns = heart.gap_ns
        still = gap_ns is not None and gap_ns <= max(GAP_NS_MAX, 5 * quiet_ns)
        emit(Measurement(GAP[fault], gap_ns) if gap_ns is not None else Absent(GAP[fault], "the neighbour died"))
        held = outcome.as_expected and still
        emit(Measurement(CONTAINED[fault], int(held), {"seen": outcome.seen}))
        return held

    @contextlib.contextmanager
    def _other(self, trial_id: str) -> Iterator[Instance]:
        """An instance that shall end before it is asked to: that its end is then a failure is what was wanted."""
        with contextlib.ExitStack() as cleanup:
            instance = _pair.start(self.pair.watched, trial_id, cleanup)
            try:
                yield instance
            finally:
                cleanup.pop_all()
                with contextlib.suppress(TrialError):
                    instance.stop(time.monotonic_ns() + _GONE_NS)

    def close(self) -> None:
        self.pair.close()


class ContainmentStudy:
    name = "containment"
    doc = "whether what breaks in a sandbox stays in it: memory, processes, disk, a kernel panic, its monitor killed"
    options = Options
    arm_options = ArmOptions
    metrics = METRICS
    backends = _pair.BACKENDS

    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        return _pair.needs(((arm_options.backend, arm_options.options),), options.image)

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> StudyArm:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        both = (arm_options.backend, arm_options.options)
        pair = _pair.prepare(arm, options.image, LIMITS, both, both, context)
        return ContainmentArm(pair, options.beat_ms, pair.watched.facts, pair.watched.accelerator)


PLUGIN: Study = ContainmentStudy()
