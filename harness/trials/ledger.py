"""What one trial has to say: its measurements, its end, when it began. The same for a start and for a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from harness.errors import TrialError, TrialTimeout
from harness.model.metrics import Absent, Measurement, Metric
from harness.model.records import Attestation, MetricValue, Status, TrialSpec

STREAMS = ("stderr", "stdout", "console")
Progress = Callable[[TrialSpec, str], None]
"""Called when a trial enters a phase: starting, ready, stopping. Not between `requested` and `ready`."""


@dataclass(slots=True)
class Ledger:
    """What was measured so far. The first word on a metric stands; a second one is a bug of the probe or study."""

    values: dict[str, MetricValue] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def emit(self, item: Measurement | Absent) -> None:
        name = item.metric.name
        if name in self.values or name in self.absent:
            raise AssertionError(f"{name}: emitted twice in one trial")
        if isinstance(item, Absent):
            self.absent[name] = item.reason
        else:
            self.values[name] = MetricValue(item.value, item.metric.unit.value, dict(item.labels))

    def complete(self, metrics: Iterable[Metric], reason: str) -> None:
        """Every metric has a value or a reason: nothing is missing without a word."""
        for metric in metrics:
            if metric.name not in self.values:
                self.absent.setdefault(metric.name, reason)


@dataclass(slots=True)
class Outcome:
    status: Status = "ok"
    error: str | None = None
    ending: str | None = None
    attestation: Attestation | None = None

    def fail(self, error: TrialError) -> None:
        if self.status == "ok":  # the first failure is the cause, later ones its consequences
            self.status = "timeout" if isinstance(error, TrialTimeout) else "failed"
            self.error = _with_hint(error)
            self.ending = error.ending


def _with_hint(error: TrialError) -> str:
    """Return what a record says of an error. Hints that only quote the instance's streams are told from these."""
    quotes = error.hint is None or error.hint.startswith(tuple(f"{name}: " for name in STREAMS))
    return error.message if quotes else f"{error.message} ({error.hint})"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say_nothing(_spec: TrialSpec, _phase: str) -> None:
    """Tell nobody of a trial's phases."""
