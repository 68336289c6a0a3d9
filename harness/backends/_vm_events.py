"""What QEMU says by itself of a guest, as QMP events: why it ended is told by nothing else.

QEMU's exit code is 0 for a panic, a reset and an orderly end alike; SHUTDOWN tells `guest-reset` (a panic, with
panic=-1), `guest-shutdown` or `host-signal` (qapi/run-state.json of QEMU, ShutdownCause).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import weakref
from collections.abc import Iterator
from typing import Any

from harness.backends._connection import import_libvirt
from harness.errors import BackendError

EVENTS = "^(SHUTDOWN|RESET|STOP|GUEST_PANICKED|GUEST_CRASHLOADED|WATCHDOG|BLOCK_IO_ERROR|MEMORY_FAILURE)$"
_IS_PATTERN = 1  # VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX


def in_words(event: str, details: str | None) -> str:
    """Return an event as people read it: `SHUTDOWN guest=true reason=guest-reset`."""
    found = json.loads(details) if details else {}
    return " ".join([event, *(f"{key}={json.dumps(value).strip(chr(34))}" for key, value in found.items())])


@contextlib.contextmanager
def listening(connection: Any, name: str) -> Iterator[list[str]]:
    """Yield a list that is filled with what QEMU says of a guest meanwhile. Raises: BackendError."""
    libvirt, said = import_libvirt(), list[str]()
    try:
        libvirt_qemu = importlib.import_module("libvirt_qemu")  # part of libvirt-python, untyped
        domain = connection.lookupByName(name)

        def hear(_connection: Any, _domain: Any, event: str, _s: int, _us: int, details: str | None, _: None) -> None:
            said.append(in_words(event, details))

        weak = weakref.proxy(connection)  # libvirt keeps what it is given for as long as it likes, a connection too
        key = libvirt_qemu.qemuMonitorEventRegister(weak, domain, EVENTS, hear, None, _IS_PATTERN)
    except (ImportError, libvirt.libvirtError) as error:
        raise BackendError(f"libvirt: {name}: its monitor's events: {error}") from error
    try:
        yield said
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt_qemu.qemuMonitorEventDeregister(connection, key)
