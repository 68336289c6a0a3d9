"""Which system calls of the host processes make during a piece of work: strace attached from outside, then let go."""

from __future__ import annotations

import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.host import process

_ATTACH_NS = 5_000_000_000
_END_S = 5.0
_CALL = re.compile(r"^\d+\s+(\w+)\(", re.MULTILINE)


def parse(text: str) -> Counter[str]:
    """Return how often each call was made, by name: `PID NAME(...`, unfinished ones once."""
    return Counter(_CALL.findall(text))


def _traced(tid: int) -> bool:
    """Whether somebody traces a thread; one that has ended counts as traced."""
    try:
        return "\nTracerPid:\t0\n" not in Path(f"/proc/{tid}/status").read_text()
    except OSError:
        return True


def during(tids: Sequence[int], pids: Sequence[int], work: Callable[[], None]) -> Counter[str]:
    """Return the calls of processes, and of all that they start, while `work` runs.

    Raises: CapabilityError without strace, HarnessError where it could not attach. What `work` raises goes on up.
    """
    with tempfile.TemporaryDirectory(prefix="harness-strace-") as directory:
        out, log = Path(directory) / "calls", Path(directory) / "log"
        argv = ["strace", "-f", "-qq", "-o", str(out), *(word for pid in pids for word in ("-p", str(pid)))]
        with log.open("wb") as stderr:
            tracer = process.start(argv, stderr=stderr)
        try:
            _await(tracer, tids, log)
            work()
        finally:
            if tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
            tracer.wait(_END_S)
        if not out.exists():
            raise HarnessError("strace: wrote nothing")
        return parse(out.read_text(errors="replace"))


def _await(tracer: process.Running, tids: Sequence[int], log: Path) -> None:
    deadline_ns = time.monotonic_ns() + _ATTACH_NS
    while not all(map(_traced, tids)):
        if tracer.poll() is not None or time.monotonic_ns() > deadline_ns:
            words = log.read_text(errors="replace").strip()[-200:]
            raise HarnessError(f"strace: did not attach: {words or 'no reason given'}")
        time.sleep(0.005)
