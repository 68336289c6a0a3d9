"""A guest as a file: libvirt stops its CPUs, writes its memory and devices, and can begin from there again.

What libvirt writes is the domain's XML and QEMU's migration stream, in which a page of zeros takes nine bytes.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from harness.backends import _connection
from harness.errors import BackendError


def save(connection: Any, name: str, file: Path) -> None:
    """Write a running guest to a file; it has ended afterwards. Raises BackendError with libvirt's own words."""
    libvirt = _connection.import_libvirt()
    try:
        connection.lookupByName(name).save(str(file))
    except libvirt.libvirtError as error:
        raise BackendError(f"libvirt: {name}: cannot be saved: {error}") from error


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
