"""System calls that Python does not have, each a typed wrapper that raises OSError."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080
CLONE_NEWUSER = 0x10000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_UNBINDABLE = 1 << 17
MS_SHARED = 1 << 20
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08

CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_PERF_FLAG_FD_CLOEXEC = 8
_FSOPEN_CLOEXEC = 1
_FSCONFIG, _FSMOUNT = 431, 432
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_SET_FD, FSCONFIG_CMD_CREATE = 0, 1, 5, 6
_FSMOUNT_CLOEXEC = 1
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _AT_FDCWD = 1, os.O_CLOEXEC, -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000

# The same number on every architecture (asm-generic, Linux 5.0 and later).
FEATURES = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _path(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def mount(source: str, target: str, fs_type: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    options = None if data is None else os.fsencode(data)
    arguments = (_path(source), _path(target), _path(fs_type), ctypes.c_ulong(flags), options)
    _check(_libc.mount(*arguments), target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_path(target), flags), target)


def unshare(flags: int) -> None:
    """unshare(2), for the calling thread alone."""
    _check(_libc.unshare(flags), f"flags {flags:#x}")


@contextmanager
def child_subreaper() -> Iterator[None]:
    """Within it, orphans among our descendants become our children (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    before = ctypes.c_int()
    _check(_libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0), "subreaper")
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def fs_magic(path: str) -> int:
    """Return the type of the file system that holds `path` (statfs(2), f_type: the structure's first word)."""
    buffer = (ctypes.c_long * 32)()
    _check(_libc.statfs(_path(path), ctypes.byref(buffer)), path)
    return int(buffer[0])


def has_filesystem(name: str) -> bool:
    """Return whether the kernel knows a file system, after it loaded the module if there is one (fsopen(2)).

    Raises: OSError (EPERM) without CAP_SYS_ADMIN.
    """
    try:
        fd = _check(_libc.syscall(FEATURES["fsopen"], _path(name), _FSOPEN_CLOEXEC), name)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    os.close(fd)
    return True


def has_fs_option(fs_type: str, key: str, value: str) -> bool:
    """Return whether a file system knows an option (fsconfig(2), FSCONFIG_SET_STRING); nothing is mounted.

    One that does not speak fsconfig(2) itself, as overlay before Linux 6.5, takes any option, to judge all of them at
    the mount: it counts as not knowing it. Raises: OSError (EPERM) without CAP_SYS_ADMIN.
    """
    fd = _check(_libc.syscall(FEATURES["fsopen"], _path(fs_type), _FSOPEN_CLOEXEC), fs_type)
    try:
        known, nonsense = (
            int(_libc.syscall(_FSCONFIG, fd, FSCONFIG_SET_STRING, name.encode(), value.encode(), 0)) == 0
            for name in (key, "nonsense")
        )
        return known and not nonsense
    finally:
        os.close(fd)


def fsopen(fs_type: str) -> int:
    """Return the fd of a file system that is to be configured (fsopen(2)). Its `read` tells what the kernel says."""
    return _check(_libc.syscall(FEATURES["fsopen"], _path(fs_type), _FSOPEN_CLOEXEC), fs_type)


def fsconfig(fs: int, command: int, key: str | None = None, value: str | None = None, aux: int = 0) -> None:
    """fsconfig(2); a string has at most 255 bytes there."""
    name = None if key is None else key.encode()
    _check(_libc.syscall(_FSCONFIG, fs, command, name, _path(value), aux), key or "create")


def fsmount(fs: int, attrs: int) -> int:
    """Return the fd of a mount that is nowhere yet, and ends with its fds (fsmount(2))."""
    return _check(_libc.syscall(_FSMOUNT, fs, _FSMOUNT_CLOEXEC, attrs), "fsmount")


def clone_mount(path: str) -> int:
    """Return the fd of a detached copy of the mount at `path`, without those below it (open_tree(2))."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    return _check(_libc.syscall(FEATURES["open_tree"], _AT_FDCWD, _path(path), flags), path)


def restrict_mount(fd: int, attrs: int, *, recursive: bool = False) -> None:
    """Set MOUNT_ATTR_* on the mount of an fd (mount_setattr(2), with `struct mount_attr`), or on all below it too."""
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    change = (ctypes.c_uint64 * 4)(attrs, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(change))
    _check(_libc.syscall(FEATURES["mount_setattr"], fd, b"", flags, ctypes.byref(change), size), "attributes")


def missing_features() -> tuple[str, ...]:
    """Return which of FEATURES this kernel (or a seccomp filter) refuses; asked with arguments that can do nothing.

    Without CAP_SYS_ADMIN the answer is about permission, not about the kernel.
    """
    missing = []
    bad_fd, zero = ctypes.c_long(-1), ctypes.c_long(0)  # a bad pointer and bad flags as well: none of them accepts this
    for name, number in FEATURES.items():
        _libc.syscall(number, bad_fd, zero, bad_fd, zero, zero)
        if ctypes.get_errno() in {errno.ENOSYS, errno.EPERM}:
            missing.append(name)
    return tuple(missing)


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2) with the bytes of a `union bpf_attr`; return what the command returns, such as a new fd (O_CLOEXEC).

    What the kernel writes into the attributes is lost: see `bpf_answer`. Raises OSError.
    """
    return bpf_answer(command, attributes)[0]


def bpf_answer(command: int, attributes: bytes) -> tuple[int, bytes]:
    """As `bpf`, and the attributes as the kernel left them."""
    number = {"x86_64": 321, "aarch64": 280, "riscv64": 280}.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), f"bpf on {os.uname().machine}")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _check(_libc.syscall(number, command, buffer, ctypes.c_size_t(len(attributes))), f"bpf command {command}")
    return result, buffer.raw


def perf_event_open(attributes: bytes) -> int:
    """Return a close-on-exec event of the calling thread, and of what it starts where `attributes` say inherit.

    Source: perf_event_open(2); the number is that of x86-64 or of the generic table.
    """
    number = 298 if os.uname().machine == "x86_64" else 241
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _check(_libc.syscall(number, buffer, 0, -1, -1, _PERF_FLAG_FD_CLOEXEC), "perf_event_open")
