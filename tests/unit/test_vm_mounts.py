"""What a guest's mounts become: the way of sharing, the agent's records, disks; what is told when one is missing."""

from pathlib import Path

import pytest

from harness.backends import _mounts, _shares, _vm_storage
from harness.backends._vm_options import Options, Storage, root_fs
from harness.container import syscalls
from harness.errors import CapabilityError
from harness.model.spec import MountSpec

MOUNTS = (
    MountSpec("volume", "/data", "data", size_bytes=1 << 24),
    MountSpec("bind", "/in", "/srv/in", read_only=True),
    MountSpec("tmpfs", "/t", size_bytes=1 << 20),
    MountSpec("bind", "/out", "/srv/out"),
)


def kernel_with(*kinds):
    def check(kind):
        if kind not in kinds:
            raise CapabilityError(f"{kind}: not in the guest's kernel", hint="another kernel")

    return check


@pytest.fixture
def virtiofsd(monkeypatch, tmp_path):
    program = tmp_path / "virtiofsd"
    program.touch(mode=0o755)
    monkeypatch.setattr(_shares, "_PLACES", (str(program),))
    return program


@pytest.fixture
def no_virtiofsd(monkeypatch):
    monkeypatch.setattr(_shares, "_PLACES", ("/no/virtiofsd",))
    monkeypatch.setenv("PATH", "/no")


def test_virtiofs_comes_first_and_9p_takes_its_place_with_the_reason(virtiofsd):
    assert _shares.choose("auto", "q35", kernel_with("virtiofs", "9p")).program == virtiofsd
    way = _shares.choose("auto", "q35", kernel_with("9p"))
    assert (way.kind, way.program) == ("9p", None)
    assert "not virtiofs: virtiofs: not in the guest's kernel" in way.reason
    assert _shares.choose("auto", "microvm", kernel_with("virtiofs", "9p")).kind == "9p"


@pytest.mark.usefixtures("no_virtiofsd")
def test_without_virtiofsd_there_is_9p_or_both_reasons():
    assert _shares.choose("auto", "q35", kernel_with("virtiofs", "9p")).kind == "9p"
    with pytest.raises(CapabilityError, match="virtiofsd: not in /no/virtiofsd; 9p: not in the guest's kernel") as told:
        _shares.choose("auto", "q35", kernel_with("virtiofs"))
    assert told.value.hint == ("apt-get install virtiofsd (Debian 12: it is in qemu-system-common); or another kernel")


def test_what_a_scenario_asks_for_is_not_replaced_in_silence(virtiofsd):
    with pytest.raises(CapabilityError, match=r"^virtiofs: not in the guest's kernel$"):
        _shares.choose("virtiofs", "q35", kernel_with("9p"))


def test_five_records_for_each_mount_in_their_order(virtiofsd):
    way = _shares.choose("auto", "q35", kernel_with("virtiofs"))
    words = [word for _, word in _shares.records(MOUNTS, way, _mounts.tmpfs_options)]
    assert words == [
        "ext4", "disk:data", "/data", "rw", "",
        "virtiofs", "share1", "/in", "ro", "",
        "tmpfs", "tmpfs", "/t", "rw", f"mode=1777,size={1 << 20}",
        "virtiofs", "share3", "/out", "rw", "",
    ]  # fmt: skip


def test_virtiofsd_sees_a_read_only_directory_read_only(virtiofsd, tmp_path):
    way = _shares.choose("auto", "q35", kernel_with("virtiofs"))
    read_only, writable = _shares.shares(MOUNTS, way, tmp_path / "programs")
    assert writable.program == virtiofsd
    assert read_only.program is not None
    assert "remount,bind,ro" in read_only.program.read_text()
    assert read_only.program.stat().st_mode & 0o777 == 0o700


def test_a_containers_mounts_are_the_same_ones():
    data, given, memory, out = _mounts.container_mounts(MOUNTS, {"data": Path("/v/data")})
    assert (data.source, data.bind, data.destination) == ("/v/data", True, "/data")
    assert given.recursive_attrs == syscalls.MOUNT_ATTR_RDONLY
    assert out.recursive_attrs == 0
    assert memory.data == ("mode=1777", f"size={1 << 20}")


def test_a_bind_needs_a_directory_before_anything_starts(tmp_path):
    (tmp_path / "file").touch()
    mounts = [MountSpec("bind", f"/{name}", str(tmp_path / name)) for name in ("missing", "file", ".")]
    missing, file, directory = _mounts.needs(mounts)
    assert (missing.available, file.available, directory.available) == (False, False, True)
    assert missing.reason.endswith("no such directory")
    assert file.hint == "bind the directory that holds it: a VM can share directories alone"


# -- the root --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "fs", "modules"),
    [
        ("raw", "erofs", ("virtio_blk", "erofs", "overlay")),
        ("ext4", "ext4", ("virtio_blk", "ext4", "overlay")),
        ({"driver": "qcow2", "depth": 20}, "ext4", ("virtio_blk", "ext4")),
        ("erofs-layers", "erofs", ("virtio_blk", "erofs", "overlay")),
    ],
)
def test_each_driver_loads_what_its_root_needs_and_no_more(storage, fs, modules):
    options = Options(storage=storage)
    assert (root_fs(options), _vm_storage.modules(options)) == (fs, modules)


def test_depth_is_for_chains_alone():
    assert Options(storage={"driver": "qcow2", "depth": 3}).stored == Storage(driver="qcow2", depth=3)
    with pytest.raises(ValueError, match="depth: is for qcow2, not for raw"):
        Storage(driver="raw", depth=2)
