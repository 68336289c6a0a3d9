"""The volumes of one trial: made before its clock starts, removed with its instance.

    DATA/trial-volumes/TOKEN/TRIAL/NAME         a directory: what a process or a container mounts
    DATA/trial-volumes/TOKEN/TRIAL/NAME.ext4    a disk: what a VM gets
    CACHE/volumes/ext4-SIZE-UID-GID             an empty disk, of which each trial gets a copy

They are beside the images and not in the runtime directory, which is in memory: a volume shall be on a disk. TOKEN is
the run's, by which `harness clean` finds what a killed run left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BackendError, CapabilityError, CommandError
from harness.host.paths import data_dir
from harness.host.process import run
from harness.model.spec import MountSpec

_UUID = "68617261-6573-7300-8000-000000000002"  # any fixed one
_TIMEOUT_NS = 60 * 10**9
MKE2FS = "mke2fs"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an empty volume is: the workload's user."""

    uid: int
    gid: int


def _base() -> Path:
    return data_dir() / "trial-volumes"


def place_of(token: str, trial_id: str) -> Path:
    """Return the directory of a trial's volumes; nothing is made."""
    return _base() / token / trial_id


def names(mounts: Sequence[MountSpec]) -> dict[str, int]:
    """Return the size of every volume that is mounted, in bytes, by its name, in the order of first use."""
    return {mount.source: mount.size_bytes for mount in mounts if mount.kind == "volume"}


def make_directories(place: Path, mounts: Sequence[MountSpec], owner: Owner) -> dict[str, Path]:
    """Return the directory of each volume by its name, new and empty. Raises: BackendError; nothing is left then."""
    made: dict[str, Path] = {}
    with making(place):
        for name in names(mounts):
            made[name] = place / name
            made[name].mkdir(parents=True)
            os.chown(made[name], owner.uid, owner.gid)
    return made


def make_disks(place: Path, templates: dict[str, Path]) -> dict[str, Path]:
    """Return the disk of each volume by its name: a copy of its template.

    Raises: BackendError; nothing is left then.
    """
    made: dict[str, Path] = {}
    with making(place):
        for name, template in templates.items():
            made[name] = place / f"{name}.ext4"
            made[name].parent.mkdir(parents=True, exist_ok=True)
            run(["cp", "--sparse=always", "--reflink=auto", str(template), str(made[name])], timeout_ns=_TIMEOUT_NS)
    return made


@contextlib.contextmanager
def making(place: Path) -> Iterator[None]:
    """Leave nothing of a failure at `place`, and tell it as the trial's. Raises: BackendError."""
    try:
        yield
    except BaseException as error:
        remove(place)
        if isinstance(error, OSError):
            raise BackendError(f"volume: {error.filename}: {error.strerror}", hint="HARNESS_HOME says where") from error
        if isinstance(error, CommandError):
            raise BackendError(f"volume: {error.message}", hint="HARNESS_HOME says where") from error
        raise


def remove(place: Path) -> None:
    """Remove a trial's volumes, and the run's directory with the last of them. Raises: BackendError."""
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise BackendError(f"volume: {error.filename}: {error.strerror}") from error
    with contextlib.suppress(OSError):
        place.parent.rmdir()


def empty_disk(cache: Path, size_bytes: int, owner: Owner) -> Path:
    """Return an ext4 of this size, with a journal and without lost+found: what a directory of the host looks like.

    Raises: CapabilityError where mke2fs is missing; CommandError for a size that it refuses.
    """
    directory = cache / "volumes"
    path = directory / f"ext4-{size_bytes}-{owner.uid}-{owner.gid}"
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                _make_disk(Path(scratch) / "disk", size_bytes, owner).rename(path)
    finally:
        os.close(lock)
    return path


def _make_disk(path: Path, size_bytes: int, owner: Owner) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    features = f"root_owner={owner.uid}:{owner.gid},lazy_itable_init=0,lazy_journal_init=0"
    argv = [MKE2FS, "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-U", _UUID, "-E", features, str(path)]
    run(argv, timeout_ns=_TIMEOUT_NS)
    run(["debugfs", "-w", "-R", "rmdir lost+found", str(path)], timeout_ns=_TIMEOUT_NS)
    if b"/lost+found/" in run(["debugfs", "-R", "ls -p /", str(path)], timeout_ns=_TIMEOUT_NS).stdout:
        raise CapabilityError(f"volume: {path}: lost+found could not be removed")  # debugfs ends with 0 in any case
    return path


def tokens() -> set[str]:
    """Return the tokens of all runs that have volumes here."""
    with contextlib.suppress(FileNotFoundError):
        return {path.name for path in _base().iterdir()}
    return set()


def reap(token: str, *, dry_run: bool) -> list[str]:
    """Remove the volumes of a dead run; return one line for each trial that had some."""
    home = _base() / token
    if not home.is_dir():
        return []
    found = [f"volumes: {path}" for path in sorted(home.iterdir())] or [f"volumes: {home}"]
    if not dry_run:
        shutil.rmtree(home, ignore_errors=True)
    return found
