"""The main job end to end: the command, a real guest, a real container, and what is left when it is killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.host.paths import cache_dir
from harness.model.spec import RootTree

pytestmark = pytest.mark.needs("root", "overlayfs", "qemu", "libvirt", "kernel", "erofs")

SCENARIO = """\
schema: harness.scenario/1
name: main-job
image: {name: busybox}
workload: {kind: http, argv: [/bin/busybox, httpd, -f, -p, "8080", -h, /etc], port: 8080, ready: {http: /passwd}}
limits: {cpus: 1, memory: 192MiB, pids: 64}
runtimes:
  process:   {backend: process}
  container: {backend: builtin}
  vm:        {backend: libvirt, machine: q35, accel: tcg}
control: process
trials: {blocks: {min: 2, max: 2}, warmup: 1, seed: 7}
metrics: [startup, memory, isolation]
"""


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the scenario, its own image store and runtime directory, and the machine's kernel cache."""
    cache = cache_dir()  # of the caller's environment, which may say HARNESS_HOME
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(cache)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    assert harness("image", "bootstrap", "busybox", cwd=tmp_path).returncode == 0
    return tmp_path


def harness(*argv: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def trials(results: Path) -> list[dict]:
    (run,) = results.iterdir()
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


def test_one_command_measures_a_guest_a_container_and_a_process_and_compares_them(ground: Path) -> None:
    done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == 0, done.stderr
    records = trials(ground / "results")
    assert len(records) == 9
    assert all(record["status"] == "ok" for record in records), records
    digests = {record["attestation"]["root_digest"] for record in records}
    programs = {record["attestation"]["exe_sha256"] for record in records}
    assert (len(digests), len(programs)) == (1, 1)
    kernels = {record["runtime"]: record["metrics"]["isolation.kernel.shared"]["value"] for record in records}
    assert kernels == {"process": 1, "container": 1, "vm": 0}
    ready = {record["runtime"]: record["metrics"]["startup.ready"]["value"] for record in records[3:]}
    assert ready["vm"] > ready["container"] > 0
    assert "vm" in done.stdout
    assert "tcg" in done.stdout
    (run,) = (ground / "results").iterdir()
    assert {path.name for path in (run / "report").iterdir()} >= {"summary.md", "summary.csv", "summary.json"}
    claims = harness("claims", run.name, cwd=ground)
    assert claims.returncode == 0, claims.stderr
    assert "kernel" in claims.stdout


def test_an_arm_that_runs_something_else_is_refused_and_named(ground: Path) -> None:
    """The VM's cached disk is replaced by one with a changed file: only the attestation can notice."""
    from harness.images.disk import disk_image
    from harness.images.tree import root_digest

    assert harness("run", "scenario.yaml", "--only", "vm", "--set", "control=vm", cwd=ground).returncode == 0
    shutil.rmtree(ground / "results")
    (disk,) = (ground / "home" / "data" / "images" / "disks").glob("*.erofs")
    (tree,) = (path for path in (ground / "home" / "data" / "images" / "trees").iterdir() if path.is_dir())
    copy = ground / "copy"
    shutil.copytree(tree, copy, symlinks=True)
    (copy / "etc" / "passwd").write_text("tampered\n")
    tampered = disk_image(RootTree(copy, root_digest(copy), 0), ground / "tampered")
    shutil.copyfile(tampered.path, disk)
    done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == 4, done.stderr
    assert "arms are not identical: root_digest" in done.stderr
    assert "vm" in done.stderr
    assert len(trials(ground / "results")) == 3, "what was measured before is kept"


def _start(argv: Sequence[str], cwd: Path) -> subprocess.Popen[bytes]:
    with (cwd / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "harness", *argv], cwd=cwd, stdout=log, stderr=log)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _token(results: Path) -> str:
    """Return what all carries that the only run in `results` makes; it must be alive."""
    wait_for(lambda: list(results.glob("*")))
    (run,) = results.iterdir()
    (owner,) = [owner for owner in Path("/run/harness").glob("*/owner.json") if run.name in owner.read_text()]
    return owner.parent.name


def _traces(token: str) -> list[str]:
    """What this host has of a run."""
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/harness-{token}*") if path.is_dir()]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if token in line]
    processes = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if token.encode() in cmdline.read_bytes():
                processes.append(cmdline.parent.name)
        except OSError:
            continue
    return cgroups + mounts + processes


@pytest.mark.parametrize(
    ("only", "delay_s"),
    [
        pytest.param("process", 0.4, id="process"),
        pytest.param("container", 0.4, id="container"),
        pytest.param("vm", 1.9, id="vm-booting"),
    ],
)
def test_nothing_is_left_after_kill_and_clean(ground: Path, only: str, delay_s: float) -> None:
    argv = ["run", "scenario.yaml", "--only", only, "--set", f"control={only}", "--set", "trials.blocks.max=500",
            "--set", "trials.blocks.min=500"]  # fmt: skip
    process = _start(argv, ground)
    token = _token(ground / "results")
    time.sleep(delay_s)
    assert process.poll() is None, (ground / "log").read_text()
    process.kill()
    process.wait()
    assert _traces(token)
    cleaned = harness("clean", "--json", cwd=ground)
    assert cleaned.returncode == 0, cleaned.stderr
    document = json.loads(cleaned.stdout)
    assert token not in document["left"]
    assert document["found"][token], "the scratch directory of the killed run is there to be found"
    assert _traces(token) == []
    assert token not in json.loads(harness("clean", "--json", cwd=ground).stdout)["found"]


def test_interrupt_cleans_up_and_the_run_can_be_resumed(ground: Path) -> None:
    process = _start(["run", "scenario.yaml", "--only", "process", "--only", "container"], ground)
    results = ground / "results"
    token = _token(results)
    wait_for(lambda: list(results.glob("*/trials.jsonl")) and trials(results))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in {130, 0}  # 0: it was quicker than the signal
    assert _traces(token) == []
    if process.returncode == 130:
        assert "--resume" in (ground / "log").read_text()
    first = [record["trial_id"] for record in trials(results)]
    resumed = harness("run", "--resume", "latest", cwd=ground)
    assert resumed.returncode == 0, resumed.stderr
    after = [record["trial_id"] for record in trials(results)]
    assert after[: len(first)] == first
    assert len(after) == len(set(after)) == 6


def test_a_run_without_root_says_what_is_missing(ground: Path) -> None:
    """As another user, who may still read this checkout and interpreter wherever they lie."""
    capability = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *capability]
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        scenario = Path(shutil.copy(ground / "scenario.yaml", place))
        argv = [*user, sys.executable, "-m", "harness", "run", str(scenario)]
        done = subprocess.run(argv, cwd=ground, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "root: uid 65534" in done.stderr
    assert "hint: run as root" in done.stderr
