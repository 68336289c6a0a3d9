"""Every storage driver that works on this host keeps the contract; those that do not say why."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.container import mountinfo
from harness.errors import CapabilityError
from harness.images.storage import detached, kinds, leftovers, overlay, padding
from tests import storage_contract
from tests.storage_contract import CHECKS

pytestmark = pytest.mark.needs("root", "overlayfs")

WHERE = Path(__file__).parents[2]


@contextmanager
def lab_of(name, base):
    found = kinds.available(name, base)
    if not found.available:
        pytest.skip(f"{name}: {found.reason}")
    with storage_contract.lab(name, base, secrets.token_hex(4)) as lab:
        yield lab


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("drivers")


@pytest.mark.needs("fuse-overlayfs", "btrfs")
def test_drivers_that_a_test_machine_must_have(base):
    """In CI a driver that stopped working must not hide as one that this host lacks."""
    found = {name: kinds.available(name, base) for name in ("overlay", "fuse-overlayfs", "vfs", "btrfs", "erofs")}
    assert {name: one.reason for name, one in found.items() if not one.available} == {}


@pytest.mark.parametrize("name", kinds.KINDS)
def test_contract(name, base, subtests):
    with lab_of(name, base) as lab:
        for what, check in CHECKS.items():
            with subtests.test(what):
                check(lab)
                assert not [mount.point for mount in mountinfo.read() if str(base) in mount.point]
    assert list(kinds.home(base, lab.token).iterdir()) == []
    assert leftovers.reap(base, lab.token, dry_run=False) == [f"directory: {kinds.home(base, lab.token)}"]


def test_contract_of_overlay_by_options(base, subtests, monkeypatch):
    """As on a kernel before 6.8: by mount(2), in a namespace of its own."""
    monkeypatch.setattr(detached, "takes_single_layers", lambda: False)
    with lab_of("overlay", base) as lab:
        for what, check in CHECKS.items():
            with subtests.test(what):
                check(lab)


def test_contract_of_erofs_on_loop_devices(base, subtests, monkeypatch):
    """As on a kernel before 6.15, which stacks no detached mounts."""
    monkeypatch.setattr("harness.images.storage.erofs._stacks_files", lambda place: False)
    with lab_of("erofs", base) as lab:
        for what, check in CHECKS.items():
            with subtests.test(what):
                check(lab)


def stack(base, name, depth):
    """Return layers, the topmost first, with paths so long that 20 of them fill the page of options of mount(2)."""
    tree = base / name / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "tool").write_text("x")
    place = base / name / ("long" * 40)
    place.mkdir()
    return [*reversed(padding.pad(tree, depth - 1, place)), tree]


@pytest.mark.parametrize("singles", [pytest.param(True, id="one-by-one"), pytest.param(False, id="by-options")])
@pytest.mark.parametrize("depth", [1, 20, 128, 300, 500])
def test_overlay_of_any_depth(depth, singles, tmp_path, monkeypatch):
    if singles and not detached.takes_single_layers():
        pytest.skip("overlay takes no single layers before Linux 6.8")
    monkeypatch.setattr(detached, "takes_single_layers", lambda: singles)
    layers = stack(tmp_path, "stack", depth)
    driver = overlay.Overlay(tmp_path / "home", "0badcafe")
    (tmp_path / "home").mkdir()
    for number, layer in enumerate(reversed(layers)):
        driver.add(str(number), str(number - 1) if number else None, layer)
    driver.prepare("top", str(depth - 1))
    for readonly in (False, True):
        fd = driver.mount("top", readonly=readonly).fd
        assert Path(f"/proc/self/fd/{fd}/bin/tool").read_text() == "x"
        os.close(fd)
    driver.close()


def test_overlay_deeper_than_the_kernel_stacks_says_so(tmp_path):
    layers = stack(tmp_path, "stack", 501)
    with pytest.raises(CapabilityError, match="501 layers: it stacks 500 at most"):
        detached.overlay(layers, tmp_path)


def test_killed_harness_leaves_what_clean_finds(tmp_path):
    """After kill -9 no mount and no loop device is left; processes and directories are found by the run's token."""
    token = secrets.token_hex(4)
    code = f"""
import os, signal, sys
from pathlib import Path
from harness.images.storage import kinds
from tests import storage_contract as c
base, held = Path({str(tmp_path)!r}), []
for name in {[name for name in kinds.KINDS if kinds.available(name, tmp_path).available]!r}:
    layer = c.make_base(base / ("layers-" + name))
    driver = kinds.open_driver(name, base, {token!r})
    driver.add("base", None, layer)
    driver.prepare("one", "base")
    held.append((driver, driver.mount("one")))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=WHERE, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert leftovers.tokens(tmp_path) == {token}
    time.sleep(0.2)  # what FUSE serves ends when its mount has gone
    lines = leftovers.reap(tmp_path, token, dry_run=False)
    assert lines[-1] == f"directory: {kinds.home(tmp_path, token)}"
    assert leftovers.tokens(tmp_path) == set()
    backed = [file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not any(token in line for line in backed)


def test_unavailable_driver_says_why_and_what_helps(tmp_path):
    found = {name: kinds.available(name, tmp_path) for name in kinds.KINDS}
    assert found["overlay"].available
    assert found["vfs"].available
    for capability in found.values():
        assert capability.available or (capability.reason and capability.hint)
