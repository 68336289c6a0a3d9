"""The storage scenarios end to end in containers, as shipped but for one block: real copy-ups, volumes and a tmpfs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.agent.program import agent_bytes
from harness.host.paths import cache_dir
from harness.workloads import storage

pytestmark = pytest.mark.needs("root", "overlayfs")

ROOT = Path(__file__).parents[2]
ONE_BLOCK = ("--set", "trials.blocks.min=1", "--set", "trials.blocks.max=1", "--set", "trials.warmup=0")
SMALL = ("--set", "workload.sequential=2MiB", "--set", "workload.metadata=50")


@dataclass(frozen=True)
class Ground:
    """An image store of its own, with the machine's package cache, in which the image is built once."""

    path: Path

    def harness(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, "-m", "harness", *argv], {**os.environ, "HARNESS_HOME": str(self.path / "home")}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)

    def run(self, name: str, results: Path, *arms: str, more: tuple[str, ...] = ()) -> tuple[Any, dict[str, Any]]:
        only = [word for arm in arms for word in ("--only", arm)]
        scenario = str(ROOT / "scenarios" / name)
        done = self.harness("run", scenario, "--results", str(results), *only, *ONE_BLOCK, *SMALL, *more)
        (directory,) = results.iterdir()
        trials = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()]
        return done, {trial["runtime"]: trial for trial in trials}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    path = tmp_path_factory.mktemp("storage")
    (path / "home").mkdir()
    (path / "home" / "cache").symlink_to(cache_dir())
    made = Ground(path)
    assert made.harness("image", "bootstrap", "busybox").returncode == 0
    return made


def test_storage_drivers_copy_up_what_the_image_has(ground: Ground, tmp_path: Path) -> None:
    done, trials = ground.run("storage-drivers.yaml", tmp_path, "overlay", "vfs")
    assert done.returncode == 0, done.stderr
    names = {metric.name for metric in storage.PLUGIN.metrics}
    assert all(names <= set(trial["metrics"]) for trial in trials.values())
    first = {name: trial["metrics"]["storage.first_write.16m"] for name, trial in trials.items()}
    assert first["overlay"]["labels"] == {"filesystem": "overlay", "files": "found there"}
    assert first["vfs"]["labels"]["files"] == "found there"
    # 16 MiB are copied and synced, or one page is written to: orders of magnitude.
    assert first["overlay"]["value"] > 2 * first["vfs"]["value"]
    programs = {trial["attestation"]["exe_sha256"] for trial in trials.values()}
    assert programs == {hashlib.sha256(agent_bytes()).hexdigest()}
    assert done.stdout.startswith("storage.first_write.4k: ")


def test_volumes_differ_in_what_is_mounted_and_leave_nothing(ground: Ground, tmp_path: Path) -> None:
    arms = ("layer", "volume", "bind", "tmpfs")
    done, trials = ground.run("volumes.yaml", tmp_path, *arms)
    assert done.returncode == 0, done.stderr
    labels = {name: trial["metrics"]["storage.walk"]["labels"] for name, trial in trials.items()}
    assert {name: label["files"] for name, label in labels.items()} == {
        "layer": "found there", "volume": "made before", "bind": "made before", "tmpfs": "made before",
    }  # fmt: skip
    assert (labels["layer"]["filesystem"], labels["tmpfs"]["filesystem"]) == ("overlay", "tmpfs")
    assert labels["volume"]["filesystem"] == labels["bind"]["filesystem"] != "overlay"
    assert [path.name for path in (ROOT / "scenarios" / "bind").iterdir()] == ["README.md"]


def test_work_that_is_not_done_fails_the_trial_with_its_reason(ground: Ground, tmp_path: Path) -> None:
    more = ("--set", "workload.walk.fanout=5")  # the image's tree has four of each
    done, trials = ground.run("storage-drivers.yaml", tmp_path, "overlay-memory", more=more)
    assert done.returncode == 4
    assert "iobench: tree: 424 entries, expected 935" in trials["overlay-memory"]["error"]
    assert not any(name.startswith("storage.") for name in trials["overlay-memory"]["metrics"])
