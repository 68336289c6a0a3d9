"""Whether KVM is usable here: only a guest that has booted with it proves that.

/dev/kvm may open, create machines and run code, and yet never boot a stock kernel (nested hosts). So a few
instructions are run first, which tells most of the bad ones in less than a second; then a guest is booted with a
time-out. The answer is kept for this boot of the host, this kernel, this QEMU and this machine type.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.agent.program import PATH as AGENT_PATH
from harness.backends import _kvm_help
from harness.backends._guest import Guest
from harness.errors import CapabilityError, CommandError, TrialError, TrialTimeout
from harness.host.process import run
from harness.model.milestones import INIT, KERNEL, LADDER
from harness.model.units import format_ns

TIMEOUT_NS = 10_000_000_000
SILENCE_NS = 5_000_000_000
"""A kernel says its first word after a tenth of that, even on a slow host with KVM."""
DEVICE = Path("/dev/kvm")
_LOOP_MAX_NS = (
    20_000_000  # of 100,000 turns; a CPU needs a tenth of a millisecond, emulation of each instruction 100 ms
)
_LOOK_NS = 250_000_000
_PROGRAM_NS = 5_000_000_000


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


def micro_verdict(said: str) -> Verdict | None:
    """Return why KVM does not do, from what the agent's `--kvm-probe` said; None where a guest may be tried."""
    word, _, rest = said.strip().partition(" ")
    if word != "runs":
        return Verdict(usable=False, reason=f"a few instructions were tried: {rest or 'nothing was said'}")
    took_ns = int(rest)
    if took_ns > _LOOP_MAX_NS:
        why = f"a loop of 100,000 turns took {format_ns(took_ns)}: the host emulates each instruction"
        return Verdict(usable=False, reason=why)
    return None


def _micro_probe() -> Verdict | None:
    try:
        return micro_verdict(run([str(AGENT_PATH), "--kvm-probe"], timeout_ns=_PROGRAM_NS).stdout.decode())
    except CommandError as error:
        return Verdict(usable=False, reason=f"a few instructions were tried: {error.message}")


def _reached(guest: Guest) -> str:
    seen = {mark.milestone for mark in guest.marks}
    return next((name for name in reversed(LADDER) if name in seen), "nothing")


def boot_verdict(guest: Guest, timeout_ns: int = TIMEOUT_NS) -> Verdict:
    """Boot once and say how far it came; the guest is gone afterwards."""
    start_ns = time.monotonic_ns()
    try:
        guest.start()
        why = _why_not_init(guest, start_ns, timeout_ns)
    except TrialError as error:
        why = f"a guest did not start: {error.message}" if not guest.pids() else error.message
    finally:
        with contextlib.suppress(TrialError):  # the verdict is about starting; what is left the reaper finds
            guest.stop(time.monotonic_ns())
    if why is not None:
        return Verdict(usable=False, reason=why)
    return Verdict(usable=True, reason=f"a guest reached its init in {format_ns(time.monotonic_ns() - start_ns)}")


def _why_not_init(guest: Guest, start_ns: int, timeout_ns: int) -> str | None:
    """Wait until the agent runs; return what happened instead: a pause (KVM gave up), silence, or no end.

    Raises: TrialError for a guest that has ended.
    """
    while True:
        try:
            guest.wait(INIT, time.monotonic_ns() + _LOOK_NS)
        except TrialTimeout:
            past_ns = time.monotonic_ns() - start_ns
        else:
            return None
        paused = guest.paused()
        if paused:
            return f"QEMU has stopped the guest after {format_ns(past_ns)}: {paused}"
        if past_ns > SILENCE_NS and not any(mark.milestone == KERNEL for mark in guest.marks):
            return f"a guest's kernel said nothing within {format_ns(SILENCE_NS)} (it reached: {_reached(guest)})"
        if past_ns > timeout_ns:
            return f"a guest did not reach its init within {format_ns(timeout_ns)} (it reached: {_reached(guest)})"


def probe(cache: Path, key: str, make_guest: Callable[[], Guest], say: Callable[[str], None]) -> Verdict:
    """Return the verdict for `key`, from the cache or by booting `make_guest()`."""
    missing = device_missing()
    if missing:
        return Verdict(usable=False, reason=missing)
    verdict = cached(cache, key)
    if verdict is None:
        verdict = _micro_probe()
        if verdict is None:
            say(f"trying KVM with a guest: up to {format_ns(TIMEOUT_NS)}, once for each boot of this host")
            verdict = boot_verdict(make_guest())
        _remember(cache, key, verdict)
    return verdict


def with_nested(reason: str) -> str:
    """Return why KVM is usable, and that this host is itself a guest where it is."""
    return f"{reason}; nested: {_kvm_help.NESTED}" if _kvm_help.is_guest() else reason


def choose(wanted: str, verdict: Callable[[], Verdict]) -> tuple[str, str]:
    """Return (accelerator, reason) for `accel: auto|kvm|tcg`. Raises CapabilityError for kvm that is not usable."""
    if wanted == "tcg":
        return "tcg", "asked for by the scenario"
    found = verdict()
    if found.usable:
        return "kvm", with_nested(found.reason)
    if wanted == "kvm":
        raise CapabilityError(
            f"kvm: not usable: {found.reason}",
            hint=f"{_kvm_help.remedy()}; accel: auto lets the run fall back to TCG, named in every table",
        )
    return "tcg", f"kvm is not usable: {found.reason}"
