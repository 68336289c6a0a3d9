"""What a host is, from captured files."""

import json
from pathlib import Path

import pytest

from harness.host.facts import cgroup_facts, host_class, host_facts, os_release, tool_versions, virtualisation

CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7543P 32-Core Processor
flags\t\t: fpu vme {extra}lm
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:7 - cgroup2 cgroup2 rw\n"
DPKG = """\
Package: qemu-system-x86
Status: install ok installed
Architecture: amd64
Version: 1:7.2+dfsg-7

Package: libvirt0
Status: deinstall ok config-files
Version: 9.0.0-4
"""


def tree(root, **files):
    """Write files under a directory; `__` in a name stands for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_an_empty_host_has_facts_that_are_none(tmp_path):
    facts = host_facts(tmp_path)
    unknown = ("cpu_model", "memory_bytes", "kernel", "boot_id", "os", "virtualisation", "clocksource", "governor")
    assert [facts[key] for key in unknown] == [None] * len(unknown)
    assert facts["cgroup"] == {"mode": None, "v1": [], "v2": []}
    assert host_class(facts)


def test_this_host_has_facts_that_json_can_hold():
    facts = host_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["memory_bytes"] > 0
    assert facts["kernel"]
    assert facts["cpu_count"] >= 1


def test_nothing_names_the_host():
    hostname = Path("/proc/sys/kernel/hostname").read_text().strip()
    values = json.dumps(host_facts())
    assert "hostname" not in values
    assert f'"{hostname}"' not in values


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        pytest.param(V2, {"mode": "v2", "v1": [], "v2": ["cpu", "memory", "pids"]}, id="v2"),
        pytest.param(V1, {"mode": "v1", "v1": ["cpu", "cpuacct", "memory"], "v2": []}, id="v1"),
        pytest.param(HYBRID, {"mode": "hybrid", "v1": ["cpu", "cpuacct", "memory"], "v2": ["hugetlb"]}, id="hybrid"),
        pytest.param("", {"mode": None, "v1": [], "v2": []}, id="none"),
    ],
)
def test_cgroup_mode(tmp_path, mounts, expected):
    tree(
        tmp_path,
        proc__self__mountinfo=mounts,
        **{
            "sys__fs__cgroup__cgroup.controllers": "cpu memory pids\n",
            "sys__fs__cgroup__unified__cgroup.controllers": "hugetlb\n",
        },
    )
    assert cgroup_facts(tmp_path) == expected


def test_os_release_with_quotes_and_comments(tmp_path):
    tree(tmp_path, **{"etc__os-release": '# who\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'})
    assert os_release(tmp_path) == {"NAME": "Debian GNU/Linux", "VERSION_ID": "12", "ID": "debian"}
    assert host_facts(tmp_path)["os_id"] == "debian-12"


@pytest.mark.parametrize(
    ("extra", "vendor", "expected"),
    [
        ("", "Dell Inc.", "none"),
        ("hypervisor ", "QEMU", "qemu"),
        ("hypervisor ", "Amazon EC2", "amazon"),
        ("hypervisor ", "", "unknown hypervisor"),
    ],
)
def test_virtualisation(tmp_path, extra, vendor, expected):
    tree(tmp_path, sys__class__dmi__id__sys_vendor=vendor)
    assert virtualisation(CPUINFO.format(extra=extra), tmp_path) == expected


def test_virtualisation_of_a_cpu_that_has_no_flags(tmp_path):
    assert virtualisation("CPU part\t: 0xd0c\n", tmp_path) is None


def test_class_is_short_and_stable():
    facts = {
        "architecture": "x86_64", "cpu_model": "AMD EPYC 7543P 32-Core Processor", "cpu_count": 8,
        "memory_bytes": 33_600_000_000, "kernel": "6.12.9-cloud-amd64", "virtualisation": "kvm", "boot_id": "one",
    }  # fmt: skip
    assert host_class(facts) == "x86-64-amd-epyc-7543p-32-core-8c-31g-6.12-kvm"
    assert host_class({**facts, "boot_id": "two", "kernel": "6.12.20-cloud-amd64"}) == host_class(facts)
    assert host_class({**facts, "cpu_count": 4}) != host_class(facts)


def test_tools_that_are_there_have_the_version_of_their_package(tmp_path, monkeypatch):
    tree(tmp_path, var__lib__dpkg__status=DPKG)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("qemu-system-x86_64", "crun"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    versions = tool_versions(tmp_path)
    assert versions["qemu-system-x86_64"] == "1:7.2+dfsg-7"
    assert versions["crun"] == "version unknown"
    assert "libvirt" not in versions  # removed; only its configuration files are left
