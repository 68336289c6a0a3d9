"""Whether KVM is usable here: only a guest that has booted with it proves that.

/dev/kvm may open, create machines and run code, and yet never boot a stock kernel (nested hosts). So a guest is booted
with a time-out, and the answer is kept for this boot of the host, this kernel, this QEMU and this machine type.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.backends._guest import Guest
from harness.errors import CapabilityError, TrialError
from harness.model.milestones import INIT, LADDER
from harness.model.units import format_ns

TIMEOUT_NS = 10_000_000_000
DEVICE = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class Verdict:
    usable: bool
    reason: str


def device_missing(device: Path = DEVICE) -> str | None:
    """Return why /dev/kvm cannot be used, None when it opens."""
    if not device.exists():
        return f"{device}: no such device: no virtualisation in this CPU or host, or the kvm module is not loaded"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device}: not permitted: join the group kvm, or run as root"
    return None


def _file(cache: Path) -> Path:
    return cache / "kvm.json"


def cached(cache: Path, key: str) -> Verdict | None:
    """Return what a former probe found under the same key, None when there was none."""
    try:
        known = json.loads(_file(cache).read_text())
        return Verdict(**known[key])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _remember(cache: Path, key: str, verdict: Verdict) -> None:
    try:
        known = json.loads(_file(cache).read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    boot = key.split(" ", 1)[0]
    known = {old: value for old, value in known.items() if old.startswith(boot)}  # another boot proves nothing
    known[key] = asdict(verdict)
    partial = _file(cache).with_suffix(".partial")
    partial.write_text(json.dumps(known, indent=1))
    partial.replace(_file(cache))


def _reached(guest: Guest) -> str:
    seen = {mark.milestone for mark in guest.marks}
    return next((name for name in reversed(LADDER) if name in seen), "nothing")


def boot_verdict(guest: Guest, timeout_ns: int = TIMEOUT_NS) -> Verdict:
    """Boot once and say how far it came; the guest is gone afterwards."""
    start_ns = time.monotonic_ns()
    try:
        guest.start()
        guest.wait(INIT, start_ns + timeout_ns)
    except TrialError as error:
        why = f"a guest did not reach its init within {format_ns(timeout_ns)} (it reached: {_reached(guest)})"
        return Verdict(usable=False, reason=why if guest.pids() else f"a guest did not start: {error.message}")
    finally:
        with contextlib.suppress(TrialError):  # the verdict is about starting; what is left the reaper finds
            guest.stop(time.monotonic_ns())
    return Verdict(usable=True, reason=f"a guest reached its init in {format_ns(time.monotonic_ns() - start_ns)}")


def probe(cache: Path, key: str, make_guest: Callable[[], Guest], say: Callable[[str], None]) -> Verdict:
    """Return the verdict for `key`, from the cache or by booting `make_guest()`."""
    missing = device_missing()
    if missing:
        return Verdict(usable=False, reason=missing)
    verdict = cached(cache, key)
    if verdict is None:
        say(f"trying KVM with a guest: up to {format_ns(TIMEOUT_NS)}, once for each boot of this host")
        verdict = boot_verdict(make_guest())
        _remember(cache, key, verdict)
    return verdict


def choose(wanted: str, verdict: Callable[[], Verdict]) -> tuple[str, str]:
    """Return (accelerator, reason) for `accel: auto|kvm|tcg`. Raises CapabilityError for kvm that is not usable."""
    if wanted == "tcg":
        return "tcg", "asked for by the scenario"
    found = verdict()
    if found.usable:
        return "kvm", found.reason
    if wanted == "kvm":
        raise CapabilityError(
            f"kvm: not usable: {found.reason}", hint="accel: auto lets the run fall back to TCG, named in every table"
        )
    return "tcg", f"kvm is not usable: {found.reason}"
