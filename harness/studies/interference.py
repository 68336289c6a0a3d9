"""How much of its work a sandbox keeps while another one beside it takes all it can: CPU, memory, processes.

In each trial both are fresh, and each window beside the antagonist lies between two quiet ones. The two quiet windows
against each other are the control (A/A): what differs no more than they do is not distinguishable.
"""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from harness.errors import HarnessError
from harness.interfaces import Capability, Emit, Instance, Json, RunContext, Study, StudyArm
from harness.loading.cpu_time import Meter
from harness.model.fields import Strict
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import Limits
from harness.studies import _pair

KINDS = ("cpu", "memory", "fork")
_DO = {"cpu": "integer loops", "memory": "random reads of 64 MiB", "fork": "forks and waits"}
_BY = {"cpu": "two spinners a CPU", "memory": "one that writes 64 MiB again and again", "fork": "up to 3000 forks"}
WARM_MS = 300
_WINDOW_MS_MAX = 3000  # the programs inside end by themselves after 10 s


def _kept(kind: str) -> Metric:
    doc = f"{_DO[kind]} per second beside {_BY[kind]}, of those in quiet windows before and after"
    return Metric(f"interference.{kind}.kept", Unit.RATIO, Better.HIGHER, doc)


def _same(kind: str) -> Metric:
    doc = f"A/A control of interference.{kind}.kept: the later quiet window against the earlier one"
    return Metric(f"interference.{kind}.aa", Unit.RATIO, Better.NEITHER, doc)


KEPT, SAME = {kind: _kept(kind) for kind in KINDS}, {kind: _same(kind) for kind in KINDS}
LATE = Metric("interference.wakeup.p99", Unit.NS, Better.LOWER, "how late a sleep of 1 ms ends beside spinners, p99")
LATE_QUIET = Metric("interference.wakeup.quiet", Unit.NS, Better.LOWER, "the same with nothing beside it")
FAIR = Metric("interference.fairness", Unit.RATIO, Better.HIGHER,
              "Jain's index of the work of both when both take all they can: 1 equal, 0.5 one has all")  # fmt: skip
USED = Metric("interference.cpu.used", Unit.RATIO, Better.NEITHER,
              "CPU time of the host that the spinners took, of what their limit allows in that time")  # fmt: skip
METRICS = (
    KEPT["cpu"],
    KEPT["memory"],
    KEPT["fork"],
    SAME["cpu"],
    SAME["memory"],
    SAME["fork"],
    LATE,
    LATE_QUIET,
    FAIR,
    USED,
)


class Options(Strict):
    """What is run, and how long each window lasts."""

    image: str = Field(default="busybox", description="image of the local store")
    window_ms: int = Field(default=700, ge=100, le=_WINDOW_MS_MAX, description="length of each window, in ms")


class ArmOptions(Strict):
    """One runtime that is disturbed, and what stands beside it."""

    backend: str = Field(description="what the disturbed one runs in")
    options: Mapping[str, Any] = Field(default={}, description="options of that backend")
    beside: str | None = Field(default=None, description="backend of the antagonist; the same where it is left out")
    mode: Literal["default", "limited"] = Field(
        default="limited", description="default: no limit but the host's CPUs; limited: half a CPU each"
    )


@dataclass
class InterferenceArm:
    """One runtime beside another."""

    pair: _pair.Pair
    window_ms: int
    cpus: float
    facts: Mapping[str, Json]
    accelerator: str | None

    def measure(self, trial_id: str, emit: Emit) -> None:
        with self.pair.started(trial_id) as (victim, other):
            for kind in KINDS:
                self._one(kind, victim, other, emit)
            self._late(victim, other, emit)
            self._fair(victim, other, emit)

    def _rate(self, victim: Instance, kind: str) -> float:
        done, took_ns = _pair.ask(victim, "victim", kind, str(self.window_ms), bound_ms=self.window_ms)
        return done / took_ns * 1e9

    def _one(self, kind: str, victim: Instance, other: Instance, emit: Emit) -> None:
        before = self._rate(victim, kind)
        spent = _Spent(other, self.cpus)
        with _Beside(other, kind, self.window_ms) as antagonist:
            during = self._rate(victim, kind)
            if kind == "cpu":
                emit(spent.measured())
        after = self._rate(victim, kind)
        quiet = statistics.fmean((before, after))
        if min(before, after) <= 0:
            for metric in (KEPT[kind], SAME[kind]):
                emit(Absent(metric, "nothing was done in a quiet window: it is too short here"))
            return
        made, refused = antagonist.result
        emit(Measurement(KEPT[kind], during / quiet, {"antagonist_did": str(made), "antagonist_refused": str(refused)}))
        emit(Measurement(SAME[kind], after / before))

    def _late(self, victim: Instance, other: Instance, emit: Emit) -> None:
        words = ("victim", "wakeup", str(self.window_ms))
        _, quiet_ns, _ = _pair.ask(victim, *words, bound_ms=self.window_ms)
        with _Beside(other, "cpu", self.window_ms):
            _, late_ns, count = _pair.ask(victim, *words, bound_ms=self.window_ms)
        emit(Measurement(LATE, late_ns, {"sleeps": str(count)}))
        emit(Measurement(LATE_QUIET, quiet_ns))

    def _fair(self, victim: Instance, other: Instance, emit: Emit) -> None:
        """Both at once for the same window; the one that is asked first begins a little earlier."""
        with _Beside(other, "cpu", self.window_ms, warm_ms=0) as antagonist:
            mine, _ = press(victim, "cpu", self.window_ms)
        emit(Measurement(FAIR, jain((mine, antagonist.result[0]))))

    def close(self) -> None:
        self.pair.close()


def jain(shares: Sequence[float]) -> float:
    """Return Jain's fairness index (R. Jain, D. Chiu, W. Hawe, DEC-TR-301, 1984): 1 for equal shares, 1/n for one."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def press(instance: Instance, kind: str, milliseconds: int) -> tuple[int, int]:
    """Have an instance disturb for so long; return what it got done, and what it was refused."""
    spinners = 2 * (os.cpu_count() or 1)
    made, refused = _pair.ask(instance, "press", kind, str(milliseconds), str(spinners), bound_ms=milliseconds)
    return made, refused


class _Beside:
    """A block during which the other instance disturbs: begun before it, and outliving it."""

    def __init__(self, other: Instance, kind: str, window_ms: int, *, warm_ms: int = WARM_MS) -> None:
        self._other, self._kind, self._warm_ms = other, kind, warm_ms
        self._milliseconds = window_ms + 2 * warm_ms
        self._error: HarnessError | None = None
        self.result = (0, 0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.result = press(self._other, self._kind, self._milliseconds)
        except HarnessError as error:
            self._error = error

    def __enter__(self) -> _Beside:
        self._thread.start()
        time.sleep(self._warm_ms / 1000)
        return self

    def __exit__(self, kind: object, _error: object, _trace: object) -> None:
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error


class _Spent:
    """The host's CPU time of an instance from now on, against what it may have."""

    def __init__(self, instance: Instance, cpus: float) -> None:
        self._cpus = math.ceil(cpus) if instance.boundary == "vm" else cpus
        self._meter = Meter(instance.pids)
        self._at_ns, self._cpu_ns = time.monotonic_ns(), self._meter.read_ns()

    def measured(self) -> Measurement | Absent:
        now_ns, cpu_ns = time.monotonic_ns(), self._meter.read_ns()
        if cpu_ns is None or self._cpu_ns is None:
            return Absent(USED, "its CPU time cannot be told here")
        ratio = (cpu_ns - self._cpu_ns) / ((now_ns - self._at_ns) * self._cpus)
        return Measurement(USED, ratio, {"allowed_cpus": f"{self._cpus:g}"})


class InterferenceStudy:
    name = "interference"
    doc = "how much of its work a sandbox keeps while another beside it takes all the CPU, memory or processes it can"
    options = Options
    arm_options = ArmOptions
    metrics = METRICS
    backends = _pair.BACKENDS

    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        names = [(arm_options.backend, arm_options.options)]
        if arm_options.beside:
            names.append((arm_options.beside, {}))
        return _pair.needs(tuple(names), options.image)

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> StudyArm:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        limits = limits_of(arm_options.mode)
        watched = (arm_options.backend, arm_options.options)
        beside = (arm_options.beside, {}) if arm_options.beside else watched
        pair = _pair.prepare(arm, options.image, limits, watched, beside, context)
        facts: dict[str, Json] = {
            **pair.watched.facts, "mode": arm_options.mode, "beside": beside[0], "cpus": limits.cpus,
            "memory_bytes": limits.memory_bytes, "pids": limits.pids,
        }  # fmt: skip
        return InterferenceArm(pair, options.window_ms, limits.cpus, facts, pair.watched.accelerator)


def limits_of(mode: str) -> Limits:
    """Return the same limits for both; processes and memory are bounded in every mode, for the host's sake."""
    cpus = 0.5 if mode == "limited" else float(os.cpu_count() or 1)
    return Limits(cpus=cpus, memory_bytes=256 << 20, pids=64)


PLUGIN: Study = InterferenceStudy()
