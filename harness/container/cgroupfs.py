"""Files and directories of a cgroup tree, each failure a ContainerError that names the path."""

from __future__ import annotations

import errno
import os
import time

from harness.container.errors import ContainerError

PAUSE_S = 0.0005
"""How long to wait before looking again whether processes are gone."""
_READ_BYTES = 1 << 14


def read(path: str) -> str | None:
    """Return a file's text, or None where it is not there (or its group is going away)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a file object costs more here than the read
        try:
            parts = [os.read(fd, _READ_BYTES)]
            while parts[-1]:
                parts.append(os.read(fd, _READ_BYTES))
        finally:
            os.close(fd)
        return b"".join(parts).decode("ascii", "surrogateescape")
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP}:
            return None
        raise ContainerError("cgroup", error.errno or 0, path) from error


def write(path: str, value: str) -> None:
    """Write a file. Raises ContainerError."""
    if not write_where_present(path, value):
        raise ContainerError("cgroup", errno.ENOENT, f"{path}: {value!r}")


def write_where_present(path: str, value: str) -> bool:
    """Write a file that this kernel may not have; return whether it is there. Raises ContainerError for all else."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ContainerError("cgroup", error.errno or 0, f"{path}: {value!r}") from error
    return True


def open_fd(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise ContainerError("cgroup", error.errno or 0, path) from error


def make_directory(path: str, *, exist_ok: bool = True) -> None:
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        if not (exist_ok and error.errno == errno.EEXIST):
            raise ContainerError("cgroup", error.errno or 0, path) from error


def try_remove(path: str) -> bool:
    """rmdir; return whether it is gone. Raises ContainerError for all but being gone already, in use or not empty."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in {errno.EBUSY, errno.ENOTEMPTY}:
            return False
        raise ContainerError("cgroup", error.errno or 0, path) from error
    return True


def children(directory: str) -> tuple[str, ...]:
    """Return the paths of the groups right below; none where the directory is gone.

    The kernel counts them in the number of links (fs/kernfs/inode.c), so that a group without any costs one stat. On a
    file system that counts no links there, the number is 1.
    """
    try:
        if os.stat(directory).st_nlink == 2:
            return ()
        with os.scandir(directory) as entries:
            return tuple(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ContainerError("cgroup", error.errno or 0, directory) from error


def hand_down(directory: str, controllers: frozenset[str]) -> None:
    """Let the groups below have the controllers: all by one write, so that either all are enabled or none.

    One by one, `cpu` would be granted even in a group with processes: it turns that group into a threaded one, and what
    follows is refused with EOPNOTSUPP (cgroup-v2.rst, "Threads").
    """
    if not controllers:
        return
    enabled = (read(f"{directory}/cgroup.subtree_control") or "").split()
    if wanted := controllers.difference(enabled):
        write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted)))


def parse_stat(text: str) -> dict[str, int]:
    """Return the `key value` lines of a memory.stat."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def read_number(path: str) -> int | None:
    text = read(path)
    return None if text is None else int(text)


def pids_in(directory: str) -> tuple[int, ...]:
    """Return the pids in one directory of a tree (0: a process of another pid namespace, left out).

    This process is no part of any group, even while one of its threads is in it: whoever ends a group lives on.
    """
    pids = (read(f"{directory}/cgroup.procs") or "").split()
    return tuple(int(pid) for pid in pids if pid not in {"0", str(os.getpid())})


def pids_below(directory: str) -> tuple[int, ...]:
    """Return the pids in a directory and in all groups below it, as `pids_in` does."""
    found = pids_in(directory)
    for child in children(directory):
        found += pids_below(child)
    return found


def is_occupied(directory: str) -> bool:
    """Return whether any process, this one included, is in the directory or below it."""
    if (read(f"{directory}/cgroup.procs") or "").strip():
        return True
    return any(is_occupied(child) for child in children(directory))


def remove_tree(directory: str, deadline_ns: int) -> None:
    """Remove a group with all groups below it, the deepest first. Raises ContainerError (EBUSY) at the deadline."""
    if try_remove(directory):  # mostly there is nothing below
        return
    for child in children(directory):
        remove_tree(child, deadline_ns)
    remove_directory(directory, deadline_ns)


def remove_directory(directory: str, deadline_ns: int) -> None:
    """rmdir, again while the last process is still on its way out (EBUSY)."""
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic_ns() > deadline_ns:
                raise ContainerError("cgroup", error.errno or 0, directory) from error
            time.sleep(PAUSE_S)
        else:
            return
