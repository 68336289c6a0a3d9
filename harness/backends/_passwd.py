"""Show libvirt the user that it insists on, without adding one to the host.

libvirt's QEMU driver, run by root, looks up the user that its distribution compiled in (Debian: libvirt-qemu) before it
reads its configuration, which then names another. Only the daemon's package creates that user. So the driver is opened
in a thread whose private mount namespace has an /etc/passwd and /etc/group with that one line more.
"""

from __future__ import annotations

import grp
import pwd
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.container import syscalls

T = TypeVar("T")

USER = "libvirt-qemu"
_ID = 64055  # as Debian's package assigns it; it owns nothing, since QEMU runs as the caller


def is_missing() -> bool:
    """Return whether this host lacks the user or the group."""
    try:
        pwd.getpwnam(USER)
        grp.getgrnam(USER)
    except KeyError:
        return True
    return False


def _bind(directory: Path, name: str, line: str) -> None:
    original = Path("/etc") / name
    extended = directory / name
    extended.write_text(original.read_text().rstrip("\n") + "\n" + line)
    syscalls.mount(str(extended), str(original), None, syscalls.MS_BIND)


def call_with_user(directory: Path, function: Callable[[], T]) -> T:
    """Return `function()`, called in a thread that sees the user; its exception is raised here.

    Only that thread's view changes: unshare(2) with CLONE_NEWNS acts on the calling thread. Unmounts of the host still
    reach it (slave propagation), so it keeps nothing busy. `directory` holds the two files.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
            _bind(directory, "passwd", f"{USER}:x:{_ID}:{_ID}::/nonexistent:/usr/sbin/nologin\n")
            _bind(directory, "group", f"{USER}:x:{_ID}:\n")
            results.append(function())
        except BaseException as error:  # noqa: BLE001 -- carried to the caller's thread and raised there
            errors.append(error)

    thread = threading.Thread(target=work, name="libvirt-open")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
