"""Firecracker (1.8 or newer) by its command line and a configuration file, which holds what its API takes.

No jailer is around it; its own seccomp filters are on, as they are by default. Its virtio devices are found by ACPI,
which it has since 1.8.0: a distribution's kernel looks for no device on its command line. Its guest ends by resetting
itself, since there is no power management. Marks leave by its serial port, which it writes to its stdout byte by byte.

Source: docs/getting-started.md, docs/vsock.md and src/firecracker/swagger/firecracker.yaml of Firecracker.
"""

from __future__ import annotations

import json
from typing import Any

from harness.backends._domain import GuestSpec
from harness.backends._micro import MicroBackend
from harness.backends._micro_guest import CONFIG, GUEST_CID, LOG, VSOCK, Vmm

_ID_MAX = 64
_SERIAL_PORT = 0x3F8
_WORDS = (
    "reboot=k",  # the reset by the keyboard controller is what it takes for a shutdown
    "harness_end=reset",
    "pci=off",
    "8250.nr_uarts=0",  # the serial port is the marks'
    "i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd",  # what its own default says
)  # fmt: skip


def document(guest: GuestSpec) -> dict[str, Any]:
    """Return the configuration: for each path of its API the body that would be put there."""
    return {
        "boot-source": {
            "kernel_image_path": str(guest.kernel),
            "initrd_path": str(guest.initrd),
            "boot_args": guest.cmdline,
        },
        "machine-config": {"vcpu_count": guest.vcpus, "mem_size_mib": guest.memory_bytes >> 20},
        "drives": [
            {
                "drive_id": f"disk{number}",
                "path_on_host": str(disk.path),
                "is_root_device": False,
                "is_read_only": disk.read_only,
            }
            for number, disk in enumerate(guest.disks)
        ],
        "network-interfaces": [
            {"iface_id": "eth0", "guest_mac": nic.mac, "host_dev_name": nic.tap} for nic in [guest.nic] if nic
        ],
        "vsock": {"guest_cid": GUEST_CID, "uds_path": str(guest.sockets / VSOCK)},
    }


def config(guest: GuestSpec) -> bytes:
    return json.dumps(document(guest), indent=1).encode()


def argv(guest: GuestSpec) -> list[str]:
    """Return the command: it starts the guest at once, and listens to nobody. What it logs would be among the marks."""
    return [
        guest.emulator, "--no-api", "--id", guest.name[:_ID_MAX],
        "--config-file", str(guest.sockets / CONFIG),
        "--log-path", str(guest.sockets / LOG), "--level", "Warning",
    ]  # fmt: skip


VMM = Vmm(
    name="firecracker",
    program="firecracker",
    home="https://github.com/firecracker-microvm/firecracker/releases",
    bus="microvm",
    marks_port=_SERIAL_PORT,
    words=_WORDS,
    argv=argv,
    config=config,
)
PLUGIN = MicroBackend(VMM, "a Firecracker microVM (KVM) by its command line, with the guest of `backend: libvirt`")
