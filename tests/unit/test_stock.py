"""A system's disk: its first sector, and that the service finds the disk that the domain names."""

import struct

import pytest

from harness.backends import _domain
from harness.images import stock


def test_the_first_sector_is_grubs_code_and_one_bootable_partition_to_the_end() -> None:
    code = bytes([0xEB, 0x63]) + bytes([7]) * 510
    sector = stock.master_boot_record(code, 10_000)
    assert len(sector) == 512
    assert sector[:446] == code[:446]
    active, kind = sector[446], sector[450]
    assert (active, kind) == (0x80, 0x83)
    start, length = struct.unpack_from("<II", sector, 454)
    assert (start, start + length) == (2048, 10_000)
    assert sector[462:510] == bytes(48), "no other partition"
    assert sector[510:] == b"\x55\xaa"


@pytest.mark.parametrize(("code", "sectors"), [(bytes(511), 10_000), (bytes(512), 2048)])
def test_what_cannot_be_a_disk_is_refused(code: bytes, sectors: int) -> None:
    with pytest.raises(ValueError, match="master boot record"):
        stock.master_boot_record(code, sectors)


def test_the_service_waits_for_the_disk_that_the_domain_has() -> None:
    assert stock.SPEC_SERIAL == _domain.SPEC_SERIAL
    assert r"dev-disk-by\x2did-virtio\x2dharness\x2dspec.device" in stock._UNIT
    assert "</dev/disk/by-id/virtio-harness-spec" in stock._UNIT
