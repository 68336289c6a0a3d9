"""What needs root: owners, devices and file systems."""

import os
import stat
import subprocess

import pytest

from harness.errors import ImageError
from harness.images.collection import collect
from harness.images.disk import disk_image
from harness.images.pack import pack_tree
from harness.images.roots import open_tree
from harness.images.store import Store
from harness.images.tree import root_digest, walk

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def source(tmp_path):
    """A tree with everything that a root file system may hold."""
    root = tmp_path / "source"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "su").write_bytes(b"#!" + os.urandom(9000))
    os.chown(root / "bin" / "su", 0, 7)
    (root / "bin" / "su").chmod(0o4750)
    os.link(root / "bin" / "su", root / "bin" / "same")
    (root / "bin" / "link").symlink_to("/bin/su")
    os.lchown(root / "bin" / "link", 1000, 1001)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "home" / "ada").mkdir(parents=True)
    os.chown(root / "home" / "ada", 100_000, 100_001)
    (root / "closed").mkdir(mode=0o000)
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(254, 300))
    (root / "empty").touch()
    (root / os.fsdecode(b"\xff odd\n")).write_text("x")
    return root


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def collected(store):
    return [gone.path for gone in collect(store)]


def stored(store, source):
    layer = pack_tree(store, source)
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}
    return store.add_image(document, [layer], "everything")


def test_a_directory_becomes_an_image_and_the_same_tree_again(store, source):
    tree = open_tree(store, stored(store, source), "everything")
    assert tree.digest == root_digest(source)
    same, other = (tree.path / "bin" / "su").stat(), (tree.path / "bin" / "same").stat()
    assert (same.st_ino, same.st_nlink) == (other.st_ino, 2)
    assert (tree.path / "null").stat().st_rdev == os.makedev(1, 3)


def test_packing_twice_gives_the_same_blob(store, source):
    first = pack_tree(store, source)
    os.utime(source / "empty", (1, 1))
    assert pack_tree(store, source) == first


def test_packages_keep_file_capabilities(store, source):
    raw = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
    os.setxattr(source / "empty", "security.capability", raw)
    tree = open_tree(store, stored(store, source))
    assert os.getxattr(tree.path / "empty", "security.capability") == raw


@pytest.mark.parametrize("fs", ["erofs", "ext4"])
def test_the_disk_holds_the_same_tree(store, source, tmp_path, fs):
    tree = open_tree(store, stored(store, source))
    disk = disk_image(tree, tmp_path / "disks", fs)
    assert disk.size_bytes == disk.path.stat().st_size
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    done = subprocess.run(["mount", "-t", fs, "-o", "loop,ro", disk.path, mountpoint], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount {fs} here: {done.stderr.decode().strip()}")
    try:
        assert root_digest(mountpoint) == tree.digest
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_the_disk_is_made_once_and_always_the_same(store, source, tmp_path):
    tree = open_tree(store, stored(store, source))
    first = disk_image(tree, tmp_path / "a")
    before = first.path.stat().st_ino
    assert disk_image(tree, tmp_path / "a").path.stat().st_ino == before
    second = disk_image(tree, tmp_path / "b")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert [path.suffix for path in (tmp_path / "a").iterdir()] == [".erofs"]


def test_a_changed_tree_is_refused(store, source):
    image = stored(store, source)
    tree = open_tree(store, image)
    (tree.path / "empty").write_text("changed")
    with pytest.raises(ImageError, match="changed since it was unpacked"):
        open_tree(store, image)


def test_an_opened_tree_outlives_its_image(store, source):
    tree = open_tree(store, stored(store, source))
    store.remove("everything")
    assert not [path for path in collected(Store(store.path)) if path.startswith("trees/")]
    assert root_digest(tree.path) == tree.digest


def test_a_tree_that_nobody_has_opened_goes_with_its_image(store, source):
    opened = Store(store.path)
    tree = open_tree(opened, stored(store, source))
    disk = disk_image(tree, store.path / "disks")
    del opened
    store.remove("everything")
    gone = collected(store)
    assert {path.split("/")[0] for path in gone} == {"blobs", "trees", "disks"}
    assert not tree.path.exists()
    assert not disk.path.exists()
    assert collected(store) == []


def test_a_half_made_tree_does_not_count(store, source):
    image = stored(store, source)
    half = store.path / "trees" / image.chain_id.removeprefix("sha256:")
    half.mkdir()
    (half / "junk").touch()
    tree = open_tree(store, image)
    assert tree.path == half
    assert b"junk" not in [entry.path for entry in walk(tree.path)]


def test_owners_are_kept_on_the_way(store, source):
    tree = open_tree(store, stored(store, source))
    status = (tree.path / "home" / "ada").stat()
    assert (status.st_uid, status.st_gid) == (100_000, 100_001)
