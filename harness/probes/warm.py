"""What a prepared start costs besides its time: before it, on disk, in memory, and until its memory is really there.

`start` in the scenario says how runtimes are prepared (docs/warm-starts.md). Of a cold start only the touching is told.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import TrialError
from harness.interfaces import Before, Emit, Instance, Preparable
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.milestones import READY, REQUESTED

PREPARE = Metric("warm.prepare", Unit.NS, Better.LOWER,
                 "what was done before it was asked for; of `restored` once a run, with the saving")  # fmt: skip
SAVE = Metric("warm.save", Unit.NS, Better.LOWER, "of that, writing it to a file")
DISK = Metric("warm.disk", Unit.BYTES, Better.LOWER, "bytes that this file has on disk (st_blocks)")
HELD = Metric("warm.held", Unit.BYTES, Better.LOWER, "memory (PSS) that it keeps while it waits; 0 where it is a file")
TOUCH = Metric("warm.touch", Unit.NS, Better.LOWER,
               "from `requested` to `ready`, and the time that reading each page of it took then")  # fmt: skip
TOUCHED = Metric("warm.touched", Unit.BYTES, Better.NEITHER, "how much memory of its processes was read for that")
_ANSWER_NS = 60_000_000_000
_COLD = "a cold start: nothing was done before"


def _emit_before(before: Before | None, emit: Emit) -> None:
    if before is None:
        for metric in (PREPARE, SAVE, DISK, HELD):
            emit(Absent(metric, _COLD))
        return
    emit(Measurement(PREPARE, before.took_ns, {"start": before.start}))
    emit(Measurement(HELD, before.held_bytes))
    saved = before.saved_bytes > 0
    emit(Measurement(SAVE, before.saving_ns) if saved else Absent(SAVE, "it waits in memory: there is no file"))
    emit(Measurement(DISK, before.saved_bytes) if saved else Absent(DISK, "it waits in memory: there is no file"))


def _absent_touch(reason: str, emit: Emit) -> None:
    emit(Absent(TOUCH, reason))
    emit(Absent(TOUCHED, reason))


def _emit_touch(instance: Instance, emit: Emit) -> None:
    inside = getattr(instance, "inner", instance)
    if not isinstance(inside, Preparable):
        _absent_touch("its backend cannot have its memory read", emit)
        return
    marks = {mark.milestone: mark.at_ns for mark in reversed(instance.marks)}
    begun_ns = time.monotonic_ns()
    try:
        read_bytes = inside.touch(begun_ns + _ANSWER_NS)
    except TrialError as error:
        _absent_touch(f"its memory could not be read: {error.message}", emit)
        return
    took_ns = time.monotonic_ns() - begun_ns
    if not read_bytes:
        _absent_touch("no memory of it could be read from inside: it has ended, or is another user's", emit)
        return
    emit(Measurement(TOUCH, marks[READY] - marks[REQUESTED] + took_ns))
    emit(Measurement(TOUCHED, read_bytes))


class WarmProbe:
    name = "warm"
    doc = "prepared starts: what was done before, disk and memory that it keeps, and time until all memory was read"
    metrics = (TOUCH, TOUCHED, PREPARE, SAVE, DISK, HELD)

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        _emit_touch(instance, emit)
        _emit_before(getattr(instance, "before", None), emit)
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Everything was read while it ran."""


PLUGIN = WarmProbe()
