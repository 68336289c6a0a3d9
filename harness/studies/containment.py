"""When a sandbox breaks, does it stay in there? A neighbour's heart beats meanwhile, the host's log is read.

Each fault is bounded before it begins, and happens in an instance that this study made. A kernel panic is caused only
where the boot id inside has proven that the kernel is not the host's; the program inside checks that once more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from harness.errors import TrialError
from harness.host.noise import CPU_PRESSURE, LOAD
from harness.interfaces import Capability, Emit, Instance, Json, RunContext, Study, StudyArm
from harness.model.fields import Strict, to_tuple
from harness.model.metrics import Absent, Assume, Better, Measurement, Metric, Unit
from harness.studies import _pair
from harness.studies._faults import (
    ENDS,
    FAULTS,
    GONE_NS,
    LIMITS,
    LIVES_ON,
    Fault,
    Outcome,
    memory_group,
    oom_kills,
    refusal,
)
from harness.studies._heart import Heart
from harness.studies._host_watch import HostWatch, Told

GAP_NS_MAX = 1_000_000_000
"""A neighbour that once was still for longer than this, and than five of its quiet gaps, was disturbed."""


def _contained(fault: Fault) -> Metric:
    doc = f"{FAULTS[fault]}; the neighbour's heart goes on beating, the host's kernel says nothing"
    return Metric(f"containment.{fault}", Unit.BOOL, Better.HIGHER, doc, Assume.EXACT)


def _gap(fault: str) -> Metric:
    doc = f"longest silence of the neighbour from before {fault} to seconds after; a beat is 20 ms"
    return Metric(f"containment.gap.{fault}", Unit.NS, Better.LOWER, doc)


def _detected(fault: str) -> Metric:
    doc = f"from {fault} until its processes have ended, seen from the host"
    return Metric(f"containment.{fault}.detected", Unit.NS, Better.LOWER, doc)


HELD = Metric("containment.held", Unit.COUNT, Better.HIGHER, "faults that were contained, of those tried", Assume.EXACT)
CONTAINED, GAP = {fault: _contained(fault) for fault in FAULTS}, {fault: _gap(fault) for fault in FAULTS}
QUIET = Metric("containment.gap.quiet", Unit.NS, Better.LOWER, "the same with no fault at all: the control")
ENDING = tuple(fault for fault in ENDS if fault != "runtime")
DETECTED = {fault: _detected(fault) for fault in ENDING}
TROUBLE = Metric("containment.host.trouble", Unit.COUNT, Better.LOWER,
                 "what the host's kernel said that none may cause: kills beyond its group, bugs, stalls")  # fmt: skip
METRICS = (HELD, *CONTAINED.values(), QUIET, *GAP.values(), *DETECTED.values(), TROUBLE)
_SHORT: Mapping[Fault, str] = {fault: f"f{number}" for number, fault in enumerate(FAULTS)}
"""Of a fault in names of sockets, which must be short."""


class Options(Strict):
    """What is run."""

    image: str = Field(default="busybox", description="image of the local store")
    beat_ms: int = Field(
        default=2000, ge=200, le=10_000, description="how long the neighbour's heart beats after each fault, in ms"
    )
    faults: Annotated[tuple[Fault, ...], BeforeValidator(to_tuple)] = Field(
        default=tuple(FAULTS), min_length=1, description="what is broken"
    )


class ArmOptions(Strict):
    """One runtime whose sandboxes break."""

    backend: str = Field(description="what it runs in")
    options: Mapping[str, Any] = Field(default={}, description="options of that backend")


class _Host:
    """The host's own words, where they may be read."""

    def __init__(self, own: str, neighbour: str) -> None:
        self.trouble: list[str] = []
        self.why = ""
        try:
            self._watch: HostWatch | None = HostWatch(own, neighbour)
        except OSError as error:
            self._watch, self.why = None, f"/dev/kmsg: {error.strerror}"

    def told(self) -> Told:
        told = self._watch.told() if self._watch else Told((), ())
        self.trouble += told.trouble
        return told

    def measured(self) -> Measurement | Absent:
        if self._watch is None:
            return Absent(TROUBLE, self.why)
        self._watch.close()
        labels = {"said": "; ".join(dict.fromkeys(self.trouble))} if self.trouble else {}
        return Measurement(TROUBLE, len(self.trouble), labels)


@dataclass
class _Trial:
    """What one trial has found so far."""

    neighbour: Instance
    beat_ms: int
    quiet_ns: int
    host: _Host
    emit: Emit
    verdicts: list[bool] = field(default_factory=list)

    def one(self, fault: Fault, cause: Callable[[Instance], Outcome], broken: Instance) -> None:
        """Cause one fault and say what came of it. Raises: TrialError."""
        before = oom_kills(broken)
        with _listening(broken) as monitor, Heart(self.neighbour, self.beat_ms) as heart:
            outcome = cause(broken)
        gap_ns, told = heart.gap_ns, self.host.told()
        still = gap_ns is not None and gap_ns <= max(GAP_NS_MAX, 5 * self.quiet_ns)
        self.emit(Measurement(GAP[fault], gap_ns) if gap_ns is not None else Absent(GAP[fault], "the neighbour died"))
        held = outcome.as_expected and still and not told.trouble
        labels = {"seen": outcome.seen, **_evidence(before, oom_kills(broken), told)}
        if monitor:
            labels["monitor"] = "; ".join(monitor)
        self.emit(Measurement(CONTAINED[fault], int(held), labels))
        if fault in DETECTED:
            lives = Absent(DETECTED[fault], f"it did not end: {outcome.seen}")
            self.emit(lives if outcome.gone_ns is None else Measurement(DETECTED[fault], outcome.gone_ns))
        self.verdicts.append(held)


def _listening(instance: Instance) -> contextlib.AbstractContextManager[list[str]]:
    """Return a block during which a VM's monitor fills the list; nothing fills it where there is none."""
    listening: Callable[[], contextlib.AbstractContextManager[list[str]]] | None = getattr(instance, "listening", None)
    return contextlib.nullcontext([]) if listening is None else listening()


def _evidence(before: int | None, after: int | None, told: Told) -> dict[str, str]:
    """Return what the host's kernel counted and said of a fault: the group's own kills, and its log."""
    found = []
    if before is not None and after is not None and after > before:
        found.append(f"its cgroup counts {after - before} killed for memory")
    if told.killed:
        found.append(f"the host's kernel killed in {', '.join(dict.fromkeys(told.killed))}")
    if told.trouble:
        found.append(f"the host's kernel: {'; '.join(told.trouble)}")
    return {"evidence": "; ".join(found)} if found else {}


def _never(fault: Fault, reason: str) -> list[Absent]:
    metrics = [CONTAINED[fault], GAP[fault], *([DETECTED[fault]] if fault in DETECTED else [])]
    return [Absent(metric, reason) for metric in metrics]


@dataclass
class ContainmentArm:
    """One runtime."""

    pair: _pair.Pair
    beat_ms: int
    faults: Sequence[Fault]
    token: str
    facts: Mapping[str, Json]
    accelerator: str | None

    def measure(self, trial_id: str, emit: Emit) -> None:
        with self.pair.started(trial_id) as (broken, neighbour):
            host = _Host(f"/harness-{self.token}", memory_group(neighbour))
            trial = _Trial(neighbour, self.beat_ms, self._quiet_ns(neighbour), host, emit)
            emit(Measurement(QUIET, trial.quiet_ns))
            for fault in FAULTS:
                why = refusal(fault, broken) if fault in self.faults else "not among the study's faults"
                if why is None:
                    self._one(fault, trial, broken, trial_id)
                else:
                    for absent in _never(fault, why):
                        emit(absent)
        emit(trial.host.measured())
        emit(Measurement(HELD, sum(trial.verdicts), {"of": str(len(trial.verdicts))}))

    def _one(self, fault: Fault, trial: _Trial, broken: Instance, trial_id: str) -> None:
        if fault in LIVES_ON:
            trial.one(fault, LIVES_ON[fault], broken)
            return
        with self._other(f"{trial_id}-{_SHORT[fault]}") as instance:
            trial.one(fault, ENDS[fault], instance)

    def _quiet_ns(self, neighbour: Instance) -> int:
        _pair.ask(neighbour, "victim", "beat", "1", bound_ms=1)  # the first one of a fresh guest reads the program in
        with Heart(neighbour, self.beat_ms) as heart:
            pass
        if heart.gap_ns is None:
            raise TrialError("the neighbour did not answer with nothing beside it")
        return heart.gap_ns

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
                    instance.stop(time.monotonic_ns() + GONE_NS)

    def close(self) -> None:
        self.pair.close()


class ContainmentStudy:
    name = "containment"
    doc = "whether what breaks in a sandbox stays in it: memory, processes, disk, its init, its kernel, its monitor"
    options = Options
    arm_options = ArmOptions
    metrics = METRICS
    backends = _pair.BACKENDS
    disturbs = frozenset({CPU_PRESSURE, LOAD})

    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        return _pair.needs(((arm_options.backend, arm_options.options),), options.image)

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> StudyArm:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        both = (arm_options.backend, arm_options.options)
        pair = _pair.prepare(arm, _pair.Ground(options.image, LIMITS), both, both, context)
        facts, accelerator = pair.watched.facts, pair.watched.accelerator
        return ContainmentArm(pair, options.beat_ms, options.faults, context.token, facts, accelerator)


PLUGIN: Study = ContainmentStudy()
