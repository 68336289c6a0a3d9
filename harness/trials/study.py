"""One trial of a study: measure, nothing to start and to stop. The counterpart of `harness.trials.trial`."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, TrialError
from harness.host.noise import Sampler
from harness.interfaces import StudyArm
from harness.model.metrics import Metric
from harness.model.records import TrialRecord, TrialSpec
from harness.trials.ledger import Ledger, Outcome, Progress, now


@dataclass(frozen=True, slots=True)
class StudyContender:
    """One prepared arm of a study, measured once a trial. What bounds its time is the study's own matter."""

    arm: StudyArm
    metrics: Sequence[Metric]
    disturbs: frozenset[str]
    timeout_ns: int | None = None

    def run(self, spec: TrialSpec, log_dir: Path, progress: Progress) -> TrialRecord:
        """Return the record of one trial; what our own code or the system refused in it becomes its reason."""
        ledger, outcome = Ledger(), Outcome()
        progress(spec, "starting")
        gc.collect()  # what earlier trials left is not collected at this one's cost
        started, sampler = now(), Sampler(own=self.disturbs)
        try:
            self.arm.measure(spec.trial_id, ledger.emit)
        except HarnessError as error:
            outcome.fail(error if isinstance(error, TrialError) else TrialError(error.message))
        except OSError as error:
            outcome.fail(TrialError(str(error)))
        failed = outcome.status != "ok"
        reason = "not measured: the trial failed before" if failed else "the study did not tell"
        ledger.complete(self.metrics, reason)
        return TrialRecord(
            spec=spec,
            status=outcome.status,
            started=started,
            error=outcome.error,
            ending=outcome.ending,
            accelerator=self.arm.accelerator,
            metrics=ledger.values,
            absent=ledger.absent,
            noise=sampler.finish(),
        )
