"""Images and disks to one file each, and back."""

import os
import shutil

import pytest

from harness.errors import ImageError, UsageError
from harness.images.build import build_image
from harness.images.repack import Compression
from harness.images.shipping import bytes_to_carry, pack_disk, pack_image, receive_disk, receive_image
from harness.images.store import Store


def test_an_image_in_one_file(tmp_path):
    store = Store(tmp_path / "store")
    for name, text in (("base", "FROM scratch\nCOPY a /a\n"), ("web", "FROM base\nCOPY a /b\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / "a").write_text("a" * 100_000)
        build_image(tmp_path / name, tmp_path, store, name=name)
    plain = pack_image(store, "web", tmp_path / "plain.tar")
    packed = pack_image(store, "web", tmp_path / "packed.tar", Compression("zstd"))
    assert bytes_to_carry(plain) > 200_000
    assert bytes_to_carry(packed) < 10_000
    base = {layer.blob.digest for layer in store.find("base").layers}
    assert 100_000 < bytes_to_carry(plain, there=base) < 120_000
    other = Store(tmp_path / "other")
    assert receive_image(tmp_path / "packed.tar", other).manifest == packed.manifest
    assert list(other.names()) == ["web:latest"]


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MiB with 1 MiB of data in its middle."""
    path = tmp_path / "disk"
    path.write_bytes(b"")
    os.truncate(path, 8 << 20)
    with path.open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"data" * (1 << 18))
    return path


@pytest.mark.parametrize("form", ["raw", "raw-zstd", "qcow2", "qcow2-zstd"])
def test_a_disk_in_one_file(disk, tmp_path, form):
    if form.startswith("qcow2") and shutil.which("qemu-img") is None:
        pytest.skip("no qemu-img")
    carried_bytes = pack_disk(disk, tmp_path / "carried", form)
    assert carried_bytes == (tmp_path / "carried").stat().st_size
    assert (carried_bytes == 8 << 20) == (form == "raw")
    receive_disk(tmp_path / "carried", tmp_path / "back", form)
    assert (tmp_path / "back").read_bytes() == disk.read_bytes()
    assert (tmp_path / "back").stat().st_blocks * 512 < 2 << 20, "holes stay holes"
    with pytest.raises(UsageError, match="exists already"):
        pack_disk(disk, tmp_path / "carried", form)


def test_a_damaged_disk_leaves_nothing(disk, tmp_path):
    (tmp_path / "carried").write_bytes(b"no zstd")
    with pytest.raises(ImageError, match="damaged"):
        receive_disk(tmp_path / "carried", tmp_path / "back", "raw-zstd")
    assert not (tmp_path / "back").exists()
