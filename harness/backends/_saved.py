"""A guest as a file: libvirt stops its CPUs, writes its memory and devices, and can begin from there again.

What libvirt writes is the domain's XML and QEMU's migration stream, in which a page of zeros takes nine bytes.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.backends import _connection
from harness.backends._domain import GuestSpec
from harness.errors import BackendError, CapabilityError
from harness.host.process import find_program, run
from harness.interfaces import SavedForm

SNAPSHOT = "ready"


def _save(connection: Any, guest: GuestSpec, file: Path) -> None:
    """Write a running guest to a file; it has ended afterwards. Raises BackendError with libvirt's own words."""
    libvirt = _connection.import_libvirt()
    try:
        connection.lookupByName(guest.name).save(str(file))
    except libvirt.libvirtError as error:
        raise BackendError(f"libvirt: {guest.name}: cannot be saved: {error}") from error


def _snapshot_beside(connection: Any, guest: GuestSpec, file: Path) -> None:
    """Write a guest's memory to a file of the same form, and let it run on.

    Raises: CapabilityError for a guest that writes to a disk, BackendError.
    """
    if any(not disk.read_only for disk in guest.disks):
        raise CapabilityError("start: restored-external: its root is a disk that is written to", hint="storage: raw")
    libvirt = _connection.import_libvirt()
    snapshot = ET.Element("domainsnapshot")
    ET.SubElement(snapshot, "memory", snapshot="external", file=str(file))
    disks = ET.SubElement(snapshot, "disks")
    try:
        domain = connection.lookupByName(guest.name)
        for target in ET.fromstring(domain.XMLDesc()).findall("devices/disk/target"):
            ET.SubElement(disks, "disk", name=target.attrib["dev"], snapshot="no")
        domain.snapshotCreateXML(ET.tostring(snapshot, encoding="unicode"), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_LIVE)
    except libvirt.libvirtError as error:
        raise BackendError(f"libvirt: {guest.name}: no snapshot: {error}") from error


def _snapshot_inside(connection: Any, guest: GuestSpec, file: Path) -> None:
    """Have QEMU put the guest's state into its disk, end the guest, and keep that disk as `file`.

    Raises: CapabilityError for a guest without a disk that can hold it, BackendError with QEMU's own words.
    """
    if not guest.disks or guest.disks[0].read_only or guest.disks[0].format != "qcow2":
        raise CapabilityError("start: restored-internal: its root is no qcow2 of its own", hint="storage: qcow2")
    said = _connection.monitor(connection, guest.name, f"savevm {SNAPSHOT}").strip()
    if said:
        raise BackendError(f"qemu: {guest.name}: savevm: {said}")
    _connection.destroy(connection, guest.name)
    _copy(guest.disks[0].path, file)


SAVE: Mapping[SavedForm, Callable[[Any, GuestSpec, Path], None]] = {
    "file": _save,
    "external": _snapshot_beside,
    "internal": _snapshot_inside,
}


def with_own_disk(guest: GuestSpec, file: Path, undo: ExitStack) -> GuestSpec:
    """Return the guest with a copy of a disk that holds a snapshot, from which it begins; `undo` removes the copy."""
    own = file.with_name(f"{guest.sockets.name}.qcow2")
    undo.callback(own.unlink, missing_ok=True)
    _copy(file, own)
    disks = (replace(guest.disks[0], path=own), *guest.disks[1:])
    return replace(guest, name=f"harness-{guest.token}-{guest.sockets.name}", disks=disks, snapshot=SNAPSHOT)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its holes, and without its data where the file system can share them."""
    run([str(find_program("cp")), "--reflink=auto", "--sparse=always", str(source), str(target)])


def restore(connection: Any, file: Path, xml: str) -> None:
    """Begin a guest from a file, running, as the domain that `xml` describes. Raises BackendError.

    Name and devices must be those that were saved, so that one at a time can run; its sockets may be others.
    """
    libvirt = _connection.import_libvirt()
    try:
        written = ET.fromstring(connection.saveImageGetXMLDesc(str(file), 0))
        domain = ET.fromstring(xml)
        domain[:0] = written.findall("uuid")
        connection.restoreFlags(str(file), ET.tostring(domain, encoding="unicode"), libvirt.VIR_DOMAIN_SAVE_RUNNING)
    except libvirt.libvirtError as error:
        raise BackendError(f"libvirt: {file.name}: cannot be restored: {error}") from error


def pause(connection: Any, name: str) -> None:
    """Stop a guest's CPUs; its memory stays. Raises BackendError."""
    libvirt = _connection.import_libvirt()
    try:
        connection.lookupByName(name).suspend()
    except libvirt.libvirtError as error:
        raise BackendError(f"libvirt: {name}: cannot be paused: {error}") from error


def resume(connection: Any, name: str) -> None:
    """Let a guest's CPUs run again. Raises BackendError."""
    libvirt = _connection.import_libvirt()
    try:
        connection.lookupByName(name).resume()
    except libvirt.libvirtError as error:
        raise BackendError(f"libvirt: {name}: cannot be resumed: {error}") from error
