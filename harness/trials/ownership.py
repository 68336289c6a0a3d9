"""Who owns what on this host: every run has a token, a directory that says which process it is, and can be reaped.

Whatever a run creates carries its token in its name, so that a dead run's remains are found by name alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CapabilityError
from harness.host.paths import runtime_dir
from harness.interfaces import Backend

OWNER_FILE = "owner.json"


@dataclass(frozen=True, slots=True)
class Owner:
    """The process of a run: a pid alone is not enough, since pids are used again."""

    pid: int
    start_ticks: int
    boot_id: str
    run_id: str


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot (field 22 of /proc/PID/stat), None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def claim(token: str, run_id: str) -> Path:
    """Make the run's scratch directory and write down who owns it; return the directory.

    Raises: CapabilityError when it cannot be made.
    """
    scratch = runtime_dir() / token
    owner = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "boot_id": boot_id(), "run_id": run_id}
    unowned = scratch.with_name(f".{token}")  # it gets its name with its owner in it: without one it would be cleaned
    try:
        unowned.mkdir(parents=True, mode=0o755)
        (unowned / OWNER_FILE).write_text(json.dumps(owner))
        unowned.rename(scratch)
    except OSError as error:
        hint = "set HARNESS_RUNTIME to a directory that is yours, with a short path"
        raise CapabilityError(f"runtime directory: {scratch}: cannot be made: {error.strerror}", hint=hint) from error
    return scratch


def read_owner(scratch: Path) -> Owner | None:
    """Return who owns a scratch directory, None where the file is missing or torn."""
    try:
        return Owner(**json.loads((scratch / OWNER_FILE).read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def is_alive(owner: Owner | None) -> bool:
    """Return whether the run's process still runs; a run that nobody owns is dead."""
    return owner is not None and owner.boot_id == boot_id() and start_ticks(owner.pid) == owner.start_ticks


def living_owner(run_id: str) -> Owner | None:
    """Return the process that works on a run now, None where nobody does."""
    owners = (read_owner(runtime_dir() / token) for token in scratch_tokens())
    return next((owner for owner in owners if owner and owner.run_id == run_id and is_alive(owner)), None)


def scratch_tokens() -> set[str]:
    base = runtime_dir()
    entries = base.iterdir() if base.is_dir() else ()
    return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}


def dead_tokens(backends: Iterable[Backend]) -> list[str]:
    """Return the tokens of all runs that left something here and whose process has ended."""
    found = scratch_tokens().union(*(backend.tokens() for backend in backends))
    return sorted(token for token in found if not is_alive(read_owner(runtime_dir() / token)))


def reap(token: str, backends: Sequence[Backend], *, dry_run: bool) -> list[str]:
    """Remove all that carries `token`, scratch directory last; return one line for each thing found."""
    lines = [line for backend in backends for line in backend.reap(token, dry_run=dry_run)]
    scratch = runtime_dir() / token
    if scratch.is_dir():
        lines.append(f"directory: {scratch}")
        if not dry_run:
            shutil.rmtree(scratch)
    return list(dict.fromkeys(lines))
