"""`backend: libvirt` with `uri:`: a real daemon, from the command line to the last trace."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host.paths import cache_dir
from harness.images import kernel
from tests.vm import _libvirtd
from tests.vm._thorough import ON_REQUEST

pytestmark = pytest.mark.needs("root", "overlayfs", "qemu", "libvirt", "libvirtd", "kernel", "erofs")

SCENARIO = """\
schema: harness.scenario/1
name: daemon
image: {name: busybox}
workload: {kind: http, argv: [/bin/busybox, httpd, -f, -p, "8080", -h, /etc], port: 8080, ready: {http: /passwd}}
limits: {cpus: 1, memory: 192MiB, pids: 64}
runtimes:
  vm: {backend: libvirt, machine: q35, accel: tcg, uri: "URI"}
control: vm
trials: {blocks: {min: BLOCKS, max: BLOCKS}, warmup: 0, seed: 7}
metrics: [startup, memory, isolation]
"""
BOOTING_S = 0.5  # the guest runs by then, and its agent does not yet
AUTO_DESTROY_S = 10


@pytest.fixture(scope="module")
def daemon() -> Iterator[_libvirtd.Daemon]:
    place = Path(tempfile.mkdtemp(prefix="hv"))  # short: it holds sockets
    place.chmod(0o755)
    try:
        with _libvirtd.running(place) as running:
            yield running
    finally:
        shutil.rmtree(place)


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with its own image store, closed to all users but root, and the machine's kernel cache."""
    cache = cache_dir()
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o700)
    monkeypatch.setenv("HARNESS_HOME", str(home))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    (home / "cache").symlink_to(cache)
    assert harness("image", "bootstrap", "busybox", cwd=tmp_path).returncode == 0
    return tmp_path


def harness(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=150, check=False)


def write_scenario(ground: Path, uri: str, blocks: int = 1) -> None:
    (ground / "scenario.yaml").write_text(SCENARIO.replace("URI", uri).replace("BLOCKS", str(blocks)))


def guests(daemon: _libvirtd.Daemon) -> dict[int, tuple[str, int]]:
    """Return name and user of every QEMU of this daemon, by pid: other tests may have guests on this host."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            user = place.stat().st_uid
        except OSError:
            continue
        names = [word.decode() for word in words if word.startswith(b"guest=harness-")]
        name = names[0].removeprefix("guest=").partition(",")[0] if names else ""
        if name and daemon.log_of(name) is not None:
            found[int(place.name)] = (name, user)
    return found


def owners(ground: Path) -> set[tuple[str, int, int]]:
    """Return owner and group of all that a guest is made of and that outlives it."""
    guest_kernel = kernel.find(cache_dir())
    assert guest_kernel is not None
    disks = (ground / "home" / "data" / "images" / "disks").glob("*.erofs")
    return {(path.name, path.stat().st_uid, path.stat().st_gid) for path in (guest_kernel.vmlinux, *disks)}


@ON_REQUEST
def test_a_remote_transport_to_this_host_is_as_good_as_a_local_one(daemon: _libvirtd.Daemon, ground: Path) -> None:
    """As ssh does it: a command whose stdin and stdout are the daemon's connection."""
    bridge = daemon.place / "bridge"
    bridge.write_text(
        f"#!{sys.executable}\n"
        "import os, select, socket\n"
        "peer = socket.socket(socket.AF_UNIX)\n"
        f"peer.connect({str(daemon.place / 'libvirt-sock')!r})\n"
        "while True:\n"
        "    for ready in select.select([0, peer], [], [])[0]:\n"
        "        data = os.read(0 if ready == 0 else peer.fileno(), 65536)\n"
        "        if not data:\n"
        "            raise SystemExit\n"
        "        peer.sendall(data) if ready == 0 else os.write(1, data)\n"
    )
    bridge.chmod(0o755)
    write_scenario(ground, f"qemu+ext://localhost/system?command={bridge}")
    done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == 0, done.stderr
    (run,) = (ground / "results").iterdir()
    (record,) = (json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines())
    assert record["status"] == "ok", record["error"]


@pytest.mark.parametrize("path", ["system", "session"], ids=["system", "session-of-root-is-the-system"])
def test_a_run_through_a_daemon_measures_and_leaves_files_as_they_were(
    path: str, daemon: _libvirtd.Daemon, ground: Path
) -> None:
    write_scenario(ground, daemon.uri.replace("/system", f"/{path}"))
    done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == 0, done.stderr
    (run,) = (ground / "results").iterdir()
    (record,) = (json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines())
    assert record["status"] == "ok", record["error"]
    ladder = [name for name in record["marks"] if name in {"requested", "vmm.exec", "init", "exec", "ready", "deleted"}]
    assert ladder == ["requested", "vmm.exec", "init", "exec", "ready", "deleted"]
    assert record["metrics"]["memory.guest_ram"]["value"] > 0
    assert record["absent"]["memory.cgroup.anon"] == "no memory cgroup for it here"
    facts = json.loads((run / "run.json").read_text())["arms"]["vm"]
    assert facts["qemu_started_by"] == "a libvirt daemon"
    assert facts["uri"].startswith("qemu+unix:///")
    files = owners(ground)
    assert len(files) == 2
    assert {(uid, gid) for _, uid, gid in files} == {(0, 0)}


def test_a_killed_harness_leaves_no_guest_because_the_daemon_ends_it(daemon: _libvirtd.Daemon, ground: Path) -> None:
    write_scenario(ground, daemon.uri, blocks=500)
    with (ground / "log").open("wb") as log:
        argv = [sys.executable, "-m", "harness", "run", "scenario.yaml"]
        process = subprocess.Popen(argv, cwd=ground, stdout=log, stderr=log)
    try:
        end_s = time.monotonic() + 60
        while not (own := guests(daemon)):
            assert process.poll() is None, (ground / "log").read_text()
            assert time.monotonic() < end_s, (ground / "log").read_text()
            time.sleep(0.01)
        time.sleep(BOOTING_S)
        assert process.poll() is None, (ground / "log").read_text()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    ((name, user),) = own.values()
    assert user == 0, "the user of the harness, and not the daemon's own"
    end_s = time.monotonic() + AUTO_DESTROY_S
    while {*guests(daemon)} & {*own} or "shutting down, reason=" not in (daemon.log_of(name) or ""):
        assert time.monotonic() < end_s, daemon.log_of(name)
        time.sleep(0.05)
    assert "shutting down, reason=destroyed" in daemon.log_of(name), "destroyed, and not ended by its own agent"
    cleaned = harness("clean", "--json", cwd=ground)
    assert cleaned.returncode == 0, cleaned.stderr
    assert json.loads(cleaned.stdout)["left"] == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        pytest.param("qemu+unix:///system?socket=/nonexistent", ["/nonexistent", "is the daemon running"], id="silent"),
        pytest.param("qemu+tls://elsewhere/system", ["go over ssh alone", "qemu+ssh://elsewhere/system"], id="remote"),
        pytest.param("xen:///system", ["not a URI of the QEMU driver"], id="other-driver"),
    ],
)
def test_a_uri_that_does_not_do_is_refused_with_the_reason_and_nothing_runs(
    uri: str, words: list[str], ground: Path
) -> None:
    write_scenario(ground, uri)
    done = harness("run", "scenario.yaml", cwd=ground)
    assert done.returncode == 3, done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert not (ground / "results").exists() or not any((ground / "results").glob("*/trials.jsonl"))
