"""The tests of a container's resources on hosts of the other kinds: cgroup v2 alone and v1 alone, in guests.

The guest runs `tests/integration/test_container_resources.py` as it is; a test here judges what pytest said there.
"""

from __future__ import annotations

import functools
import secrets
import shutil
import site
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import plugins
from harness.host.paths import cache_dir
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, RunContext
from harness.model.milestones import EXITED
from harness.model.spec import Limits, RootTree, WorkloadSpec
from harness.trials import ownership
from tests.vm import _image

pytestmark = pytest.mark.needs("root", "qemu", "libvirt", "kernel", "erofs", "apt")

SCRIPT = Path(__file__).with_name("guest") / "cgroup_tests.py"
TESTS = Path(__file__).parents[1] / "integration" / "test_container_resources.py"
PYTEST = ("_pytest", "pytest", "pluggy", "iniconfig", "packaging", "pygments", "py.py")
GUEST = Limits(cpus=2, memory_bytes=1 << 30, pids=1000)
# What a guest of this kind has nothing for, or this kernel.
MAY_SKIP = {"v2": ("v2 has been tested",), "v1": ("v1 has been tested", "no cgroup2 tree here")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("guests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_HOME", "")
        patch.setenv("XDG_DATA_HOME", str(path / "data"))
        yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def tree(place: Path) -> RootTree:
    root = place / "root"
    shutil.copytree(_image.base_tree(cache_dir()), root, symlinks=True)
    hidden = shutil.ignore_patterns("__pycache__")
    for name in PYTEST:
        (found,) = (path for home in site.getsitepackages() if (path := Path(home) / name).exists())
        copy = shutil.copy2 if found.is_file() else functools.partial(shutil.copytree, ignore=hidden)
        (root / "opt").mkdir(exist_ok=True)
        copy(found, root / "opt" / name)
    _image.add_harness(root, SCRIPT, TESTS)
    return resolve_image(ImageRef("rootfs", str(root)), place, Store(place / "store"))


@pytest.fixture(scope="module", params=["v2", "v1"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def deadline(seconds: float) -> int:
    return time.monotonic_ns() + round(seconds * 10**9)


@pytest.fixture(scope="module")
def lines(mode: str, tree: RootTree) -> list[str]:
    """What pytest said in a guest that has cgroups of this kind; the guest is gone again."""
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "resources")
    backend = plugins.load("backends", "libvirt")
    workload = WorkloadSpec(("/usr/bin/python3", f"/opt/{SCRIPT.name}", mode), {"PATH": "/usr/bin:/bin"})
    try:
        options = backend.options.model_validate({"accel": "tcg"})
        arm = backend.prepare(
            ArmSpec("guest", tree, workload, GUEST), options, RunContext("resources", token, scratch, cache_dir())
        )
        try:
            instance = arm.launch(mode)
            try:
                instance.wait(EXITED, deadline(240))
            finally:
                instance.stop(deadline(30))
        finally:
            arm.close()
    finally:
        ownership.reap(token, [backend], dry_run=False)
    stdout, stderr = instance.output()
    said: bytes = stdout + stderr
    return said.decode().splitlines()


def test_resources_hold_there(mode: str, lines: list[str]) -> None:
    passed = [line for line in lines if line.startswith("PASSED ")]
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    assert not failed, "\n".join(lines)
    assert len(passed) >= 30, "\n".join(lines)


def test_nothing_is_skipped_but_what_cannot_be_there(mode: str, lines: list[str]) -> None:
    skipped = [line for line in lines if line.startswith("SKIPPED ")]
    assert any(line.startswith("PASSED ") for line in lines), "\n".join(lines)
    assert [line for line in skipped if not line.endswith(MAY_SKIP[mode])] == []
