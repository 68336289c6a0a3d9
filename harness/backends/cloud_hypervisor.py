"""Cloud Hypervisor, one that has `--debug-console`, by its command line.

Its guest has PCI and ACPI, so it switches itself off. Marks leave by its debug console, which is at port 0xe9 as QEMU's
is, and writes to its stdout. Its own seccomp filters are on, as they are by default.

Source: docs/debug-port.md, docs/vsock.md and `cloud-hypervisor --help` of Cloud Hypervisor.
"""

from __future__ import annotations

from harness.backends._domain import MARKS_PORT, Disk, GuestSpec, Nic
from harness.backends._micro import MicroBackend
from harness.backends._micro_guest import GUEST_CID, VSOCK, Vmm


def argv(guest: GuestSpec) -> list[str]:
    """Return the command: it starts the guest at once, and has no API socket."""
    return [
        guest.emulator,
        "--kernel", str(guest.kernel), "--initramfs", str(guest.initrd), "--cmdline", guest.cmdline,
        "--cpus", f"boot={guest.vcpus}", "--memory", f"size={guest.memory_bytes}",
        *(["--disk", *map(_disk, guest.disks)] if guest.disks else []),
        *(["--net", _net(guest.nic)] if guest.nic else []),
        "--vsock", f"cid={GUEST_CID},socket={guest.sockets / VSOCK}",
        "--serial", "off", "--console", "off", "--debug-console", f"tty,iobase={MARKS_PORT:#x}",
    ]  # fmt: skip


def _disk(disk: Disk) -> str:
    return f"path={disk.path},readonly={'on' if disk.read_only else 'off'}"


def _net(nic: Nic) -> str:
    return f"tap={nic.tap},mac={nic.mac}"


VMM = Vmm(
    name="cloud-hypervisor",
    program="cloud-hypervisor",
    home="https://github.com/cloud-hypervisor/cloud-hypervisor/releases",
    bus="q35",
    marks_port=MARKS_PORT,
    words=(),
    argv=argv,
)
PLUGIN = MicroBackend(VMM, "a Cloud Hypervisor guest (KVM) by its command line, with the guest of `backend: libvirt`")
