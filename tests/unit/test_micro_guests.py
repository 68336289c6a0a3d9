"""What Firecracker and Cloud Hypervisor are told for a guest, and what they need."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.backends import _micro, _micro_guest, cloud_hypervisor, firecracker
from harness.backends._domain import Disk, GuestSpec, Nic, kernel_cmdline
from harness.model.spec import MountSpec

GUEST = GuestSpec(
    name="harness-0123abcd-b00-vm",
    token="0123abcd",
    machine="microvm",
    accelerator="kvm",
    emulator="/opt/vmm",
    kernel=Path("/k/vmlinux"),
    initrd=Path("/k/initrd"),
    cmdline="loglevel=6 panic=-1",
    disks=(Disk(Path("/d/disk.erofs")),),
    sockets=Path("/run/t"),
    memory_bytes=256 << 20,
    vcpus=2,
)
ON_BRIDGE = replace(GUEST, nic=Nic("tap3", "02:00:0a:d5:00:03", vhost=False))


def pairs(words: list[str]) -> dict[str, str]:
    return {key: value for key, value in itertools.pairwise(words) if key.startswith("--")}


def test_firecracker_is_told_everything_by_a_file_of_what_its_api_takes() -> None:
    assert firecracker.document(GUEST) == {
        "boot-source": {
            "kernel_image_path": "/k/vmlinux",
            "initrd_path": "/k/initrd",
            "boot_args": "loglevel=6 panic=-1",
        },
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 256},
        "drives": [
            {
                "drive_id": "disk0",
                "path_on_host": "/d/disk.erofs",
                "is_root_device": False,
                "is_read_only": True,
            }
        ],
        "network-interfaces": [],
        "vsock": {"guest_cid": 3, "uds_path": "/run/t/v"},
    }
    assert json.loads(firecracker.config(ON_BRIDGE))["network-interfaces"] == [
        {"iface_id": "eth0", "guest_mac": "02:00:0a:d5:00:03", "host_dev_name": "tap3"}
    ]


def test_firecracker_starts_its_guest_at_once_and_keeps_its_log_out_of_the_marks() -> None:
    words = firecracker.argv(GUEST)
    assert words[:2] == ["/opt/vmm", "--no-api"]
    assert pairs(words)["--config-file"] == "/run/t/config.json"
    assert pairs(words)["--log-path"] == "/run/t/log"
    longest = firecracker.argv(replace(GUEST, name="harness-" + "x" * 90))
    assert len(pairs(longest)["--id"]) == 64  # more are refused


def test_cloud_hypervisor_is_told_everything_by_its_command_line() -> None:
    words = cloud_hypervisor.argv(ON_BRIDGE)
    told = pairs(words)
    assert words[0] == "/opt/vmm"
    assert (told["--kernel"], told["--initramfs"], told["--cmdline"]) == ("/k/vmlinux", "/k/initrd", GUEST.cmdline)
    assert (told["--cpus"], told["--memory"]) == ("boot=2", f"size={256 << 20}")
    assert told["--disk"] == "path=/d/disk.erofs,readonly=on"
    assert told["--net"] == "tap=tap3,mac=02:00:0a:d5:00:03"
    assert told["--vsock"] == "cid=3,socket=/run/t/v"
    assert told["--debug-console"] == "tty,iobase=0xe9"
    assert "--net" not in cloud_hypervisor.argv(GUEST)


def test_the_kernel_is_told_the_same_as_under_qemu_but_for_the_port_of_the_marks_and_the_end() -> None:
    qemu = kernel_cmdline("q35", "kvm", tsc_khz=None, extra="quiet")
    assert _micro.cmdline(cloud_hypervisor.VMM, "quiet") == qemu
    words = _micro.cmdline(firecracker.VMM, "quiet").split()
    assert words[0] == "earlyprintk=serial,0x3f8,115200,keep"
    assert set(qemu.split()[1:]) < set(words)
    assert {"reboot=k", "harness_end=reset", "harness_marks=0x3f8", "8250.nr_uarts=0"} < set(words)


@pytest.mark.parametrize("backend", [firecracker.PLUGIN, cloud_hypervisor.PLUGIN], ids=lambda one: str(one.name))
def test_a_vmm_that_is_not_there_is_told_with_where_it_can_be_had(backend: Any) -> None:
    needs = {need.name: need for need in backend.needs(backend.options(path="/nowhere/vmm"))}
    assert {"vmm", "kvm", "kernel"} <= needs.keys()
    missing = needs["vmm"]
    assert (missing.available, missing.reason) == (False, "program: /nowhere/vmm: not found")
    assert "/releases" in (missing.hint or "")


def test_only_what_the_agent_makes_inside_can_be_mounted() -> None:
    backend = firecracker.PLUGIN
    tmpfs, volume = (
        MountSpec("tmpfs", "/mem", size_bytes=4096),
        MountSpec("volume", "/data", "data", size_bytes=1 << 20),
    )
    assert backend.mount_needs(backend.options(), [tmpfs]) == ()
    (refused,) = backend.mount_needs(backend.options(), [tmpfs, volume])
    assert (refused.available, refused.reason) == (False, "firecracker: no volume")


def test_a_vmm_says_last_why_it_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert _micro_guest.last_words(log) is None
    log.write_text("warning: one\nError: no /dev/kvm\n")
    assert _micro_guest.last_words(log) == "Error: no /dev/kvm"
