"""RUN --mount: caches that outlive a build, files of the context or of a stage, memory; no layer holds any of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from harness.container import syscalls
from harness.container.spec import Mount
from harness.images.build_steps import Run, RunMount
from harness.images.context import ContextError
from harness.images.files import Files, find_all

if TYPE_CHECKING:
    from harness.images.build_work import Workshop

_QUIET = syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID


class RunMounts:
    """The mounts of one RUN, in `scratch`; a cache stays locked until it is over, so that builds take turns."""

    def __init__(self, work: Workshop, action: Run, scratch: Path) -> None:
        self._work = work
        self._action = action
        self._scratch = scratch
        self._stack = ExitStack()

    def __enter__(self) -> tuple[Mount, ...]:
        with self._stack:
            made = tuple(self._mount(number, mount) for number, mount in enumerate(self._action.mounts))
            self._stack = self._stack.pop_all()
        return made

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _mount(self, number: int, mount: RunMount) -> Mount:
        if mount.kind == "tmpfs":
            data = (f"size={mount.size_bytes}",) if mount.size_bytes else ()
            return Mount(mount.target, "tmpfs", "tmpfs", attrs=_QUIET, data=("mode=1777", *data))
        attrs = _QUIET if mount.writable else _QUIET | syscalls.MOUNT_ATTR_RDONLY
        if mount.kind == "cache":
            return Mount(mount.target, "bind", str(self._cache(mount)), bind=True, attrs=attrs)
        # Written to or not, it is a copy: what a command does to it is gone with it.
        path = self._scratch / str(number)
        files = self._work.files(mount.origin)
        found = find_all([mount.source], files)
        if len(found) != 1:
            raise ContextError(f"--mount: {mount.source}: {len(found)} files where one is needed")
        _copy(files, found[0].path, path)
        return Mount(mount.target, "bind", str(path), bind=True, attrs=attrs)

    def _cache(self, mount: RunMount) -> Path:
        name = hashlib.sha256(mount.id.encode("utf-8", "surrogateescape")).hexdigest()
        self._stack.enter_context(self._work.store.lock(f"mount-{name[:32]}"))
        path = self._work.store.path / "cache" / "mounts" / name
        if not path.exists():
            path.mkdir(parents=True)
            os.chown(path, *mount.owner)
            path.chmod(mount.mode)
        return path


def _copy(files: Files, source: str, target: Path) -> None:
    """Copy a file or a directory with its owners, modes and times."""
    status = files.status(source)
    if stat.S_ISDIR(status.st_mode):
        target.mkdir()
        inside = [(f"{source}/{path}" if source else path, target / path) for path in files.below(source)]
    else:
        inside = []
    made = [(source, target), *inside]
    for path, place in made:
        _copy_entry(files, path, place)
    for path, place in reversed(made):  # directories last: what is made in them changes their times
        status = files.status(path)
        if stat.S_ISDIR(status.st_mode):
            os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _copy_entry(files: Files, path: str, place: Path) -> None:
    status = files.status(path)
    if stat.S_ISDIR(status.st_mode):
        place.mkdir(exist_ok=True)
    elif stat.S_ISLNK(status.st_mode):
        place.symlink_to(os.fsdecode(files.link_target(path)))
    elif stat.S_ISREG(status.st_mode):
        with files.open(path) as source, place.open("wb") as target:
            shutil.copyfileobj(source, target)
    else:
        return  # no use without what made it: sockets, pipes
    owner = (status.st_uid, status.st_gid) if files.keeps_owners else (0, 0)
    os.chown(place, *owner, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        place.chmod(stat.S_IMODE(status.st_mode))
        os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))
