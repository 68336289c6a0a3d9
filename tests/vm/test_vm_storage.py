"""Guests whose root is a stack of layer disks, or a chain of qcow2 images: both show and attest the image's tree."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.collection import collect
from harness.images.diff import pack_upper
from harness.images.layer_disks import layered_disk
from harness.images.oci import Image
from harness.images.roots import open_tree
from harness.images.stack import open_chain
from harness.images.store import Store
from harness.interfaces import ArmSpec, Instance, RunContext
from harness.model.milestones import READY
from harness.model.spec import Limits, WorkloadSpec
from harness.trials import ownership

pytestmark = pytest.mark.needs("root", "overlayfs", "qemu", "libvirt", "kernel", "erofs")
SCRIPT = """
test ! -e /bin/tac && test "$(ls /etc)" = only && test "$(cat /etc/only)" = new && test "$(cat /opt/f)" = top
stat -c %Y /opt/f; echo more >>/opt/f && test "$(cat /opt/f | tail -1)" = more
grep -E ' / ' /proc/mounts
"""
MADE_S = 1_600_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    home, kept = tmp_path_factory.mktemp("home"), os.environ.get("HARNESS_HOME")
    cache = cache_dir()
    (home / "cache").symlink_to(cache)
    os.environ["HARNESS_HOME"] = str(home)
    try:
        yield Store(data_dir() / "images")
    finally:
        os.environ.pop("HARNESS_HOME")
        if kept is not None:
            os.environ["HARNESS_HOME"] = kept


@pytest.fixture(scope="module")
def layered(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """busybox; a layer that removes a file and replaces a directory; one that adds a file of a time long ago."""
    base = bootstrap_busybox(store, cache_dir())
    upper = tmp_path_factory.mktemp("upper")
    (upper / "bin").mkdir()
    os.mknod(upper / "bin" / "tac", 0o020000, os.makedev(0, 0))
    (upper / "etc").mkdir()
    os.setxattr(upper / "etc", "trusted.overlay.opaque", b"y")
    (upper / "etc" / "only").write_text("new\n")
    second = pack_upper(store, upper, open_chain(store, base.layers).directories, None)
    assert second is not None
    top = tmp_path_factory.mktemp("top")
    (top / "opt").mkdir()
    (top / "opt" / "f").write_text("top\n")
    os.utime(top / "opt" / "f", (MADE_S, MADE_S))
    third = pack_upper(store, top, open_chain(store, [*base.layers, second]).directories, None)
    assert third is not None
    layers = [*base.layers, second, third]
    document = {**base.document, "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}}
    document.pop("history", None)
    return store.add_image(document, layers, "layered")


def start(options: dict[str, Any], spec: ArmSpec) -> tuple[Instance, dict[str, Any]]:
    """Start one guest and stop it; return it, with its attestation and the facts of the arm."""
    plugin, token = plugins.load("backends", "libvirt"), secrets.token_hex(4)
    context = RunContext("storage", token, ownership.claim(token, "storage"), cache_dir())
    arm = plugin.prepare(spec, plugin.options(accel="tcg", **options), context)
    try:
        guest = arm.launch("t0")
        try:
            guest.wait(READY, time.monotonic_ns() + 90 * 10**9)
            attested = guest.attest(time.monotonic_ns() + 90 * 10**9)
        finally:
            guest.stop(time.monotonic_ns() + 60 * 10**9)
    finally:
        arm.close()
        left = ownership.reap(token, [plugin], dry_run=False)
    assert [line for line in left if "directory: " not in line] == []
    return guest, {**arm.facts, "attested": attested.root_digest}


@pytest.mark.parametrize(
    ("options", "root", "made"),
    [
        pytest.param({"storage": "erofs-layers"}, "overlay / overlay", 3, id="layers"),
        pytest.param({"storage": {"driver": "qcow2", "depth": 3}}, "/dev/vda / ext4", None, id="qcow2"),
    ],
)
def test_the_guest_sees_and_attests_the_images_tree(
    store: Store, layered: Image, options: dict[str, Any], root: str, made: int | None
) -> None:
    tree = open_tree(store, layered, "layered")
    workload = WorkloadSpec(("/bin/sh", "-ec", SCRIPT), {"PATH": "/bin"})
    guest, facts = start(options, ArmSpec("vm", tree, workload, Limits(memory_bytes=192 << 20)))
    stdout, stderr = guest.output()
    assert (stderr, facts["attested"]) == (b"", tree.digest)
    assert stdout.decode().splitlines()[0] == str(MADE_S)
    assert root in stdout.decode()
    assert facts.get("layers_made") == made


def test_disks_of_layers_stay_as_long_as_their_layers(store: Store, layered: Image) -> None:
    disk = layered_disk(open_tree(store, layered, "layered"))
    files = [Path(line.split('"')[1]) for line in disk.path.read_text().splitlines() if line.startswith("RW ")]
    collect(store)
    assert len(files) == 3
    assert all(file.exists() for file in (*files, disk.path))
    assert layered_disk(open_tree(store, layered, "layered")).made == 0
