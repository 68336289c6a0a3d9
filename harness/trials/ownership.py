"""Who owns what on this host: every run has a token, a directory that says which process it is, and can be reaped.

Whatever a run creates carries its token in its name, so that a dead run's remains are found by name alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CapabilityError
from harness.host.paths import cache_dir, runtime_dir
from harness.interfaces import Backend

OWNER_FILE = "owner.json"
_ROOTS_REGISTRY = Path("/run/harness")
"""Where root's runs can be found whatever HARNESS_RUNTIME says; a run elsewhere leaves a link to its directory here."""
_FLAG = re.compile(r"/memfd:harness-owner-([0-9a-f]{8}) \(deleted\)")
_flags: dict[str, int] = {}
"""Of each run of this process a file without a name on disk, open as long as it owns the run (`held_tokens`)."""


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


def registry() -> Path:
    """Return the directory that names every run of this user on this host."""
    return _ROOTS_REGISTRY if os.geteuid() == 0 else runtime_dir()


def work_base() -> Path:
    """Return the directory below which each run has its work directory on disk (`RunContext.work`)."""
    return cache_dir() / "runs"


def claim(token: str, run_id: str) -> Path:
    """Make the run's scratch directory and write down who owns it; return the directory.

    Raises: CapabilityError when it cannot be made.
    """
    scratch = runtime_dir() / token
    if token not in _flags:
        _flags[token] = os.memfd_create(f"harness-owner-{token}", os.MFD_CLOEXEC)
    owner = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "boot_id": boot_id(), "run_id": run_id}
    unowned = scratch.with_name(f".{token}")  # it gets its name with its owner in it: without one it would be cleaned
    try:
        unowned.mkdir(parents=True, mode=0o755)
        (unowned / OWNER_FILE).write_text(json.dumps(owner))
        unowned.rename(scratch)
        if registry() != runtime_dir():
            registry().mkdir(parents=True, exist_ok=True)
            (registry() / token).symlink_to(scratch)
    except OSError as error:
        hint = "set HARNESS_RUNTIME to a directory that is yours, with a short path"
        raise CapabilityError(f"runtime directory: {scratch}: cannot be made: {error.strerror}", hint=hint) from error
    return scratch


def disown(token: str) -> None:
    """Have this process own the run no more; nothing of it is removed."""
    if token in _flags:
        os.close(_flags.pop(token))


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
    owners = (owner_of(token) for token in scratch_tokens())
    return next((owner for owner in owners if owner and owner.run_id == run_id and is_alive(owner)), None)


def _places(token: str) -> tuple[Path, Path]:
    """Return where a run's owner may be written down."""
    return runtime_dir() / token, registry() / token


def owner_of(token: str) -> Owner | None:
    """Return who owns a run, wherever its directory is; None where nobody does."""
    return next((owner for place in _places(token) if (owner := read_owner(place))), None)


def _flag_of(fd: Path) -> set[str]:
    try:
        match = _FLAG.fullmatch(str(fd.readlink()))
    except FileNotFoundError:  # it was closed
        return set()
    return {match[1]} if match else set()


def held_tokens(proc: Path = Path("/proc")) -> set[str]:
    """Return the tokens of all runs that a process owns, by what processes have open.

    Cgroups and processes are seen from a mount namespace with another /run too; the directories that say who owns them
    are not, and living runs must not look dead there. Source: memfd_create(2), the link's text in /proc/PID/fd.
    """
    found = set()
    for pid in proc.iterdir():
        with contextlib.suppress(OSError):  # it is no process, has ended, or is another user's
            for fd in (pid / "fd").iterdir():
                found |= _flag_of(fd)
    return found


def scratch_tokens() -> set[str]:
    """Return the tokens of all directories of runs, and of links to such."""
    bases = {runtime_dir(), registry(), work_base()}
    entries = [entry for base in bases if base.is_dir() for entry in base.iterdir()]
    return {
        entry.name for entry in entries if not entry.name.startswith(".") and (entry.is_dir() or entry.is_symlink())
    }


def dead_tokens(backends: Iterable[Backend]) -> list[str]:
    """Return the tokens of all runs that left something here and whose process has ended."""
    found = scratch_tokens().union(*(backend.tokens() for backend in backends))
    dead = {token for token in found if not is_alive(owner_of(token))}
    unsigned = {token for token in dead if not any((place / OWNER_FILE).exists() for place in _places(token))}
    return sorted(dead - (unsigned & held_tokens() if unsigned else set()))


def reap(token: str, backends: Sequence[Backend], *, dry_run: bool) -> list[str]:
    """Remove all that carries `token`, scratch directory last; return one line for each thing found."""
    lines = [line for backend in backends for line in backend.reap(token, dry_run=dry_run)]
    for scratch in (work_base() / token, *_places(token)):
        directory = scratch.resolve()
        if directory.is_dir():
            lines.append(f"directory: {directory}")
            if not dry_run:
                shutil.rmtree(directory)
        if scratch.is_symlink() and not dry_run:
            scratch.unlink()
    if not dry_run:
        disown(token)
    return list(dict.fromkeys(lines))
