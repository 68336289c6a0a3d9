"""What this host is, read from files: for run.json, for comparing only what can be compared, and for `harness doctor`.

Nothing that names the host or its owner is read: no host name, no serial numbers, no kernel command line. A fact that
cannot be had is None.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.model.units import format_bytes

# Debian's package of each program whose version belongs into a run's record.
_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "mkfs.erofs": "erofs-utils",
    "mke2fs": "e2fsprogs",
    "docker": "docker.io",
    "podman": "podman",
    "runc": "runc",
    "crun": "crun",
}
_LIBRARIES = {"libvirt": "libvirt0", "libvirt-qemu-driver": "libvirt-daemon-driver-qemu"}

# What a hypervisor calls itself in /sys/class/dmi/id (the list of systemd's detect-virt, shortened).
_DMI_HYPERVISORS = (
    ("Amazon EC2", "amazon"), ("Google Compute Engine", "google"), ("KVM", "kvm"), ("OpenStack", "kvm"),
    ("QEMU", "qemu"), ("VMware", "vmware"), ("innotek", "virtualbox"), ("VirtualBox", "virtualbox"),
    ("Xen", "xen"), ("Bochs", "bochs"), ("Parallels", "parallels"), ("Virtual Machine", "hyper-v"),
)  # fmt: skip


def host_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Return what this host is, as JSON data; `root` is where /proc, /sys, /etc and /var are looked for.

    `cpu_count` is the CPUs that this process may use, `memory_bytes` what the kernel manages.
    """
    cpuinfo = _text(root / "proc/cpuinfo") or ""
    release = os_release(root)
    return {
        "architecture": platform.machine(),
        "cpu_model": _cpu_field(cpuinfo, "model name") or _cpu_field(cpuinfo, "CPU part"),
        "cpu_count": len(os.sched_getaffinity(0)),
        "cpu_online": _text(root / "sys/devices/system/cpu/online"),
        "smt": _flag(root / "sys/devices/system/cpu/smt/active"),
        "memory_bytes": _memory_bytes(root),
        "kernel": _text(root / "proc/sys/kernel/osrelease"),
        "boot_id": _text(root / "proc/sys/kernel/random/boot_id"),
        "os": release.get("PRETTY_NAME"),
        "os_id": "-".join(filter(None, (release.get("ID"), release.get("VERSION_ID")))) or None,
        "cgroup": cgroup_facts(root),
        "virtualisation": virtualisation(cpuinfo, root),
        "clocksource": _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "governor": governor(root),
        "transparent_hugepages": _chosen(_text(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        "ksm": _flag(root / "sys/kernel/mm/ksm/run"),
        "python": platform.python_version(),
    }


def describe(facts: Mapping[str, Any]) -> str:
    """Return a host in one line: what a reader needs to judge whether numbers carry over to another machine."""
    cpus, memory, virtualised = facts.get("cpu_count"), facts.get("memory_bytes"), facts.get("virtualisation")
    parts = [
        facts.get("cpu_model"),
        f"{cpus} CPU{'' if cpus == 1 else 's'}" if isinstance(cpus, int) else None,
        format_bytes(memory) if isinstance(memory, int) else None,
        f"Linux {facts['kernel']}" if facts.get("kernel") else None,
        None if virtualised in (None, "none") else f"itself a guest ({virtualised})",
    ]
    return ", ".join(str(part) for part in parts if part) or "not recorded"


def _chosen(text: str | None) -> str | None:
    """Return the word in brackets of a file of /sys that lists all there are, such as `always [madvise] never`."""
    found = re.search(r"\[(\w+)\]", text or "")
    return found[1] if found else None


def host_class(facts: Mapping[str, Any]) -> str:
    """Return a slug of what makes numbers comparable: CPU, count, memory, kernel series, virtualisation.

    Two boots of one machine, and two machines of one kind, have the same class.
    """
    model = re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*", " ", facts.get("cpu_model") or "unknown", flags=re.IGNORECASE)
    gib = round((facts.get("memory_bytes") or 0) / 2**30)
    kernel = ".".join(re.findall(r"\d+", facts.get("kernel") or "")[:2])
    parts = (
        facts.get("architecture"), model, f"{facts.get('cpu_count')}c", f"{gib}g" if gib else "", kernel,
        facts.get("virtualisation"),
    )  # fmt: skip
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(filter(None, map(str, filter(None, parts)))).lower()).strip("-")


def tool_versions(root: Path = Path("/")) -> dict[str, str]:
    """Return the versions of the tools that are there, from the package database: no tool is started for it.

    A tool from outside the package database is `version unknown`; a missing tool is not listed.
    """
    packages = _dpkg_versions(root, {*_TOOLS.values(), *_LIBRARIES.values()})
    found = {}
    for tool, package in _TOOLS.items():
        path = shutil.which(tool, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
        if path:
            packaged = not path.startswith(("/usr/local/", "/opt/", "/home/"))
            found[tool] = packages.get(package, "version unknown") if packaged else "version unknown"
    return found | {name: packages[package] for name, package in _LIBRARIES.items() if package in packages}


def os_release(root: Path = Path("/")) -> dict[str, str]:
    """Return the fields of /etc/os-release, or of /usr/lib/os-release. Source: os-release(5)."""
    text = _text(root / "etc/os-release") or _text(root / "usr/lib/os-release") or ""
    fields = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip().strip("\"'") for key, _, value in fields}


def cgroup_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Return the cgroup mode (v1, v2, hybrid or None) and where each controller is.

    Hybrid: controllers on v1 beside a v2 mount, which often offers none of them.
    Source: /proc/self/mountinfo, proc_pid_mountinfo(5); cgroups(7).
    """
    v1: set[str] = set()
    v2: set[str] = set()
    mounted_v2 = False
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        kind = right.split(" ", 1)[0]
        if kind == "cgroup2":
            mounted_v2 = True
            v2 |= set((_text(root / left.split(" ")[4].lstrip("/") / "cgroup.controllers") or "").split())
        elif kind == "cgroup":
            options = right.rsplit(" ", 1)[-1].split(",")
            v1 |= {option for option in options if option not in {"rw", "ro", "xattr"} and "=" not in option}
    mode = ("hybrid" if v1 else "v2") if mounted_v2 else ("v1" if v1 else None)
    return {"mode": mode, "v1": sorted(v1), "v2": sorted(v2)}


def virtualisation(cpuinfo: str, root: Path = Path("/")) -> str | None:
    """Return the hypervisor below this host, "unknown hypervisor", or "none"; None where that cannot be told.

    A hint, not a proof: from the names in DMI and, on x86, the CPU flag `hypervisor` (CPUID leaf 1, ECX bit 31).
    """
    names = " ".join(filter(None, (_text(root / "sys/class/dmi/id" / key) for key in ("sys_vendor", "product_name"))))
    for name, slug in _DMI_HYPERVISORS:
        if name in names:
            return slug
    if xen := _text(root / "sys/hypervisor/type"):
        return xen
    flags = _cpu_field(cpuinfo, "flags")
    if flags is None:
        return None
    return "unknown hypervisor" if "hypervisor" in flags.split() else "none"


def governor(root: Path = Path("/")) -> str | None:
    """Return the frequency governor of the first CPU; None where there is no cpufreq (most guests)."""
    return _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def _text(path: Path) -> str | None:
    """Return a small file without its last newline; None where it is missing, unreadable or empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _flag(path: Path) -> bool | None:
    text = _text(path)
    return None if text is None else text == "1"


def _cpu_field(cpuinfo: str, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return match.group(1).strip() if match else None


def _memory_bytes(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def _dpkg_versions(root: Path, packages: set[str]) -> dict[str, str]:
    """Return the versions of installed packages. Source: /var/lib/dpkg/status, deb-control(5)."""
    found = {}
    for record in (_text(root / "var/lib/dpkg/status") or "").split("\n\n"):
        name = record.partition("\n")[0].removeprefix("Package: ")
        version = re.search(r"^Version: (.*)$", record, re.MULTILINE) if name in packages else None
        if version and "\nStatus: install ok installed" in record:
            found[name] = version.group(1)
    return found
