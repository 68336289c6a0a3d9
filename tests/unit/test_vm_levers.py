"""The levers of a guest: what goes together, what the domain says, and that libvirt's own schema accepts all of it."""

import itertools
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from harness.backends import _connection, _vm_needs
from harness.backends._domain import Accelerator, Disk, GuestSpec, Machine, Nic, Share, domain_xml
from harness.backends._hardware import DiskBus, DiskCache, DiskIo, Hardware, NicModel
from harness.backends._vm_levers import CHANGES, Levers
from harness.backends._vm_options import Options
from harness.errors import CapabilityError
from harness.images import initramfs
from tests.unit.test_domain import guest

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
REFUSED = [
    ({"machine": "microvm", "disk_bus": "sata"}, "disk_bus: sata: a microvm has no PCI bus"),
    ({"disk_bus": "sata"}, "disk_bus: sata: has no read-only disks: storage: qcow2"),
    ({"machine": "microvm", "nic": "e1000"}, "nic: e1000: a microvm has no PCI bus"),
    ({"machine": "microvm", "boot": "disk"}, "boot: disk: a microvm starts kernels"),
    ({"legacy_timers": False}, "legacy_timers: false: only a microvm"),
    ({"disk_io": "native"}, "disk_io: native: needs disk_cache"),
    ({"boot": "disk", "firmware": "qboot"}, "firmware: qboot: it starts kernels"),
    ({"boot": "disk", "cmdline": "quiet"}, "cmdline: boot: disk starts a distribution's own system"),
    ({"boot": "disk", "initramfs": "gzip"}, "initramfs: gzip: boot: disk starts"),
    ({"machine": "q53"}, "Input should be 'q35', 'pc' or 'microvm'"),
    ({"cpu": "a b"}, "cpu"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_levers_that_do_not_go_together_are_refused_with_the_reason(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Options.model_validate(options)


def test_a_lever_at_its_default_changes_nothing_and_one_that_is_moved_says_what() -> None:
    assert Levers().changes() == {}
    assert Levers(boot="bzimage", firmware="qboot").changes() == {}
    assert set(Levers(machine="microvm", legacy_timers=False, vcpus=4).changes()) == {
        "machine", "legacy_timers", "vcpus",
    }  # fmt: skip
    assert set(Levers(boot="disk").changes()) == {"boot"}
    assert set(CHANGES) <= set(Levers.model_fields)


def test_what_is_chosen_stands_in_the_domain() -> None:
    hardware = Hardware(
        firmware="/q.rom", console="serial", cpu="Haswell", hugepages=True, prealloc=True, tcg_cache_bytes=32 << 20,
        disk_cache="none", disk_io="native",
    )  # fmt: skip
    domain = ET.fromstring(domain_xml(replace(guest(), hardware=hardware)))
    assert domain.findtext("os/loader") == "/q.rom"
    assert domain.findtext("cpu/model") == "Haswell"
    assert domain.findtext("features/tcg/tb-cache") == "32"
    assert [child.tag for child in domain.find("memoryBacking") or ()] == ["hugepages", "allocation"]
    driver = domain.find("devices/disk/driver")
    assert driver is not None
    assert (driver.get("cache"), driver.get("io")) == ("none", "native")
    assert [serial.get("type") for serial in domain.findall("devices/serial")] == ["file", "unix", "unix"]


def test_a_system_boots_from_its_disk_and_gets_the_workload_by_another_one() -> None:
    spec = replace(guest(), kernel=None, disks=(Disk(Path("/d/system"), "qcow2", read_only=False), Disk(Path("/d/w"))))
    domain = ET.fromstring(domain_xml(spec))
    assert domain.find("os/kernel") is None
    assert domain.find("os/boot") is not None
    assert [disk.findtext("serial") for disk in domain.findall("devices/disk")] == [None, None, "harness-spec"]


def variants() -> list[GuestSpec]:
    """Every machine with every accelerator, and each value of each lever once."""
    base = replace(
        guest(),
        nic=Nic("tap7", "02:00:0a:d5:00:07", vhost=False),
        shares=(Share("9p", "share0", Path("/a"), read_only=True),),
        owner="+0:+0",
    )
    found = [
        replace(base, machine=machine, accelerator=accelerator)
        for machine, accelerator in itertools.product(get_args(Machine), get_args(Accelerator))
    ]
    hardware = [
        *(Hardware(disk_cache=cache) for cache in get_args(DiskCache)),
        *(Hardware(disk_io=io, disk_cache="none") for io in get_args(DiskIo)),
        *(Hardware(nic=nic) for nic in get_args(NicModel)),
        *(Hardware(cpu=cpu) for cpu in ("host", "max", "Haswell")),
        Hardware(firmware="/q.rom", console="serial", hugepages=True, prealloc=True, tcg_cache_bytes=32 << 20),
    ]
    found += [replace(base, hardware=levers) for levers in hardware]
    found += [replace(base, disks=(Disk(Path("/d"), bus=bus),)) for bus in get_args(DiskBus)]
    found.append(replace(base, machine="microvm", hardware=Hardware(legacy_timers=False)))
    found.append(replace(base, kernel=None, nic=replace(base.nic, vhost=True) if base.nic else None))
    virtiofs = Share("virtiofs", "share0", Path("/a"), program=Path("/usr/lib/qemu/virtiofsd"))
    found.append(replace(base, shares=(virtiofs,), fast_start=False))
    return found


@pytest.mark.skipif(not SCHEMA.exists() or not shutil.which("xmllint"), reason="no xmllint or no schema of libvirt's")
def test_libvirts_own_schema_accepts_every_domain_with_kvm_too(tmp_path: Path) -> None:
    files = []
    for number, spec in enumerate(variants()):
        files.append(tmp_path / f"{number}-{spec.machine}-{spec.accelerator}.xml")
        files[-1].write_text(domain_xml(spec))
    argv = ["xmllint", "--noout", "--relaxng", str(SCHEMA), *map(str, files)]
    seen = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert seen.returncode == 0, seen.stderr
    files[0].write_text(files[0].read_text().replace("<vcpu>", "<vcpus>").replace("</vcpu>", "</vcpus>"))
    assert subprocess.run(argv, capture_output=True, check=False).returncode != 0, "the schema would accept anything"


@pytest.mark.parametrize(
    ("free", "mounts", "works"),
    [("512", "none /h hugetlbfs rw 0 0", True), ("0", "none /h hugetlbfs rw", False), ("9", "", False)],
)
def test_huge_pages_are_needed_before_anything_starts(free: str, mounts: str, works: bool, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nHugePages_Free:      {free}\n")
    (tmp_path / "mounts").write_text(f"proc /proc proc rw 0 0\n{mounts}\n")
    (need,) = _vm_needs._lever_needs(Options(hugepages=True), tmp_path)
    assert need.available == works
    assert _vm_needs._lever_needs(Options()) == []


class Capabilities:
    """A connection that knows two CPU models, and no machine but q35."""

    def getDomainCapabilities(self, _emulator: str, _arch: str, machine: str, _kind: str, _flags: int) -> str:
        if machine != "q35":
            raise _connection.import_libvirt().libvirtError(f"Emulator '/q' does not support machine type '{machine}'")
        models = "<model>Haswell</model><model>Nehalem</model>"
        return f"<domainCapabilities><cpu><mode name='custom'>{models}</mode></cpu></domainCapabilities>"


@pytest.mark.parametrize(
    ("machine", "cpu", "message", "hint"),
    [
        ("q35", "Haswel", "cpu: Haswel: libvirt knows no such model", "did you mean Haswell?"),
        ("microvm", None, "libvirt: machine: microvm: this QEMU has no such machine", "another machine:"),
    ],
)
def test_a_machine_or_cpu_that_qemu_has_not_is_told_before_the_run(
    machine: str, cpu: str | None, message: str, hint: str
) -> None:
    pytest.importorskip("libvirt")
    with pytest.raises(CapabilityError) as caught:
        _connection.check_machine(Capabilities(), "/q", machine, "qemu", cpu)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("cpu", [None, "host", "max", "Haswell"])
def test_cpus_that_there_are_do(cpu: str | None) -> None:
    pytest.importorskip("libvirt")
    _connection.check_machine(Capabilities(), "/q", "q35", "qemu", cpu)


@pytest.mark.parametrize(("how", "magic"), [("gzip", b"\x1f\x8b"), ("zstd", b"\x28\xb5\x2f\xfd")])
def test_another_archive_can_follow_a_compressed_one(how: str, magic: bytes) -> None:
    archive = initramfs.cpio([initramfs.file("init", bytes(5000))])
    packed = initramfs.compressed(archive, how)  # type: ignore[arg-type]
    assert packed.startswith(magic)
    assert len(packed) < len(archive)
    assert len(packed) % 4 == 0
    assert initramfs.compressed(archive, "none") == archive
