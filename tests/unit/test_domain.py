"""The domain XML and the kernel's command line, for every machine type and accelerator."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from harness.backends._domain import (
    CHANNELS,
    Accelerator,
    Disk,
    GuestSpec,
    Machine,
    Nic,
    Share,
    domain_xml,
    kernel_cmdline,
)

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def guest(machine: Machine = "q35", accelerator: Accelerator = "tcg", *, fast_start: bool = True) -> GuestSpec:
    return GuestSpec(
        name="harness-0123abcd-b00-vm",
        token="0123abcd",
        machine=machine,
        accelerator=accelerator,
        emulator="/usr/bin/qemu-system-x86_64",
        kernel=Path("/k/vmlinux"),
        initrd=Path("/k/initrd"),
        cmdline="quiet & <tricky>",
        disks=(Disk(Path("/d/disk.erofs")),),
        sockets=Path("/s"),
        memory_bytes=256 << 20,
        vcpus=2,
        fast_start=fast_start,
    )


def test_kvm_is_a_kvm_domain_with_the_hosts_cpu_and_tcg_is_not() -> None:
    kvm, tcg = (ET.fromstring(domain_xml(guest(accelerator=kind))) for kind in ("kvm", "tcg"))
    assert (kvm.get("type"), tcg.get("type")) == ("kvm", "qemu")
    cpu = kvm.find("cpu")
    assert cpu is not None
    assert cpu.get("mode") == "host-passthrough"
    assert tcg.find("cpu") is None


def test_size_name_and_command_line_survive() -> None:
    domain = ET.fromstring(domain_xml(guest()))
    assert domain.findtext("name") == "harness-0123abcd-b00-vm"
    assert domain.findtext("memory") == str(256 * 1024)
    assert domain.findtext("vcpu") == "2"
    assert domain.findtext("os/cmdline") == "quiet & <tricky>"


def test_the_disk_is_read_only_and_raw() -> None:
    disk = ET.fromstring(domain_xml(guest())).find("devices/disk")
    assert disk is not None
    assert disk.find("readonly") is not None
    driver = disk.find("driver")
    assert driver is not None
    assert driver.get("type") == "raw"


def test_the_marks_channel_is_port_e9_and_the_channels_are_named() -> None:
    devices = ET.fromstring(domain_xml(guest())).find("devices")
    assert devices is not None
    ports = {address.get("iobase") for address in devices.findall("serial/address")}
    assert ports == {"0xe9", "0x402"}
    names = tuple(target.get("name") for target in devices.findall("channel/target"))
    assert names == CHANNELS


@pytest.mark.parametrize("machine", ["q35", "pc", "microvm"])
def test_only_a_microvm_puts_its_virtio_devices_on_mmio(machine: Machine) -> None:
    domain = ET.fromstring(domain_xml(guest(machine)))
    on_mmio = [address for address in domain.iter("address") if address.get("type") == "virtio-mmio"]
    assert len(on_mmio) == (2 if machine == "microvm" else 0)


def test_however_it_ends_it_is_gone() -> None:
    domain = ET.fromstring(domain_xml(guest()))
    assert {domain.findtext(event) for event in ("on_poweroff", "on_reboot", "on_crash")} == {"destroy"}


def test_a_daemon_is_told_whom_to_run_qemu_as_and_to_leave_the_files_alone() -> None:
    (label,) = ET.fromstring(domain_xml(replace(guest(), owner="+0:+0"))).findall("seclabel")
    assert label.attrib == {"type": "static", "model": "dac", "relabel": "no"}
    assert label.findtext("label") == "+0:+0"
    assert ET.fromstring(domain_xml(guest())).findall("seclabel") == []


def test_fast_start_is_an_option() -> None:
    assert f"{QEMU}capabilities" in {child.tag for child in ET.fromstring(domain_xml(guest()))}
    assert f"{QEMU}capabilities" not in {child.tag for child in ET.fromstring(domain_xml(guest(fast_start=False)))}


def test_only_a_microvm_under_tcg_is_told_the_tsc() -> None:
    assert "tsc_early_khz=2600000 tsc=reliable" in kernel_cmdline("microvm", "tcg", tsc_khz=2_600_000)
    assert "tsc" not in kernel_cmdline("q35", "tcg", tsc_khz=2_600_000)
    assert "tsc" not in kernel_cmdline("microvm", "kvm", tsc_khz=2_600_000)


def test_an_emulated_guest_does_not_panic_because_its_timer_came_late() -> None:
    assert "no_timer_check" in kernel_cmdline("q35", "tcg", tsc_khz=None, self_tests=True).split()
    assert "no_timer_check" not in kernel_cmdline("q35", "kvm", tsc_khz=None).split()


def test_nothing_weakens_the_guest_and_extra_words_come_last() -> None:
    cmdline = kernel_cmdline("q35", "kvm", tsc_khz=None, extra="  a=b  c ")
    assert cmdline.endswith("noreplace-smp a=b c")
    assert not {"mitigations=off", "nokaslr", "init_on_alloc=0"} & set(cmdline.split())


def test_without_a_network_there_is_no_interface() -> None:
    assert ET.fromstring(domain_xml(guest())).find("devices/interface") is None


@pytest.mark.parametrize(("vhost", "driver"), [(True, "vhost"), (False, "qemu")])
def test_an_interface_is_a_tap_that_exists_and_its_driver_is_never_left_to_chance(vhost: bool, driver: str) -> None:
    nic = Nic("tap7", "02:00:0a:d5:00:07", vhost)
    interface = ET.fromstring(domain_xml(replace(guest(), nic=nic))).find("devices/interface")
    assert interface is not None
    found = {child.tag: child.attrib for child in interface}
    assert interface.get("type") == "ethernet"
    assert found["target"] == {"dev": "tap7", "managed": "no"}
    assert found["mac"] == {"address": "02:00:0a:d5:00:07"}
    assert found["driver"] == {"name": driver}
    assert found["rom"] == {"enabled": "no"}


def test_a_microvms_interface_is_on_virtio_mmio_and_has_no_rom() -> None:
    nic = Nic("tap7", "02:00:0a:d5:00:07", vhost=False)
    interface = ET.fromstring(domain_xml(replace(guest("microvm"), nic=nic))).find("devices/interface")
    assert interface is not None
    assert [child.tag for child in interface] == ["mac", "target", "model", "driver", "address"]


def test_further_disks_are_found_by_their_serial_and_only_those_that_are_written_to_can_be() -> None:
    disks = (Disk(Path("/d/root"), "vmdk"), Disk(Path("/d/data"), read_only=False, serial="data"))
    first, second = ET.fromstring(domain_xml(replace(guest(), disks=disks))).findall("devices/disk")
    assert [disk.find("target").get("dev") for disk in (first, second)] == ["vda", "vdb"]  # type: ignore[union-attr]
    assert (first.findtext("serial"), second.findtext("serial")) == (None, "data")
    assert first.find("driver").get("type") == "vmdk"  # type: ignore[union-attr]
    assert (first.find("readonly") is None, second.find("readonly") is None) == (False, True)


def test_names_of_disks_go_on_after_z() -> None:
    disks = tuple(Disk(Path(f"/d/{number}")) for number in range(28))
    targets = [target.get("dev") for target in ET.fromstring(domain_xml(replace(guest(), disks=disks))).iter("target")]
    assert targets[24:28] == ["vdy", "vdz", "vdaa", "vdab"]


def test_virtiofs_has_its_program_and_memory_that_it_can_share() -> None:
    share = Share("virtiofs", "share0", Path("/srv/in"), read_only=True, program=Path("/usr/libexec/virtiofsd"))
    domain = ET.fromstring(domain_xml(replace(guest(), shares=(share,))))
    backing = domain.find("memoryBacking")
    assert backing is not None
    assert [child.attrib for child in backing] == [{"type": "memfd"}, {"mode": "shared"}]
    found = {child.tag: child.attrib for child in domain.find("devices/filesystem")}  # type: ignore[union-attr]
    assert found["driver"] == {"type": "virtiofs"}
    assert found["binary"] == {"path": "/usr/libexec/virtiofsd"}
    assert (found["source"], found["target"]) == ({"dir": "/srv/in"}, {"dir": "share0"})
    assert "readonly" not in found, "libvirt 9 refuses it for virtiofs"


def test_9p_needs_no_shared_memory_and_is_read_only_on_the_host() -> None:
    shares = (Share("9p", "share0", Path("/a"), read_only=True), Share("9p", "share1", Path("/b")))
    domain = ET.fromstring(domain_xml(replace(guest(), shares=shares)))
    assert domain.find("memoryBacking") is None
    first, second = domain.findall("devices/filesystem")
    assert (first.find("readonly") is None, second.find("readonly") is None) == (False, True)
    assert first.find("driver").get("type") == "path"  # type: ignore[union-attr]
