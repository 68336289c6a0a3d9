"""libvirt itself makes a command line of QEMU of our KVM domains: nothing starts, so KVM need not boot anything."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from harness.backends import _connection
from harness.backends._domain import Disk, Machine, domain_xml
from harness.backends._hardware import DiskBus, Hardware
from harness.host.paths import cache_dir
from harness.host.process import find_program
from tests.unit.test_domain import guest

pytestmark = [
    pytest.mark.needs("root", "qemu", "libvirt"),
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="libvirt offers KVM only with /dev/kvm"),
]


@pytest.mark.parametrize("machine", get_args(Machine))
def test_a_kvm_domain_becomes_a_kvm_command_line_with_the_hosts_cpu(machine: Machine) -> None:
    spec = replace(guest(machine, "kvm"), emulator=str(find_program("qemu-system-x86_64")))
    buses: tuple[DiskBus, ...] = ("virtio",) if machine == "microvm" else ("virtio", "scsi")
    for bus in buses:
        hardware = Hardware(disk_bus=bus, disk_cache="none", disk_io="native", console="serial", prealloc=True)
        argv = native(domain_xml(replace(spec, hardware=hardware, disks=(Disk(Path("/d/root"), bus=bus),))))
        assert argv[argv.index("-accel") + 1].startswith("kvm")
        assert argv[argv.index("-cpu") + 1].startswith("host")
        assert argv[argv.index("-machine") + 1].startswith({"q35": "pc-q35", "pc": "pc-i440fx"}.get(machine, machine))
        assert "isa-debugcon" in " ".join(argv)
        assert "icount" not in " ".join(argv)


def native(xml: str) -> list[str]:
    """Return QEMU's arguments as the embedded driver would give them."""
    connection = _connection.connect(None, cache_dir())
    try:
        return str(connection.domainXMLToNative("qemu-argv", xml, 0)).split()
    finally:
        _connection.release(connection)
