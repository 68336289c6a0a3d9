"""A neighbour whose heart beats from before a fault to some time after it."""

from __future__ import annotations

import threading
import time

from harness.errors import HarnessError
from harness.interfaces import Instance
from harness.studies import _pair

_PART_MS = 1000
_BEFORE_S = 0.3


class Heart:
    """The neighbour's longest silence during a block and for `after_ms` beyond it.

    It is asked for one part after the other, as the fault may last. Silence is what the neighbour saw between two beats
    inside, or what a part took longer on the host than it should.
    """

    def __init__(self, neighbour: Instance, after_ms: int) -> None:
        self._neighbour, self._after_ms = neighbour, after_ms
        self._part_ms = min(_PART_MS, after_ms)
        self._longest_ns = 0
        self._died = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        while not self._over.is_set():
            start_ns = time.monotonic_ns()
            try:
                (inside_ns,) = _pair.ask(self._neighbour, "victim", "beat", str(self._part_ms), bound_ms=self._part_ms)
            except HarnessError:
                self._died = True
                return
            late_ns = time.monotonic_ns() - start_ns - self._part_ms * _pair.NS_PER_MS
            self._longest_ns = max(self._longest_ns, inside_ns, late_ns)

    def __enter__(self) -> Heart:
        self._thread.start()
        time.sleep(_BEFORE_S)  # some beats before the fault
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(self._after_ms / 1000)
        self._over.set()
        self._thread.join()

    @property
    def gap_ns(self) -> int | None:
        """None where the neighbour has died."""
        return None if self._died else self._longest_ns
