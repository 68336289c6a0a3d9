"""What people see while a run goes on: a live line on a terminal, plain lines in CI and files, nothing with --json."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self, TextIO

from harness.host.facts import describe
from harness.model.milestones import READY
from harness.model.records import MetricValue, RunRecord, TrialRecord, TrialSpec
from harness.report._tables import cell_text, format_value
from harness.trials.planner import Plan
from harness.trials.runner import count

UNKNOWN_WIDTH_COLUMNS = 80
"""Some terminals (a container's, an editor's) say that they are 0 columns wide."""
CTRL_C_COLUMNS = 2
"""A terminal echoes `^C` behind the line: were that to wrap, half of the line could not be cleared any more."""
BAR_COLUMNS = 10


class LiveObserver(AbstractContextManager["LiveObserver"], Protocol):
    """The runner's Observer, and what the command itself has to say. Everything goes to stderr."""

    def say(self, text: str) -> None: ...
    def start(self, directory: Path, record: RunRecord) -> None: ...
    def phase(self, spec: TrialSpec, phase: str) -> None: ...
    def finished(self, record: TrialRecord, done: int, total: int) -> None: ...


def header(plan: Plan, directory: Path, record: RunRecord) -> list[str]:
    """Return the lines that open a run: what, in which order, where to, and with which accelerator."""
    blocks = str(plan.max_blocks) if plan.min_blocks == plan.max_blocks else f"{plan.min_blocks}..{plan.max_blocks}"
    arms = count(len(plan.runtimes), "arm" if record.study else "runtime")
    lines = [
        f"{record.scenario}   {arms} x {blocks} block{'' if blocks == '1' else 's'}"
        f" (+{plan.warmup_blocks} warm-up)   seed {plan.seed}   control {plan.control}",
        *([f"cell      {cell_text(record)}"] if record.matrix else []),
        f"writing   {directory}",
        *(f"note: {warning}" for warning in record.warnings),
    ]
    for runtime, arm in record.arms.items():
        if isinstance(host := arm.get("host"), dict):
            lines.append(f"{runtime}   on {host.get('name')}: {describe(host)}")
        if arm.get("accelerator_reason"):
            lines.append(
                f"{runtime}   {arm.get('machine')}, accelerator {arm['accelerator']}: {arm['accelerator_reason']}"
            )
    return lines


def outcome(record: TrialRecord) -> str:
    """Return one trial's result in a few words."""
    if record.status != "ok":
        return f"{record.status}: {record.error}"
    return brief(record)


def brief(record: TrialRecord) -> str:
    """Return one trial's result in a word: its reason has been told."""
    if record.status != "ok":
        return record.status
    first = headline_value(record)
    return "ok" if first is None else format_value(first.value, first.unit)


def headline_value(record: TrialRecord) -> MetricValue | None:
    """Return what a trial measured first of all: its time to ready, or a study's first metric; None without any."""
    if record.spec.starts_instance:
        return MetricValue(record.marks[READY], "ns") if READY in record.marks else None
    return next(iter(record.metrics.values()), None)


class _Quiet:
    """For --json: nothing but the document and errors."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def start(self, directory: Path, record: RunRecord) -> None:
        pass

    def phase(self, spec: TrialSpec, phase: str) -> None:
        pass

    def finished(self, record: TrialRecord, done: int, total: int) -> None:
        pass


class _Lines(_Quiet):
    """One line when a block has ended, for logs; failures at once. What a resumed run has from before is `(before)`."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        self._plan = plan
        self._stream = stream
        self._block: dict[str, str] = {}

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def start(self, directory: Path, record: RunRecord) -> None:
        for line in header(self._plan, directory, record):
            self.say(line)

    def finished(self, record: TrialRecord, done: int, total: int) -> None:
        spec = record.spec
        self._block[spec.runtime] = brief(record)
        if record.status != "ok":
            self._stamped(f"{spec.trial_id} {outcome(record)}")
        if spec.trial_id == self._plan.block_trials(spec.block)[-1].trial_id:
            results = "   ".join(
                f"{name} {self._block.get(name, '(before)')}" for name, _backend in self._plan.runtimes
            )
            self._stamped(f"{self._name(spec)}   {results}")
            self._block = {}

    def _stamped(self, text: str) -> None:
        self.say(f"[{time.strftime('%H:%M:%S')}] {text}")

    def _name(self, spec: TrialSpec) -> str:
        if spec.warmup:
            return f"warm-up {spec.block + 1}/{self._plan.warmup_blocks}"
        number = spec.block - self._plan.warmup_blocks + 1
        extra = number > self._plan.max_blocks
        return f"block {number}, extra for a noisy one" if extra else f"block {number}/{self._plan.max_blocks}"


class _Terminal(_Lines):
    """One line that is rewritten between trials: never while one is being timed."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        super().__init__(plan, stream)
        self._seconds: list[float] = []
        self._trial_started = time.monotonic()
        self._progress: tuple[str, ...] = ()
        self._headline: dict[str, list[MetricValue]] = {}
        self._done_ratio = 0.0

    def __exit__(self, *_: object) -> None:
        self._clear()

    def _clear(self) -> None:
        self._stream.write("\r\x1b[K")
        self._stream.flush()

    def _draw(self, state: str) -> None:
        """Write bar and state, then as many of the count and the medians as fit, each whole, in the plan's order."""
        width = os.get_terminal_size(self._stream.fileno()).columns or UNKNOWN_WIDTH_COLUMNS
        room = max(20, width - 1 - CTRL_C_COLUMNS)
        line = f"{_bar(self._done_ratio)} {state}"
        first = ((name, self._headline.get(name)) for name, _backend in self._plan.runtimes)
        medians = (f"{name} {_median(values)}" for name, values in first if values)
        for part in (*self._progress, *medians):
            if len(line) + 2 + len(part) > room:
                break
            line += f"  {part}"
        self._stream.write("\r\x1b[K" + line[:room])
        self._stream.flush()

    def say(self, text: str) -> None:
        self._clear()
        super().say(text)

    def phase(self, spec: TrialSpec, phase: str) -> None:
        if phase == "starting":
            self._trial_started = time.monotonic()
            self._draw(f"{spec.runtime}: starting")

    def finished(self, record: TrialRecord, done: int, total: int) -> None:
        self._seconds.append(time.monotonic() - self._trial_started)
        if record.status != "ok":
            self.say(f"{record.spec.trial_id}   {outcome(record)}")
        elif (value := headline_value(record)) is not None and not record.spec.warmup:
            self._headline.setdefault(record.spec.runtime, []).append(value)
        left_s = statistics.mean(self._seconds) * (total - done)
        self._done_ratio = done / total
        self._progress = (f"{done}/{total} trials", f"ETA {int(left_s // 60)}:{int(left_s % 60):02d}")
        self._draw(f"{record.spec.runtime}: {brief(record)}")


def _median(values: Sequence[MetricValue]) -> str:
    return format_value(statistics.median(value.value for value in values), values[0].unit)


def _bar(done_ratio: float) -> str:
    filled = round(BAR_COLUMNS * done_ratio)
    return "━" * filled + "╌" * (BAR_COLUMNS - filled)


def observer_for(plan: Plan, *, quiet: bool, stream: TextIO | None = None) -> LiveObserver:
    """Return the display that fits `stream`, which is stderr unless a test reads it."""
    if quiet:
        return _Quiet()
    stream = stream or sys.stderr
    live = stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    return _Terminal(plan, stream) if live else _Lines(plan, stream)
