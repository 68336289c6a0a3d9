"""How to get KVM where it is missing, by what this host is: its CPU's flags, its device, whether it is a guest."""

from __future__ import annotations

import os
from pathlib import Path

NESTED = "this host is a virtual machine itself, so each exit of a guest costs two"

_CLOUD = "AWS *.metal, Google Cloud --enable-nested-virtualization, Azure Dv3/Ev3 and newer; GitHub's Linux runners"
_OUTSIDE = "on the hypervisor below: kvm_intel or kvm_amd with nested=1, and CPU model host-passthrough"


def cpu_flags(proc: Path = Path("/proc")) -> frozenset[str]:
    """Return the flags of the first CPU; empty where the kernel does not tell."""
    try:
        text = (proc / "cpuinfo").read_text()
    except OSError:
        return frozenset()
    return next((frozenset(line.split()) for line in text.splitlines() if line.startswith("flags")), frozenset())


def is_guest(proc: Path = Path("/proc")) -> bool:
    """Return whether this host is a virtual machine itself. Source: CPUID leaf 1, ECX bit 31 (`hypervisor`)."""
    return "hypervisor" in cpu_flags(proc)


def remedy(device: Path = Path("/dev/kvm"), proc: Path = Path("/proc")) -> str:
    """Return what to do so that KVM works: module, group, udev rule, BIOS, or another machine."""
    flags = cpu_flags(proc)
    can = {"vmx": "kvm_intel", "svm": "kvm_amd"}
    module = next((can[flag] for flag in can if flag in flags), None)
    if device.exists() and not os.access(device, os.R_OK | os.W_OK):
        return (
            "usermod -aG kvm $USER and log in again; where udev leaves the device to root alone, a rule "
            'KERNEL=="kvm", GROUP="kvm", MODE="0660" in /etc/udev/rules.d/60-kvm.rules'
        )
    if module is not None:
        inside = "in a container: --device /dev/kvm" if not device.exists() else "look into the host's kernel log"
        return f"modprobe {module}; {inside}"
    if "hypervisor" in flags:
        return (
            f"this host is a virtual machine whose CPU shows no VMX or SVM; {_OUTSIDE}; or a machine with it: {_CLOUD}"
        )
    return "switch on VT-x or AMD-V (SVM) in the BIOS or UEFI, then modprobe kvm_intel or kvm_amd"
