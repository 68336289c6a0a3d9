"""Mounts that are in no mount namespace: they are reached through their fds, end with them, and the host sees none.

Where the kernel cannot make one directly, a thread with a mount namespace of its own mounts it, takes a detached copy,
and ends, and its namespace with it.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from harness.container import syscalls
from harness.errors import CapabilityError

OVERLAY_MAX_LAYERS = 500  # fs/overlayfs/params.h, OVL_MAX_STACK
# Said aloud, since distributions differ in what they build in; each changes what a copy-up or a rename costs.
OVERLAY_OPTIONS = ("index=off", "metacopy=off", "redirect_dir=off", "xino=off")
Result = TypeVar("Result")


def new_mount(fs_type: str, options: Sequence[str], *, attrs: int = 0) -> int:
    """Return a detached mount of a new file system; options read `key=value`, or `key` for a flag.

    Raises: CapabilityError with the kernel's own words.
    """
    fs = _open(fs_type)
    try:
        for option in options:
            key, equals, value = option.partition("=")
            command = syscalls.FSCONFIG_SET_STRING if equals else syscalls.FSCONFIG_SET_FLAG
            syscalls.fsconfig(fs, command, key, value if equals else None)
        syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(fs, attrs | syscalls.MOUNT_ATTR_NODEV)
    except OSError as error:
        raise CapabilityError(f"{fs_type}: mount: {error.filename}: {_words(fs, error)}") from error
    finally:
        os.close(fs)


def _open(fs_type: str) -> int:
    try:
        return syscalls.fsopen(fs_type)
    except OSError as error:
        why = "this kernel has no such file system" if error.errno == 19 else error.strerror  # ENODEV
        raise CapabilityError(f"{fs_type}: {why}", hint=f"modprobe {fs_type}") from error


def _words(fs: int, error: OSError) -> str:
    """What the kernel wrote to the file system's log, or the error's own text (fsopen(2), "Message retrieval")."""
    try:
        return os.read(fs, 1024).decode(errors="replace").strip()[2:] or str(error.strerror)
    except OSError:
        return str(error.strerror)


def directory(path: Path, *, readonly: bool = False) -> int:
    """Return a detached mount of a directory."""
    fd = syscalls.clone_mount(str(path))
    syscalls.restrict_mount(fd, syscalls.MOUNT_ATTR_NODEV | (syscalls.MOUNT_ATTR_RDONLY if readonly else 0))
    return fd


def in_private_namespace(work: Callable[[], Result]) -> Result:
    """Return what `work` returns, called in a thread whose mounts and working directory are its own."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)  # its working directory with it (unshare(2))
            syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=enter, name="mount")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@functools.cache
def takes_single_layers() -> bool:
    """Return whether overlay takes one layer at a time (`lowerdir+`, Linux 6.8)."""
    return syscalls.has_fs_option("overlay", "lowerdir+", "/")


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[int]]:
    """Yield fds of directories that name them, and no more (O_PATH)."""
    with ExitStack() as stack:
        fds = []
        for path in paths:
            fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        yield fds


def overlay(lowers: Sequence[Path], home: Path, *, readonly: bool = False) -> int:
    """Return a detached overlay of layers, the topmost first, and of the directories `upper` and `work` in `home`.

    Every directory is named by an fd: no path needs the escapes of overlay's option string, none is too long for it,
    and nobody inside sees the host's paths in /proc/mounts. Raises: CapabilityError.
    """
    if len(lowers) > OVERLAY_MAX_LAYERS:
        raise CapabilityError(f"overlay: {len(lowers)} layers: it stacks {OVERLAY_MAX_LAYERS} at most")
    if readonly and len(lowers) == 1:  # an overlay wants two layers where none is writable
        return directory(lowers[0], readonly=True)
    if not takes_single_layers():
        return in_private_namespace(lambda: overlay_by_options(lowers, home, readonly=readonly))
    with opened([home, *lowers]) as (own, *fds):
        singles = [f"lowerdir+=/proc/self/fd/{fd}" for fd in fds]
        options = _overlay_options(f"/proc/self/fd/{own}", readonly=readonly)
        return new_mount("overlay", [*singles, *options], attrs=syscalls.MOUNT_ATTR_RDONLY if readonly else 0)


def overlay_by_options(lowers: Sequence[Path], home: Path, *, readonly: bool) -> int:
    """The same by mount(2), which has one page for all options: from within /proc/self/fd a layer is but a number.

    To be called in a private namespace: overlay takes no layers of another one.
    """
    if readonly and len(lowers) == 1:
        return directory(lowers[0], readonly=True)
    with opened([home, *lowers]) as (own, *fds):
        options = ",".join(_overlay_options(str(own), readonly=readonly))
        os.chdir("/proc/self/fd")
        text = f"lowerdir={':'.join(map(str, fds))},{options}"
        flags = syscalls.MS_NODEV | (syscalls.MS_RDONLY if readonly else 0)
        try:
            syscalls.mount("overlay", f"{own}/work", "overlay", flags, text)
        except OSError as error:
            raise CapabilityError(f"overlay: {len(lowers)} layers: {error.strerror}") from error
        return syscalls.clone_mount(f"{own}/work")


def _overlay_options(home: str, *, readonly: bool) -> list[str]:
    writable = [] if readonly else [f"upperdir={home}/upper", f"workdir={home}/work"]
    return [*writable, *OVERLAY_OPTIONS]
