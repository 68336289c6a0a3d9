"""A root for a process without a mount namespace of its own: an overlay that the host sees, with /proc, /sys, /dev.

It is for the control; a runtime that expects a mounted root gets the overlay alone. Everything lies below one directory
and leaves by one unmount of it. /dev is a tmpfs with nodes of its own, never the host's: whoever removed the directory
with everything still mounted would remove nothing of the host.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from harness.container import syscalls
from harness.container.defaults import DEVICE_LINKS, DEVICES
from harness.container.errors import ContainerError

_PRIVATE = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


def mount_root(directory: str, lower: str, upper_bytes: int) -> str:
    """Make `directory` with an overlay over `lower` in it, and /proc, /sys, /dev; return the path to chroot to.

    Raises: ContainerError; nothing stays mounted then.
    """
    root = mount_overlay(directory, lower, upper_bytes)
    try:
        _mount_kernel(root)
    except OSError as error:
        unmount_root(directory)
        raise ContainerError("root", error.errno or 0, str(error.filename)) from error
    return root


def mount_overlay(directory: str, lower: str, upper_bytes: int) -> str:
    """Make `directory` with an overlay over `lower` in it, whose upper part is in memory; return its mount point.

    Raises: ContainerError; nothing stays mounted then.
    """
    with ExitStack() as undo:
        try:
            os.mkdir(directory, 0o700)
            undo.callback(os.rmdir, directory)
            syscalls.mount("tmpfs", directory, "tmpfs", syscalls.MS_NOSUID, f"mode=0700,size={upper_bytes}")
            undo.callback(syscalls.umount2, directory, syscalls.MNT_DETACH)
            syscalls.mount("none", directory, None, syscalls.MS_PRIVATE)
            root = _mount_overlay(directory, lower)
        except OSError as error:
            raise ContainerError("root", error.errno or 0, str(error.filename)) from error
        undo.pop_all()
    return root


def unmount_root(directory: str) -> None:
    """Undo `mount_root` or `mount_overlay`. Raises: ContainerError."""
    try:
        syscalls.umount2(directory, syscalls.MNT_DETACH)
        os.rmdir(directory)
    except OSError as error:
        raise ContainerError("root", error.errno or 0, str(error.filename)) from error


def _mount_overlay(directory: str, lower: str) -> str:
    """The same overlay as the launcher's; paths go through fds, so that none of them needs overlay's escapes."""
    with ExitStack() as fds:
        here, below = (_open(path, fds) for path in (directory, lower))
        os.mkdir("work", 0o700, dir_fd=here)
        os.mkdir("root", dir_fd=here)
        os.mkdir("upper", dir_fd=here)
        upper = _open("upper", fds, here)
        status = os.fstat(below)
        os.fchown(upper, status.st_uid, status.st_gid)
        os.fchmod(upper, stat.S_IMODE(status.st_mode))
        at = f"/proc/self/fd/{here}"
        options = f"lowerdir=/proc/self/fd/{below},upperdir={at}/upper,workdir={at}/work"
        options += ",index=off,metacopy=off,redirect_dir=off,xino=off"
        syscalls.mount("overlay", f"{at}/root", "overlay", 0, options)
    return f"{directory}/root"


def _mount_kernel(root: str) -> None:
    with ExitStack() as fds:
        top = _open(root, fds)
        _mount_in(top, "proc", "proc", _PRIVATE, "", fds)
        _mount_in(top, "sys", "sysfs", _PRIVATE | syscalls.MS_RDONLY, "", fds)
        dev = _mount_in(top, "dev", "tmpfs", syscalls.MS_NOSUID, "mode=0755,size=64k", fds)
        for name, major, minor in DEVICES:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
            os.chmod(name, 0o666, dir_fd=dev)  # whatever the umask is
        for content, name in DEVICE_LINKS:
            os.symlink(content, name, dir_fd=dev)
        options = "newinstance,ptmxmode=0666,mode=0620,gid=5"
        _mount_in(dev, "pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, options, fds)
        _mount_in(dev, "shm", "tmpfs", _PRIVATE, "mode=1777,size=67108864", fds)


def _open(path: str, fds: ExitStack, dir_fd: int | None = None) -> int:
    """Return an fd of a directory; a link in its place is refused (ENOTDIR or ELOOP)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    fds.callback(os.close, fd)
    return fd


def _mount_in(parent: int, name: str, fs_type: str, flags: int, options: str, fds: ExitStack) -> int:
    """Mount on a directory of `parent`, made if missing; return an fd of what is mounted there now."""
    try:
        target = _open(name, fds, parent)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=parent)
        target = _open(name, fds, parent)
    syscalls.mount(fs_type, f"/proc/self/fd/{target}", fs_type, flags, options)
    return _open(name, fds, parent)
