"""A study without a machine: every arm says the numbers that its options hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import TrialError
from harness.interfaces import Capability, Emit, Json, RunContext
from harness.model.fields import Strict, Strings
from harness.model.metrics import Absent, Assume, Better, Measurement, Metric, Unit

TOOK = Metric("fake.took", Unit.NS, Better.LOWER, "as the arm's options say")
FILES = Metric("fake.files", Unit.COUNT, Better.NEITHER, "as the arm's options say", Assume.EXACT)


class Options(Strict):
    lacks: Strings = ()


class ArmOptions(Strict):
    took_ns: int | None = None
    files: int = 1
    fails: str = ""


@dataclass
class FakeStudyArm:
    options: ArmOptions
    facts: Mapping[str, Json] = field(default_factory=lambda: {"version": "1"})
    accelerator: str | None = None
    closed: bool = False

    def measure(self, trial_id: str, emit: Emit) -> None:
        if self.options.fails:
            raise TrialError(self.options.fails)
        took = self.options.took_ns
        emit(Absent(TOOK, "not installed here") if took is None else Measurement(TOOK, took))
        emit(Measurement(FILES, self.options.files, {"trial": trial_id}))

    def close(self) -> None:
        self.closed = True


class FakeStudy:
    name = "fake"
    doc = "what the options say"
    options = Options
    arm_options = ArmOptions
    metrics = (TOOK, FILES)
    backends = ()
    disturbs: frozenset[str] = frozenset()

    def needs(self, options: Options, arm_options: ArmOptions) -> Sequence[Capability]:
        return [Capability(name, available=False, reason="it is not there") for name in options.lacks]

    def prepare(self, arm: str, options: Options, arm_options: ArmOptions, context: RunContext) -> FakeStudyArm:
        (context.work / arm).mkdir(parents=True)
        return FakeStudyArm(arm_options)


PLUGIN = FakeStudy()
