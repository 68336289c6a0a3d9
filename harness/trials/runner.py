"""The loop of a run: block after block until the plan or a stop rule says that it is enough.

Every finished trial is on disk before the next one starts, so that nothing is lost by Ctrl-C, a crash or a full disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.analysis.identity import differences
from harness.analysis.statistics import decide
from harness.errors import RunFailed
from harness.model.records import TrialRecord, TrialSpec
from harness.model.units import format_ns
from harness.trials.ledger import Progress
from harness.trials.planner import Plan

GIVE_UP_AFTER = 2
"""A runtime whose first trials all failed is not tried further: its failure would only be repeated. Others go on."""
FAILURE_TOLERANCE_RATIO = 0.1
"""More failed trials than this in any runtime, and the run does not count as a measurement (exit code 4)."""
CHECK_EVERY_BLOCKS = 5
"""Looking at the interval after every block would stop some runs by chance."""


class Observer(Protocol):
    """Whoever shows a run to people. Nothing of it is called between `requested` and `ready`."""

    def phase(self, spec: TrialSpec, phase: str) -> None: ...
    def finished(self, record: TrialRecord, done: int, total: int) -> None: ...


class Journal(Protocol):
    """Where finished trials go (`harness.results.store.RunDirectory`)."""

    def append(self, record: TrialRecord) -> None: ...
    def log_dir(self, trial_id: str) -> Path: ...


class Contender(Protocol):
    """One arm of a run, prepared: a runtime that is started, or an arm of a study. `timeout_ns` None: it has no one."""

    @property
    def timeout_ns(self) -> int | None: ...
    def run(self, spec: TrialSpec, log_dir: Path, progress: Progress) -> TrialRecord:
        """Make one trial; return its record, also of a failed one."""
        ...


@dataclass(frozen=True, slots=True)
class Stopping:
    """When enough is known: `metrics` are those that decide, in every contrast of the plan."""

    metrics: tuple[str, ...]
    margin: float
    precision: float
    budget_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that a run needs besides its plan."""

    contenders: Mapping[str, Contender]
    journal: Journal
    observer: Observer


def measure(plan: Plan, bench: Bench, stopping: Stopping, records: Sequence[TrialRecord] = ()) -> str:
    """Run what `records` (of an interrupted run) does not hold yet; return why it ended.

    Raises: RunFailed when arms do not run the same thing, or a runtime cannot be started.
    """
    done = list(records)
    lost: set[str] = set()  # a resumed run tries them once more
    deadline_ns = None if stopping.budget_ns is None else time.monotonic_ns() + stopping.budget_ns
    for block in _blocks(plan, done):
        begun_ns, missing = time.monotonic_ns(), _missing(plan, block, records)
        for spec in missing:
            if spec.runtime in lost:
                continue
            done.append(_one(spec, bench, done, max(len(plan.trials), (block + 1) * len(plan.runtimes))))
            if spec.runtime in given_up(done):
                lost.add(spec.runtime)
                _refuse_lost(plan, done, spec.runtime, bench)
        reason = _after_block(plan, block, done, stopping)
        if reason:
            return reason
        counted = block + 1 - plan.warmup_blocks
        end_of_next_ns = 2 * time.monotonic_ns() - begun_ns
        if missing and counted >= 1 and deadline_ns is not None and end_of_next_ns > deadline_ns:
            return f"the time budget was used up after {count(counted, 'block')}"
    return _all_ran(plan, done)


def settled(plan: Plan, stopping: Stopping, records: Sequence[TrialRecord]) -> str | None:
    """Return why a run with these records needs no further trial; None where something is left to measure.

    Raises: RunFailed when they show that the arms do not run the same thing.
    """
    for block in _blocks(plan, records):
        if _missing(plan, block, records):
            return None
        reason = _after_block(plan, block, records, stopping)
        if reason:
            return reason
    return _all_ran(plan, records)


def _blocks(plan: Plan, done: Sequence[TrialRecord]) -> Iterator[int]:
    """Yield the planned blocks, then one more for each of them that the host disturbed; `done` grows meanwhile.

    Disturbed blocks count like all others: to drop what looks bad would bias the result.
    """
    yield from range(plan.block_count)
    yield from range(plan.block_count, plan.block_count + queued_blocks(plan, done))


def queued_blocks(plan: Plan, done: Sequence[TrialRecord]) -> int:
    """Return how many blocks were queued for noisy ones. Those themselves queue no more."""
    planned = range(plan.warmup_blocks, plan.block_count)
    noisy = {record.spec.block for record in done if record.noise.flags and record.spec.block in planned}
    return min(len(noisy), plan.extra_blocks)


def _all_ran(plan: Plan, done: Sequence[TrialRecord]) -> str:
    extra = queued_blocks(plan, done)
    more = f", {extra} of them for noisy ones" if extra else ""
    return f"all {count(plan.max_blocks + extra, 'block')} ran{more}"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _missing(plan: Plan, block: int, records: Sequence[TrialRecord]) -> list[TrialSpec]:
    known = {record.spec.trial_id for record in records if record.spec.block == block}
    return [spec for spec in plan.block_trials(block) if spec.trial_id not in known]


def given_up(records: Sequence[TrialRecord]) -> set[str]:
    """Return the runtimes whose first trials all failed: no further ones are made of them; the others go on."""
    own: dict[str, list[bool]] = {}
    for record in records:
        own.setdefault(record.spec.runtime, []).append(record.status == "ok")
    return {runtime for runtime, worked in own.items() if len(worked) >= GIVE_UP_AFTER and not any(worked)}


def _after_block(plan: Plan, block: int, done: Sequence[TrialRecord], stopping: Stopping) -> str | None:
    """Return why to stop after this block. Later records are left out, so that a resumed run decides as it would have.

    Raises: RunFailed for arms that are not identical.
    """
    so_far = [record for record in done if record.spec.block <= block]
    first = next((record.spec.block for record in so_far if record.status == "ok"), block)
    # The blocks between were held against the first when they ended: to do it again would take longer with each.
    _refuse_different_arms([record for record in so_far if record.spec.block in {first, block}])
    return _enough(plan, block, so_far, stopping)


def _one(spec: TrialSpec, bench: Bench, done: Sequence[TrialRecord], total: int) -> TrialRecord:
    log_dir = bench.journal.log_dir(spec.trial_id)
    record = bench.contenders[spec.runtime].run(spec, log_dir, bench.observer.phase)
    bench.journal.append(record)
    bench.observer.finished(record, len(done) + 1, total)
    return record


def _refuse_lost(plan: Plan, done: Sequence[TrialRecord], runtime: str, bench: Bench) -> None:
    """Raise RunFailed when nothing is left to compare: the control was given up, or all that is compared with it."""
    lost = given_up(done)
    if plan.control not in lost and lost | {plan.control} != {name for name, _ in plan.runtimes}:
        return
    own = [record for record in done if record.spec.runtime == runtime]
    logs = bench.journal.log_dir(own[-1].spec.trial_id)
    raise RunFailed(
        f"{runtime}: its first {len(own)} trials failed: {own[-1].error}",
        hint=_advice(own[-1], bench.contenders[runtime].timeout_ns, logs),
    )


def _advice(record: TrialRecord, timeout_ns: int | None, logs: Path) -> str:
    """Return what helps against a failure that repeats itself."""
    where = f"what it wrote is in {logs}" if logs.is_dir() and any(logs.iterdir()) else "it left no output"
    if record.status == "timeout" and timeout_ns is not None:
        return f"it got {format_ns(timeout_ns)} (workload.timeout); {where}"
    if (record.error or "").startswith("agent: exec:"):
        return "the image lacks this program, or the interpreter (#!) or loader that it names: see workload.argv"
    return where


def _refuse_different_arms(done: Sequence[TrialRecord]) -> None:
    found = differences(done)
    if found:
        raise RunFailed(
            f"arms are not identical: {found[0]}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""),
            hint="only identical workloads are compared: the same root tree, program, arguments, environment and user",
        )


def _enough(plan: Plan, block: int, done: Sequence[TrialRecord], stopping: Stopping) -> str | None:
    """Return why to stop after this block, None to go on. Never asks whether a difference is significant."""
    counted = block + 1 - plan.warmup_blocks
    if counted < plan.min_blocks or (counted - plan.min_blocks) % CHECK_EVERY_BLOCKS:
        return None
    found = (_paired(done, runtime, base, metric) for runtime, base in plan.contrasts for metric in stopping.metrics)
    contrasts = [pairs for pairs in found if pairs]  # what a runtime has no value of will have none later either
    pending = [pairs for pairs in contrasts if decide(pairs, stopping.margin, stopping.precision) == "more"]
    return None if pending or not contrasts else f"every contrast is decided after {count(counted, 'block')}"


def _paired(done: Sequence[TrialRecord], runtime: str, base: str, metric: str) -> list[float]:
    """Return runtime/base of one metric for every counted block in which both have it."""
    values: dict[tuple[str, int], float] = {
        (record.spec.runtime, record.spec.block): record.metrics[metric].value
        for record in done
        if record.status == "ok" and not record.spec.warmup and metric in record.metrics
    }
    blocks = sorted({block for name, block in values if name == runtime})
    return [
        values[runtime, block] / values[base, block]
        for block in blocks
        if values.get((base, block), 0) > 0 and values[runtime, block] > 0
    ]


def has_complete_block(plan: Plan, records: Sequence[TrialRecord]) -> bool:
    """Return whether some block that counts has a succeeded trial of every runtime: then there is a comparison.

    Runtimes that were given up are not waited for, unless all that is left is one.
    """
    lost = given_up(records)
    if len(lost) >= len(plan.runtimes) - 1:
        lost = set()
    ok = {record.spec.trial_id for record in records if record.status == "ok"}
    blocks = range(plan.warmup_blocks, plan.block_count + plan.extra_blocks)
    return any(
        all(spec.trial_id in ok for spec in plan.block_trials(block) if spec.runtime not in lost) for block in blocks
    )


def beyond_tolerance(records: Sequence[TrialRecord]) -> list[str]:
    """Return one line for each runtime of which too many trials failed, to end the run with exit code 4."""
    lines = []
    for runtime in dict.fromkeys(record.spec.runtime for record in records):
        own = [record for record in records if record.spec.runtime == runtime]
        failed = [record for record in own if record.status != "ok"]
        if len(failed) > FAILURE_TOLERANCE_RATIO * len(own):
            lines.append(f"{runtime}: {len(failed)} of {count(len(own), 'trial')} failed: {failed[0].error}")
    return lines
