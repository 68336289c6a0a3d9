"""What Ctrl-C, SIGTERM and SIGHUP do to a run, in each of its phases."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.cli._signals import Signals

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_interrupts(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with Signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert capfd.readouterr().err == "interrupted: cleaning up\n"


def test_a_second_signal_does_not_interrupt_the_clean_up(capfd: pytest.CaptureFixture[str]) -> None:
    with Signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert "still cleaning up" in capfd.readouterr().err


def test_a_signal_while_a_finished_run_cleans_up_waits_for_its_end() -> None:
    with Signals() as signals:
        signals.hold()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signals.release()
        signals.release()


def test_without_a_signal_release_does_nothing() -> None:
    with Signals() as signals:
        signals.hold()
        signals.release()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_third_signal_gives_up_at_once() -> None:
    script = (
        "import signal; from harness.cli._signals import Signals\n"
        "with Signals() as signals:\n"
        "    signals.hold()\n"
        "    for _ in range(3): signal.raise_signal(signal.SIGINT)\n"
        "    print('not reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert "harness clean" in done.stderr


def test_what_the_caller_ignores_stays_ignored() -> None:
    """nohup ignores SIGHUP: the run outlives its terminal."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)
