"""KSM, the kernel's merging of equal pages, switched on while guests that want it run, and back as it was after.

The switch is the whole host's: every guest whose memory QEMU offers for merging is scanned, whoever started it. What
was set before is written down in the run's directory, so that it can be put back after the death of a run too.
Source: Documentation/admin-guide/mm/ksm.rst of the kernel.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import BackendError
from harness.host.memory import KSM
from harness.interfaces import Capability

PAGES_TO_SCAN = 5000
"""In each round, every 20 ms: a gigabyte in a second. The kernel's own 100 would take minutes to see a guest twice."""
_SETTINGS = {"run": "1", "pages_to_scan": str(PAGES_TO_SCAN), "sleep_millisecs": "20"}
_FORMER = "ksm.json"
_lock = threading.Lock()
_held: dict[Path, int] = {}


def need(ksm: Path = KSM) -> Capability:
    """Return whether it can be switched on here."""
    if not (ksm / "run").exists():
        return Capability("ksm", available=False, reason="not in this kernel (CONFIG_KSM)", hint="leave out ksm: on")
    try:
        with (ksm / "run").open("r+"):
            pass
    except OSError as error:
        return Capability("ksm", available=False, reason=f"{ksm}/run: {error.strerror}", hint="run as root")
    return Capability("ksm", available=True, reason=str(ksm))


@contextmanager
def running(scratch: Path, ksm: Path = KSM) -> Iterator[None]:
    """Have KSM run as long as anybody of this run wants it. Raises: BackendError."""
    with _lock:
        if not _held.get(scratch):
            _switch_on(scratch, ksm)
        _held[scratch] = _held.get(scratch, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _held[scratch] -= 1
            if not _held[scratch]:
                put_back(scratch, ksm)


def _switch_on(scratch: Path, ksm: Path) -> None:
    try:
        former = {name: (ksm / name).read_text().strip() for name in _SETTINGS}
        (scratch / _FORMER).write_text(json.dumps(former))
        for name in reversed(_SETTINGS):
            (ksm / name).write_text(_SETTINGS[name])
    except OSError as error:
        raise BackendError(f"ksm: {error.filename}: {error.strerror}", hint="leave out ksm: on") from error


def put_back(scratch: Path, ksm: Path = KSM, *, dry_run: bool = False) -> list[str]:
    """Set what a run found; return one line where there was something to set."""
    try:
        former = json.loads((scratch / _FORMER).read_text())
    except (OSError, ValueError):  # no run of ours switched it on
        return []
    if not dry_run:
        for name, value in former.items():
            (ksm / name).write_text(value)
        (scratch / _FORMER).unlink()
    return [f"ksm: switched on, run={former.get('run')} before"]
