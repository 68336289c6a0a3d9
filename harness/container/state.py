"""What is remembered of a container between the calls of its life: one directory each, locked while it is in use.

    ROOT/ID/state.json   who it is: pid with its start time, boot, bundle, cgroups; replaced as a whole
    ROOT/ID/config.json  its configuration as it was read at `create`
    ROOT/ID/start.sock   on which the created container waits; it is gone once it was started
    ROOT/ID/workspace    an empty directory that the container's own mounts cover

All that a killed runtime can leave is such a directory (with a cgroup, which it names): `delete --force` takes it away.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from harness.container.errors import ContainerError
from harness.container.frozen import EMPTY, Frozen, as_dict, field_names

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import Any

_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_MAX_ID_BYTES = 255
_FILES = ("state.json", "state.json.partial", "config.json", "start.sock")


def check_id(container_id: str) -> None:
    """Raise ContainerError unless the id is safe as a file's name, as runc and crun have it."""
    plain = set(container_id) <= _ALLOWED and not container_id.startswith(".")
    if not container_id or not plain or len(container_id) > _MAX_ID_BYTES:
        raise ContainerError("id", 0, f"{container_id!r}: only letters, digits and _ + - . may be in it, not '.' first")


class Record(Frozen):
    """state.json. `pid` is 0 while it is being created; `start_ticks` tells it from a later process of that number."""

    id: str
    bundle: str
    oci_version: str = ""
    pid: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    created: str = ""
    owner: str = ""
    rootfs: str = ""
    group_directories: tuple[str, ...] = ()
    group_made: tuple[str, ...] = ()
    annotations: Mapping[str, str] = EMPTY


def boot_id() -> str:
    """Return which boot of the kernel this is (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def process_status(pid: int) -> tuple[str, int] | None:
    """Return a process's state letter and start time in clock ticks since boot; None if it is gone.

    Source: fields 3 and 22 of /proc/PID/stat (proc(5)).
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return words[0], int(words[19])


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def is_alive(pid: int, start_ticks: int = 0) -> bool:
    """Return whether a process runs, and (unless 0) is the one that started then; a zombie does not run."""
    seen = process_status(pid) if pid else None
    return seen is not None and seen[0] not in "ZX" and start_ticks in {0, seen[1]}


class Home:
    """A container's directory, locked by this process."""

    def __init__(self, path: str) -> None:
        self.path = path

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def load(self) -> Record:
        """Raises ContainerError for a state that cannot be read: the runtime was killed before it wrote one."""
        import json

        try:
            with open(self.at("state.json"), encoding="utf-8") as file:
                document = json.load(file)
            known = field_names(Record)
            return Record(**{key: _frozen(value) for key, value in document.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:  # no file, no JSON, no object, fields missing
            raise ContainerError("state", 0, f"{self.path}: {error}") from error

    def save(self, record: Record) -> None:
        """Replace state.json: nobody ever reads half of it."""
        import json

        partial = self.at("state.json.partial")
        try:
            with open(partial, "w", encoding="utf-8") as file:
                json.dump(as_dict(record), file)
            os.replace(partial, self.at("state.json"))
        except OSError as error:
            raise ContainerError("state", error.errno or 0, partial) from error

    def is_waiting(self) -> bool:
        """Return whether it was created and not started yet."""
        return os.path.exists(self.at("start.sock"))

    def remove(self) -> None:
        try:
            for name in _FILES:
                with suppress(FileNotFoundError):
                    os.unlink(self.at(name))
            with suppress(FileNotFoundError):
                _remove_workspace(self.at("workspace"))
            os.rmdir(self.path)
        except OSError as error:
            raise ContainerError("state", error.errno or 0, self.path) from error


def _remove_workspace(path: str) -> None:
    """A container without a mount namespace of its own has all its mounts there, and the host sees them."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        from harness.container import syscalls

        syscalls.umount2(path, syscalls.MNT_DETACH)
        os.rmdir(path)


class Homes:
    """All containers of one `--root`."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all containers, sorted."""
        try:
            with os.scandir(self.root) as entries:
                return tuple(sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."))
        except FileNotFoundError:
            return ()

    @contextmanager
    def create(self, container_id: str) -> Iterator[Home]:
        """Make and lock the directory of a new container. Raises ContainerError if there is one."""
        check_id(container_id)
        path = f"{self.root}/{container_id}"
        try:
            os.makedirs(self.root, 0o711, exist_ok=True)
            os.mkdir(path, 0o711)
        except FileExistsError as error:
            raise ContainerError("create", 0, f"container with given ID already exists: {container_id}") from error
        except OSError as error:
            raise ContainerError("create", error.errno or 0, path) from error
        with _locked(path):
            try:
                os.mkdir(f"{path}/workspace", 0o700)
            except OSError as error:
                raise ContainerError("create", error.errno or 0, f"{path}/workspace") from error
            yield Home(path)

    def peek(self, container_id: str) -> Home:
        """Return the directory of a container, there or not, without its lock. Raises ContainerError for a bad id."""
        check_id(container_id)
        return Home(f"{self.root}/{container_id}")

    @contextmanager
    def open(self, container_id: str) -> Iterator[Home]:
        """Lock the directory of a container. Raises ContainerError (ENOENT) if there is none."""
        check_id(container_id)
        path = f"{self.root}/{container_id}"
        with _locked(path):
            yield Home(path)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Lock the directory itself, so that nothing is ever made in one that another process removes.

    One that was removed (and perhaps made anew) while we waited is as good as none.
    """
    missing = ContainerError("container", errno.ENOENT, f"{os.path.basename(path)}: container does not exist")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise missing from error
    except OSError as error:
        raise ContainerError("container", error.errno or 0, path) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            current = os.path.samestat(os.fstat(fd), os.stat(path))
        except FileNotFoundError:
            current = False
        if not current:
            raise missing
        yield
    finally:
        os.close(fd)
