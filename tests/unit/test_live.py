"""What people see of a run: plain lines for logs, one live line on a terminal, nothing with --json."""

from __future__ import annotations

import fcntl
import io
import os
import re
import select
import struct
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest

from harness.cli._live import LiveObserver, observer_for
from harness.model.records import RunRecord, TrialRecord, TrialSpec
from harness.trials.planner import Plan
from tests.example_run import example_run

PLAN = Plan("small", 7, "process", (("process", "p"), ("vm", "v")), warmup_blocks=1, min_blocks=2, max_blocks=3)
SETTLE_S = 0.02
CLEAR = "\r\x1b[K"


@pytest.fixture
def log() -> io.StringIO:
    """What is no terminal: a pipe, a file, CI."""
    return io.StringIO()


class Screen:
    """Both ends of a pseudo-terminal; `read` returns what came out since the last time."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.stream: TextIO = os.fdopen(slave, "w")

    def width(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self) -> str:
        text = b""
        while select.select([self.master], [], [], SETTLE_S)[0]:  # the kernel hands it over a moment after the write
            text += os.read(self.master, 65536)
        return text.decode()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    made = Screen()
    made.width(120)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    yield made
    made.stream.close()
    os.close(made.master)


def ended(spec: TrialSpec, ready_ns: int = 2_000_000, error: str | None = None) -> TrialRecord:
    if error:
        return TrialRecord(spec, "failed", "now", error=error)
    return TrialRecord(spec, "ok", "now", marks={"requested": 0, "ready": ready_ns})


def show(observer: LiveObserver, specs: tuple[TrialSpec, ...], done: int = 0, total: int = 8) -> None:
    for number, spec in enumerate(specs, done + 1):
        for phase in ("starting", "ready", "stopping"):
            observer.phase(spec, phase)
        observer.finished(ended(spec, 2_000_000 if spec.runtime == "process" else 50_000_000), number, total)


def without_time(text: str) -> list[str]:
    return [re.sub(r"^\[\d\d:\d\d:\d\d\] ", "", line) for line in text.splitlines()]


def test_a_log_gets_one_line_a_block_and_no_control_codes(log: io.StringIO) -> None:
    with observer_for(PLAN, quiet=False, stream=log) as observer:
        show(observer, PLAN.trials)
    assert without_time(log.getvalue()) == [
        "warm-up 1/1   process 2.00 ms   vm 50.0 ms",
        "block 1/3   process 2.00 ms   vm 50.0 ms",
        "block 2/3   process 2.00 ms   vm 50.0 ms",
        "block 3/3   process 2.00 ms   vm 50.0 ms",
    ]
    assert "\x1b" not in log.getvalue()


def test_a_log_tells_a_failure_once_with_its_reason(log: io.StringIO) -> None:
    first, second = PLAN.block_trials(1)
    with observer_for(PLAN, quiet=False, stream=log) as observer:
        observer.finished(ended(first, error="no | stderr: why"), 1, 8)
        observer.finished(ended(second), 2, 8)
    lines = without_time(log.getvalue())
    assert lines[0] == f"{first.trial_id} failed: no | stderr: why"
    assert f"{first.runtime} failed" in lines[1]
    assert log.getvalue().count("why") == 1


def test_a_resumed_run_keeps_its_blocks_apart(log: io.StringIO) -> None:
    """The first trial of the block was measured before the interrupt."""
    first = PLAN.block_trials(2)[0].runtime
    with observer_for(PLAN, quiet=False, stream=log) as observer:
        show(observer, PLAN.trials[5:], done=5)
    lines = without_time(log.getvalue())
    assert [line.split("   ")[0] for line in lines] == ["block 2/3", "block 3/3"]
    assert f"{first} (before)" in lines[0]
    assert "(before)" not in lines[1]


def test_a_run_opens_with_what_where_and_with_which_accelerator(log: io.StringIO) -> None:
    run = example_run()
    run = replace(run, warnings=("--only leaves out the control",))
    with observer_for(PLAN, quiet=False, stream=log) as observer:
        observer.start(Path("results/x"), run)
    text = log.getvalue()
    assert "2 runtimes x 2..3 blocks (+1 warm-up)   seed 7   control process" in text
    assert "writing   results/x\n" in text
    assert "note: --only leaves out the control\n" in text
    arm = run.arms["vm"]
    assert f"vm   {arm['machine']}, accelerator {arm['accelerator']}: {arm['accelerator_reason']}\n" in text


def test_one_runtime_and_one_block_are_written_in_the_singular(log: io.StringIO) -> None:
    plan = replace(PLAN, runtimes=PLAN.runtimes[:1], min_blocks=1, max_blocks=1)
    run: RunRecord = example_run()
    with observer_for(plan, quiet=False, stream=log) as observer:
        observer.start(Path("x"), run)
    assert "1 runtime x 1 block (+1 warm-up)" in log.getvalue()


def test_with_json_nothing_is_shown(log: io.StringIO) -> None:
    with observer_for(PLAN, quiet=True, stream=log) as observer:
        observer.say("preparing")
        observer.start(Path("x"), example_run())
        show(observer, PLAN.trials)
    assert log.getvalue() == ""


def test_a_terminal_shows_one_line_that_is_gone_at_the_end(screen: Screen) -> None:
    with observer_for(PLAN, quiet=False, stream=screen.stream) as observer:
        show(observer, PLAN.trials[:4])
        text = screen.read()
        assert "\n" not in text, "the line is rewritten, not repeated"
        last = text.split(CLEAR)[-1]
        assert "4/8 trials  ETA 0:00" in last
        assert "process 2.00 ms" in last
        assert "vm 50.0 ms" in last
        observer.phase(PLAN.trials[4], "starting")
        assert f" {PLAN.trials[4].runtime}: starting  4/8 trials  " in screen.read()
    assert screen.read() == CLEAR


def test_a_terminal_is_not_touched_while_a_trial_is_timed(screen: Screen) -> None:
    with observer_for(PLAN, quiet=False, stream=screen.stream) as observer:
        observer.phase(PLAN.trials[0], "starting")
        screen.read()
        observer.phase(PLAN.trials[0], "ready")
        observer.phase(PLAN.trials[0], "stopping")
        assert screen.read() == ""


def test_a_terminal_tells_a_failure_above_its_line(screen: Screen) -> None:
    with observer_for(PLAN, quiet=False, stream=screen.stream) as observer:
        observer.finished(ended(PLAN.trials[0], error="no luck"), 1, 8)
        text = screen.read()
    assert f"{CLEAR}{PLAN.trials[0].trial_id}   failed: no luck\r\n{CLEAR}" in text


MANY = replace(PLAN, runtimes=(("process", "p"), ("container", "c"), ("rootless-podman", "r"), ("vm", "v")))


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (40, ()),
        (60, ("12/16 trials", "ETA 0:00")),
        (80, ("12/16 trials", "ETA 0:00", "process 2.00 ms")),
        (100, ("12/16 trials", "ETA 0:00", "process 2.00 ms", "container 50.0 ms")),
        (0, ("12/16 trials", "ETA 0:00", "process 2.00 ms")),
    ],
)
def test_a_line_never_wraps_and_shows_the_state_and_whole_medians(
    screen: Screen, columns: int, shown: tuple[str, ...]
) -> None:
    """A wrapped line could not be rewritten, nor one that `^C` wraps; 0 columns are taken as 80."""
    screen.width(columns)
    with observer_for(MANY, quiet=False, stream=screen.stream) as observer:
        show(observer, tuple(reversed(MANY.trials[-12:])), total=16)
        observer.phase(next(spec for spec in MANY.trials if spec.runtime == "container"), "starting")
        line = screen.read().split(CLEAR)[-1]
    bar, state, *parts = re.split(r" (?=\w)(?<=[━╌] )|  ", line)
    assert set(bar) <= set("━╌")
    assert state == "container: starting"
    assert tuple(parts) == shown
    assert len(line) + len("^C") < (columns or 80)


@pytest.mark.parametrize(("variable", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_a_terminal_that_keeps_everything_gets_plain_lines(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with observer_for(PLAN, quiet=False, stream=screen.stream) as observer:
        show(observer, PLAN.trials[:2])
    assert "\x1b" not in screen.read()
