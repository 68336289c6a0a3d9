"""The storage scenarios in guests, as shipped but for one block: a volume's disk, and a chain of sixty images."""

from __future__ import annotations

import pytest

from tests.integration.test_storage_run import Ground, ground
from tests.vm._thorough import ON_REQUEST

pytestmark = [pytest.mark.needs("root", "overlayfs", "qemu", "libvirt", "kernel", "erofs"), ON_REQUEST]

__all__ = ["ground"]


def test_a_guest_works_on_a_volumes_disk_and_on_a_chain_of_images(ground: Ground, tmp_path) -> None:
    for scenario, arm in (("volumes.yaml", "vm-disk"), ("storage-depth.yaml", "vm-qcow2-60")):
        done, trials = ground.run(scenario, tmp_path / arm, arm, more=("--set", f"runtimes.{arm}.accel=tcg"))
        assert done.returncode == 0, done.stderr
        metrics = trials[arm]["metrics"]
        assert metrics["storage.first_write.16m"]["labels"] == {
            "filesystem": "ext4", "files": "made before" if arm == "vm-disk" else "found there",
        }  # fmt: skip
        assert metrics["storage.read"]["unit"] == "bytes/s"
