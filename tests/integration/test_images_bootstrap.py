"""The base image from the distribution's package; needs its mirror."""

import shutil

import pytest

from harness.errors import CommandError
from harness.host.process import run
from harness.images.bootstrap import bootstrap_busybox
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
