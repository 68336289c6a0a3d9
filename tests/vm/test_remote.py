"""`uri: qemu+ssh://HOST/..`: trials made by the harness of another host, over a real sshd in namespaces of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.host.paths import cache_dir
from tests.vm import _libvirtd, _sshd
from tests.vm._thorough import ON_REQUEST

pytestmark = pytest.mark.needs("root", "overlayfs", "qemu", "libvirt", "kernel", "erofs", "sshd")

SCENARIO = """\
schema: harness.scenario/1
name: elsewhere
image: {name: busybox}
workload: {kind: command, argv: [/bin/busybox, sh, -c, "echo up; sleep 60"], ready: {line: up}}
limits: {cpus: 1, memory: 192MiB, pids: 64}
runtimes:
  container: {backend: builtin}
  vm: {backend: libvirt, machine: q35, accel: tcg, uri: "URI"}
trials: {blocks: {min: BLOCKS, max: BLOCKS}, warmup: 0, seed: 7}
metrics: [startup, memory]
"""
WAIT_S = 60


@pytest.fixture(scope="module")
def far() -> Iterator[_sshd.Host]:
    place = Path(tempfile.mkdtemp(prefix="hf"))  # short: it holds sockets
    try:
        with _sshd.running(place, cache_dir()) as host:
            yield host
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This host's image store, with one image in it."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "harness", "image", "bootstrap", "busybox"]
    subprocess.run(command, env={**os.environ, "HARNESS_HOME": str(home)}, check=True, capture_output=True)
    return home


@dataclass(frozen=True, slots=True)
class Ground:
    """A directory with a scenario, and what a run of it did."""

    path: Path
    environment: Mapping[str, str]

    def command(self, *argv: str) -> subprocess.Popen[str]:
        """Start the harness with its output in `out` and `log`."""
        with (self.path / "out").open("wb") as out, (self.path / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "harness", *argv], cwd=self.path, stdout=out, stderr=log, text=True,
                env=self.environment,
            )  # fmt: skip

    def run(self, uri: str, blocks: int = 1) -> subprocess.Popen[str]:
        text = SCENARIO.replace("URI", uri).replace("BLOCKS", str(blocks))
        (self.path / "scenario.yaml").write_text(text)
        return self.command("run", "scenario.yaml")

    def said(self) -> str:
        """Return what the last command wrote to stderr."""
        return (self.path / "log").read_text()

    def directory(self) -> Path:
        (found,) = (self.path / "results").iterdir()
        return found

    def records(self) -> dict[str, dict[str, Any]]:
        lines = (self.directory() / "trials.jsonl").read_text().splitlines()
        return {record["trial_id"]: record for record in map(json.loads, lines)}


def make_ground(path: Path, home: Path) -> Ground:
    path.mkdir(exist_ok=True)
    environment = {**os.environ, "HARNESS_HOME": str(home)}
    environment.pop("GITHUB_ACTIONS", None)
    return Ground(path, environment)


def wait_for(what: Callable[[], Any], says: Callable[[], str]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end_s, says()
        time.sleep(0.02)


def ssh_of(pid: int) -> int:
    """Return the ssh that a harness has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "ssh\n"]
    return found


def wait_for_guest(ground: Ground, run: subprocess.Popen[str], far: _sshd.Host, trial: str) -> None:
    wait_for(lambda: any(name.endswith(f"-{trial}") for name in far.guests()) or run.poll() is not None, ground.said)


@pytest.fixture(scope="module")
def cut(far: _sshd.Host, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A run of three blocks: in the second ssh is killed while the guest boots, in the third the harness there."""
    ground = make_ground(tmp_path_factory.mktemp("cut"), home)
    run = ground.run(far.uri("/embed"), blocks=3)
    try:
        wait_for_guest(ground, run, far, "b01-vm")
        os.kill(ssh_of(run.pid), signal.SIGKILL)
        wait_for_guest(ground, run, far, "b02-vm")
        for pid in far.connections():
            os.kill(pid, signal.SIGKILL)
        assert run.wait(WAIT_S) == 4, ground.said()  # two of three trials of the VM failed
    finally:
        run.kill()
        run.wait()
    return ground


def test_a_killed_connection_is_a_failed_trial_of_that_runtime_alone(cut: Ground) -> None:
    found = cut.records()
    assert {name: record["status"] for name, record in found.items()} == {
        "b00-container": "ok", "b01-container": "ok", "b02-container": "ok",
        "b00-vm": "ok", "b01-vm": "failed", "b02-vm": "failed",
    }  # fmt: skip
    assert "the connection was lost: ssh was killed by signal 9" in found["b01-vm"]["error"]
    assert "the connection was lost: ssh ended with code 255" in found["b02-vm"]["error"]
    assert [found[f"b0{block}-vm"].get("ending") for block in range(3)] == [None, "host-lost", "host-lost"]


def test_it_leaves_nothing_on_the_other_host(cut: Ground, far: _sshd.Host) -> None:
    assert (far.left(), far.connections()) == ([], [])
    assert "left behind" not in cut.said()


def test_a_trial_is_made_there_with_the_image_of_this_host_and_by_one_clock(cut: Ground) -> None:
    near, distant = cut.records()["b00-container"], cut.records()["b00-vm"]
    assert cut.said().count("takes the image, once") == 1
    assert near["attestation"]["root_digest"] == distant["attestation"]["root_digest"]
    assert near["attestation"]["kernel"] != distant["attestation"]["kernel"]
    milestones = ["requested", "vmm.exec", "kernel", "init", "exec", "ready", "deleted"]
    assert [name for name in distant["marks"] if name in milestones] == milestones
    assert distant["metrics"]["memory.pss"]["value"] > 0
    assert "Linux version" in (cut.directory() / "logs" / "b00-vm" / "console.log").read_text()


def test_the_run_and_its_table_say_on_which_host(cut: Ground) -> None:
    arm = json.loads((cut.directory() / "run.json").read_text())["arms"]["vm"]
    assert (arm["host"]["name"], arm["host"]["hostname"]) == (_sshd.ADDRESS, _sshd.HOSTNAME)
    assert (arm["accelerator"], arm["host_class"]) == ("tcg", arm["host"]["class"])
    table = (cut.path / "out").read_text()
    assert f"vm (tcg, on {_sshd.ADDRESS})" in table
    assert "the difference of hosts and of runtimes in one" in " ".join(table.split())


def test_a_killed_harness_leaves_nothing_on_either_host(far: _sshd.Host, home: Path, tmp_path: Path) -> None:
    ground = make_ground(tmp_path, home)
    run = ground.run(far.uri("/embed"))
    try:
        wait_for_guest(ground, run, far, "b00-vm")
    finally:
        run.kill()
        run.wait()
    wait_for(lambda: not far.connections(), ground.said)
    assert far.left() == []
    assert ground.command("clean", "--json").wait(WAIT_S) == 0
    assert json.loads((ground.path / "out").read_text())["left"] == []


def test_a_host_that_cannot_be_used_is_refused_in_one_message(far: _sshd.Host, home: Path, tmp_path: Path) -> None:
    cases = {
        "silent": far.uri("/embed").replace(f":{_sshd.PORT}/", ":2/"),
        "stranger": far.uri("/embed", keyfile=str(far.place / "host_key")),
        "empty": far.uri("/embed", harness="/nonexistent/harness"),
    }
    grounds = {case: make_ground(tmp_path / case, home) for case in cases}
    runs = {case: grounds[case].run(uri) for case, uri in cases.items()}
    assert {case: run.wait(WAIT_S) for case, run in runs.items()} == dict.fromkeys(cases, 3)
    seen = {case: ground.said() for case, ground in grounds.items()}
    assert "cannot be reached: ssh: connect to host 127.0.0.9 port 2: Connection refused" in seen["silent"]
    assert "cannot be reached: root@127.0.0.9: Permission denied (publickey" in seen["stranger"]
    assert "no harness there: " in seen["empty"]
    assert [text.count("error:") for text in seen.values()] == [1, 1, 1]
    assert not any((ground.path / "results").exists() for ground in grounds.values())


@ON_REQUEST
@pytest.mark.needs("libvirtd")
def test_a_guest_of_the_libvirt_daemon_of_the_other_host(far: _sshd.Host, home: Path, tmp_path: Path) -> None:
    ground = make_ground(tmp_path, home)
    place = Path(tempfile.mkdtemp(prefix="hv"))
    place.chmod(0o755)
    try:
        with _libvirtd.running(place):
            code = ground.run(far.uri("/system", socket=f"{place}/libvirt-sock")).wait(WAIT_S)
    finally:
        shutil.rmtree(place)
    assert code == 0, ground.said()
    assert ground.records()["b00-vm"]["status"] == "ok"
    arm = json.loads((ground.directory() / "run.json").read_text())["arms"]["vm"]
    assert arm["uri"] == f"qemu+unix:///system?socket={place}/libvirt-sock"
    assert (far.left(), far.connections()) == ([], [])
