"""The base image from the distribution's package; needs its mirror."""

import shutil

import pytest

from harness.errors import CommandError, ImageError
from harness.host.process import run
from harness.images.bootstrap import bootstrap_busybox
from harness.images.distribution import Base, bootstrap_distribution
from harness.images.roots import open_tree
from harness.images.store import Store

pytestmark = pytest.mark.needs("root")


def test_bootstrap_gives_a_root_that_runs(tmp_path):
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get here")
    store = Store(tmp_path / "store")
    try:
        image = bootstrap_busybox(store, tmp_path / "cache")
    except CommandError as error:
        pytest.skip(f"no package mirror: {error}")
    assert image.config.cmd == ("/bin/sh",)
    tree = open_tree(store, image, "busybox:latest")
    assert run(["chroot", str(tree.path), "/bin/sh", "-c", "echo $((6 * 7))"]).stdout == b"42\n"
    assert (tree.path / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert sorted(path.name for path in tree.path.iterdir()) == [
        "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp",
    ]  # fmt: skip
    assert bootstrap_busybox(store, tmp_path / "cache") == image
    assert image.config.labels["harness.package"].startswith("busybox-static=1:")


@pytest.mark.needs("mmdebstrap")
def test_a_base_of_debian_runs_and_has_no_later_time(tmp_path, monkeypatch):
    """The smallest variant, which installs nothing: busybox unpacked, and no more."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    store, base = Store(tmp_path / "store"), Base("debian", "bookworm", "extract", ("busybox-static",))
    try:
        image = bootstrap_distribution(base, store, name="debian:bookworm")
    except ImageError as error:
        pytest.skip(f"no package mirror: {error}")
    assert image.document["created"] == "2023-11-14T22:13:20Z"
    tree = open_tree(store, image, "debian:bookworm")
    assert run(["chroot", str(tree.path), "/bin/busybox", "echo", "42"]).stdout == b"42\n"
    assert [list((tree.path / name).iterdir()) for name in ("dev", "proc", "run", "sys", "tmp")] == [[]] * 5
    assert max(path.lstat().st_mtime for path in tree.path.rglob("*")) <= 1700000000
