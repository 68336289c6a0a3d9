"""Named volumes: directories that outlive the containers that write to them.

    DATA/volumes/NAME               what the volume holds; a directory of the host like any other
    DATA/volume-records/NAME.json   when it was made and its labels; one that lacks it is a volume all the same

An empty volume gets what the image has at the place where it is first mounted, with owners and modes (Docker's rule).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.errors import CapabilityError, UsageError
from harness.host.process import run
from harness.images.confine import Confined
from harness.model.document import did_you_mean

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_NAME_MAX = 255
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own is (stat(2))


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume. `created` is ISO 8601 in UTC, None where nobody noted it; `anonymous`: it goes with its container."""

    name: str
    path: Path
    created: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class _Record:
    created: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False


class Volumes:
    """All volumes of this user on this host. Whoever changes them holds the containers' lock (`engine.record`)."""

    def __init__(self, data: Path) -> None:
        self.path = data / "volumes"
        self._records = data / "volume-records"

    def create(self, name: str, labels: Mapping[str, str] | None = None, *, anonymous: bool = False) -> Volume:
        """Return the volume of that name, made unless it is there.

        Raises: UsageError for a bad name, and for labels that one which is there has not; CapabilityError where
        nothing can be written.
        """
        if not NAME.fullmatch(name) or len(name) > _NAME_MAX:
            raise UsageError(f"volume: {name!r}: letters, digits and _ . - only, a letter or digit first")
        if (self.path / name).is_dir():
            found = self._read(name)
            if labels and dict(labels) != dict(found.labels):
                raise UsageError(f"volume: {name}: is there, with other labels", hint=f"harness volume inspect {name}")
            return found
        record = _Record(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), dict(labels or {}), anonymous)
        with _told():
            self._records.mkdir(parents=True, exist_ok=True)
            self._record_path(name).write_text(json.dumps(asdict(record), indent=1))
            (self.path / name).mkdir(parents=True)
        return self._read(name)

    def find(self, name: str) -> Volume:
        """Return a volume. Raises: UsageError with the nearest names when there is none."""
        if not NAME.fullmatch(name) or not (self.path / name).is_dir():
            near = did_you_mean(name, [volume.name for volume in self.all()])
            raise UsageError(f"volume: {name}: no such volume{near}", hint="harness volume ls")
        return self._read(name)

    def all(self) -> list[Volume]:
        """Return every volume, by name."""
        with contextlib.suppress(FileNotFoundError):
            return [self._read(path.name) for path in sorted(self.path.iterdir()) if NAME.fullmatch(path.name)]
        return []

    def remove(self, name: str) -> None:
        """Remove a volume with what it holds; the caller made sure that nothing uses it. Raises: CapabilityError."""
        with _told():
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
            self._record_path(name).unlink(missing_ok=True)

    def _record_path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _read(self, name: str) -> Volume:
        record = _Record()
        with contextlib.suppress(OSError, ValueError, TypeError):
            record = _Record(**json.loads(self._record_path(name).read_text()))
        return Volume(name, self.path / name, record.created, record.labels, record.anonymous)

    # -- first use -----------------------------------------------------------------------------------------------

    def fill(self, name: str, tree: Path, target: str) -> bool:
        """Copy what a root tree has at `target` into an empty volume; return whether there was a directory to copy.

        All of it or nothing is there afterwards. Raises: CommandError, such as for a full disk.
        """
        volume = self.path / name
        source = _directory_in(tree, target)
        if source is None or any(volume.iterdir()):
            return False
        partial = self._records / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that died
        partial.mkdir(parents=True)
        try:
            run(["cp", "--archive", "--reflink=auto", f"{source}/.", str(partial)])
            partial.rename(volume)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return True


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell what the file system refused."""
    try:
        yield
    except OSError as error:
        hint = "HARNESS_HOME says where volumes are kept"
        raise CapabilityError(f"volume: {error.filename}: {error.strerror}", hint=hint) from error


def _directory_in(tree: Path, target: str) -> Path | None:
    """Return the directory of a tree that a container sees at `target`, whatever links lead there; None without one."""
    with Confined(tree) as confined:
        try:
            with confined.directory(os.fsencode(target)) as (_, names):
                return tree.joinpath(*map(os.fsdecode, names))
        except OSError:
            return None


def used_bytes(path: Path) -> int:
    """Return what a directory takes on its disk, each file once however many names it has."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for directory, names, files in os.walk(path):
        for name in (".", *names, *files):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(f"{directory}/{name}")
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * _BLOCK_BYTES
    return total
