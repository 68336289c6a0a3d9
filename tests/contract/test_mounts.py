"""The same small file test in a process, a container and a guest, with a volume, a directory of the host, a tmpfs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.backends import _mounts
from harness.container import mountinfo, syscalls
from harness.errors import ImageError
from harness.host.paths import cache_dir, data_dir
from harness.images import trial_volumes
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, Instance, RunContext
from harness.model.milestones import READY
from harness.model.spec import Limits, MountSpec, RootTree, WorkloadSpec
from harness.trials import ownership
from tests.conftest import full_kernel

GUEST = ("root", "qemu", "libvirt", "kernel", "erofs")
CASES = [
    pytest.param("process", {}, marks=pytest.mark.needs("root", "overlayfs"), id="process"),
    pytest.param("builtin", {}, marks=pytest.mark.needs("root", "overlayfs"), id="builtin"),
    *(
        pytest.param(name, options, marks=pytest.mark.needs("root", "overlayfs", program), id=f"{name}{word}")
        for name, options, word, program in (
            ("runc", {}, "", "runc"),
            ("bwrap", {}, "", "bwrap"),
            ("nspawn", {}, "", "nspawn"),
            ("containerd", {}, "", "ctr"),
            ("docker", {"via": "cli"}, "-cli", "dockerd"),
            ("podman", {}, "", "podman"),
        )
    ),
    pytest.param(
        "libvirt", {"accel": "tcg", "share": "virtiofs"}, marks=pytest.mark.needs(*GUEST, "virtiofsd"), id="virtiofs"
    ),
    pytest.param("libvirt", {"accel": "tcg", "share": "9p"}, marks=pytest.mark.needs(*GUEST, "kernel-9p"), id="9p"),
]
LIMITS = Limits(cpus=1, memory_bytes=224 << 20, pids=64)
# Written by a user without privileges: what is written, renamed and read back, and what is refused.
SCRIPT = """
set -e
for place in /data /data/below /tmp/mem /shared; do
  test -z "$(ls $place | grep -v '^below$' | grep -v '^given$')"
  dd if=/dev/zero of=$place/zeros bs=64k count=16 conv=fsync 2>/dev/null
  echo hello >$place/a; sync $place/a; mv $place/a $place/b; ln -s b $place/link; mkdir $place/directory
  test "$(cat $place/link)" = hello
  test $(stat -c %s $place/zeros) = 1048576
  rm $place/zeros
done
test "$(cat /given/file)" = given
for attempt in 'echo x >/given/new' 'echo x >/given/file' 'rm /given/file' 'mkdir /given/d' 'echo x >/fixed/x'; do
  if sh -c "$attempt" 2>/dev/null; then echo "not refused: $attempt"; exit 3; fi
done
cat /proc/mounts | grep -E ' /(data|data/below|tmp/mem|shared|given|fixed) ' | sort -k 2
"""


@pytest.fixture(scope="module")
def tree() -> Iterator[RootTree]:
    store = Store(data_dir() / "images")
    try:
        found = resolve_image(ImageRef("name", "busybox"), Path(), store)
    except ImageError:
        bootstrap_busybox(store, cache_dir())
        found = resolve_image(ImageRef("name", "busybox"), Path(), store)
    yield found
    del store


@contextmanager
def running(backend: str, options: dict[str, Any], spec: ArmSpec, trials: int = 1) -> Iterator[Iterator[Instance]]:
    """Yield instances of one arm, one after the other; nothing of the run is left afterwards."""
    plugin, token = plugins.load("backends", backend), secrets.token_hex(4)
    scratch = ownership.claim(token, "mounts")
    arm = plugin.prepare(spec, plugin.options(**options), RunContext("mounts", token, scratch, cache_dir()))

    def instances() -> Iterator[Instance]:
        for number in range(trials):
            instance = arm.launch(f"t{number}")
            try:
                instance.wait(READY, time.monotonic_ns() + 60 * 10**9)
                yield instance
            finally:
                instance.stop(time.monotonic_ns() + 60 * 10**9)

    try:
        yield instances()
    finally:
        arm.close()
        left = plugin.reap(token, dry_run=True)
        ownership.reap(token, [plugin], dry_run=False)
    assert left == []
    assert token not in trial_volumes.tokens()


@pytest.mark.parametrize(("backend", "options"), CASES)
def test_files_behave_alike_everywhere(backend: str, options: dict[str, Any], tree: RootTree, tmp_path: Path) -> None:
    if options.get("share") == "9p":
        image, modules = full_kernel() or (None, None)
        options = {**options, "kernel": image, "modules": modules}
    given, shared = tmp_path / "given", tmp_path / "shared"
    given.mkdir(mode=0o755)
    (given / "file").write_text("given\n")
    shared.mkdir()
    shared.chmod(0o777)
    mounts = (
        MountSpec("volume", "/data", "data", size_bytes=16 << 20),
        MountSpec("bind", "/given", str(given), read_only=True),
        MountSpec("bind", "/shared", str(shared)),
        MountSpec("volume", "/fixed", "data", read_only=True, size_bytes=16 << 20),
        MountSpec("volume", "/data/below", "other", size_bytes=8 << 20),
        MountSpec("tmpfs", "/tmp/mem", size_bytes=8 << 20),
    )
    workload = WorkloadSpec(("/bin/sh", "-c", SCRIPT), {"PATH": "/bin"}, uid=1000, gid=1000)
    spec = ArmSpec("arm", tree, workload, LIMITS, mounts=mounts)
    with running(backend, options, spec) as instances:
        (instance,) = list(instances)
    stdout, stderr = instance.output()
    assert stderr == b""
    seen = {line.split()[1]: line.split()[2:4] for line in stdout.decode().splitlines()}
    assert list(seen) == ["/data", "/data/below", "/fixed", "/given", "/shared", "/tmp/mem"]
    assert {target for target, (_, options) in seen.items() if "ro" in options.split(",")} == {"/given", "/fixed"}
    assert seen["/tmp/mem"][0] == "tmpfs"
    assert (shared / "b").read_text() == "hello\n"
    assert (shared / "b").stat().st_uid == 1000
    assert {path.name for path in given.iterdir()} == {"file"}


@pytest.mark.needs("root", "overlayfs")
@pytest.mark.parametrize("backend", ["process", "builtin"])
def test_every_trial_has_new_volumes(backend: str, tree: RootTree) -> None:
    mounts = (MountSpec("volume", "/data", "data", size_bytes=16 << 20),)
    workload = WorkloadSpec(("/bin/sh", "-c", 'test -z "$(ls /data)" && echo x >/data/x'), {"PATH": "/bin"})
    with running(backend, {}, ArmSpec("arm", tree, workload, LIMITS, mounts=mounts), trials=2) as instances:
        for _ in instances:
            (kept,) = {path.name for path in (data_dir() / "trial-volumes").glob("*/*")}
    assert kept == "t1"


@pytest.mark.needs("root", "overlayfs")
def test_a_link_of_the_image_does_not_lead_the_control_out_of_its_root(tmp_path: Path) -> None:
    """The control's mounts are made by us, where the host sees them."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (root / "data").symlink_to(outside)
    _mounts.mount_below(str(root), (MountSpec("tmpfs", "/data", size_bytes=1 << 20),), {})
    (point,) = mountinfo.below(str(tmp_path))
    syscalls.umount2(point)
    assert point == f"{root}{outside}"
    assert list(outside.iterdir()) == []
