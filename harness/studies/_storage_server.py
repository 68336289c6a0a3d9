"""Runs inside a guest: measures storage drivers there, on request; with nothing but the standard library.

    python3 -m harness.studies._storage_server serve         make a disk, print "ready", answer for ever
    python3 -m harness.studies._storage_server ask JSON      hand a request to it, print the answer

A request is {"call": "about", "driver"}, {"call": "open", "arm", "driver", "depth"}, {"call": "trial", "arm", "key"} or
{"call": "close", "arm"}; an answer {"ok": ...} or {"error": TEXT, "hint": TEXT}.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from harness.container import syscalls
from harness.errors import HarnessError
from harness.host.process import run
from harness.images.storage import kinds, loop
from harness.images.storage.measuring import Bench

PLACE = Path("/tmp/work")
MODULES = Path("/opt/modules")
SOCKET = "/tmp/storage.socket"
TOKEN = "0000face"  # no other run shares this kernel
_DISK_BYTES = 8 << 30
_MKFS_NS = 300 * 10**9
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}


def load_modules() -> None:
    """Load the tree's kernel modules in the order of their names, which is that of their dependencies."""
    libc = ctypes.CDLL(None, use_errno=True)
    for path in sorted(MODULES.iterdir()):
        with path.open("rb") as file:
            failed = libc.syscall(_FINIT_MODULE[os.uname().machine], file.fileno(), b"", 0) != 0
            if failed and ctypes.get_errno() != errno.EEXIST:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


def make_disk() -> None:
    """Mount an ext4 for all drivers to work on, in a file in memory: the guest's own disk is read-only."""
    syscalls.mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777,size=90%")
    image = Path("/tmp/disk.img")
    with image.open("xb") as file:
        file.truncate(_DISK_BYTES)
    run(["mkfs.ext4", "-q", "-F", "-m0", "-E", "nodiscard,lazy_itable_init=1", str(image)], timeout_ns=_MKFS_NS)
    fd, device = loop.attach(image)
    PLACE.mkdir()
    syscalls.mount(str(device), str(PLACE), "ext4", 0)
    os.close(fd)


def answer(request: dict[str, Any], benches: dict[str, Bench]) -> object:
    """Carry out one request. Raises: HarnessError, OSError."""
    if request["call"] == "about":
        found = kinds.available(request["driver"], PLACE)
        return {"kernel": os.uname().release, "available": found.available, "reason": found.reason}
    arm = request["arm"]
    if request["call"] == "open":
        benches[arm] = Bench(request["driver"], request["depth"], PLACE, TOKEN, arm)
        return benches[arm].facts
    if request["call"] == "trial":
        return benches[arm].trial(request["key"])
    benches.pop(arm).close()
    return None


def serve() -> None:
    load_modules()
    make_disk()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen()
    print("ready", flush=True)
    benches: dict[str, Bench] = {}
    while True:
        connection = listener.accept()[0]
        with connection, connection.makefile("rw") as lines:
            try:
                told: dict[str, object] = {"ok": answer(json.loads(lines.readline()), benches)}
            except (HarnessError, OSError) as error:
                told = {"error": str(error), "hint": getattr(error, "hint", None)}
            lines.write(json.dumps(told) + "\n")


def ask(request: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        with connection.makefile("rw") as lines:
            lines.write(request + "\n")
            lines.flush()
            sys.stdout.write(lines.readline())


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else ask(sys.argv[2])
