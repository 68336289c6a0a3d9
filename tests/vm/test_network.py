"""`network: bridge` for a guest: reached from the run's namespace over the run's bridge, and all of it removed."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.backends import _network, libvirt
from harness.errors import CapabilityError, ImageError
from harness.host import netns
from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, RunContext
from harness.model.milestones import EXEC, READY
from harness.model.spec import Limits, NetworkKind, Ready, RootTree, WorkloadSpec
from harness.trials import ownership
from tests.integration.test_run_network import host_network

pytestmark = pytest.mark.needs("root", "bridge", "qemu", "libvirt", "kernel", "erofs")
SECOND_NS = 10**9
SERVER = WorkloadSpec(
    ("httpd", "-f", "-p", "8080", "-h", "/etc"), {"PATH": "/bin"}, ready=Ready("http", port=8080, path="/passwd")
)


@pytest.fixture(scope="module")
def tree() -> RootTree:
    store = Store(data_dir() / "images")
    try:
        return resolve_image(ImageRef("name", "busybox"), Path(), store)
    except ImageError:
        bootstrap_busybox(store, cache_dir())
        return resolve_image(ImageRef("name", "busybox"), Path(), store)


@pytest.fixture
def context() -> Iterator[RunContext]:
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "network")
    yield RunContext("network", token, scratch, cache_dir())
    assert libvirt.PLUGIN.reap(token, dry_run=True) == []
    ownership.reap(token, [libvirt.PLUGIN], dry_run=False)


def prepare(tree: RootTree, context: RunContext, network: NetworkKind, **options: Any) -> libvirt.LibvirtArm:
    spec = ArmSpec("vm", tree, SERVER, Limits(1, 192 << 20, 64), network)
    arm = libvirt.PLUGIN.prepare(spec, libvirt.Options.model_validate({"accel": "tcg", **options}), context)
    assert isinstance(arm, libvirt.LibvirtArm)
    return arm


def deadline() -> int:
    return time.monotonic_ns() + 60 * SECOND_NS


def get(address: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, 8080, timeout=20)
    try:
        connection.request("GET", "/passwd")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def links_seen_by_threads() -> dict[int, list[str]]:
    """Return the interfaces in each network namespace in which a thread of ours is, by its inode.

    A thread that libvirt starts for its own use while a guest starts stays in that guest's namespace. One that
    ends while we look is in none.
    """
    seen = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names = re.findall(r"^\s*(\S+):", (task / "net" / "dev").read_text(), re.MULTILINE)
            seen[(task / "ns" / "net").stat().st_ino] = names
    return seen


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_the_load_generator_reaches_a_guest_over_the_bridge_and_nothing_is_left(
    tree: RootTree, context: RunContext, machine: str
) -> None:
    before = host_network()
    arm = prepare(tree, context, "bridge", machine=machine)
    network = _network.acquire(context.token)
    try:
        guest = arm.launch("t1")
        try:
            guest.wait(READY, deadline())
            assert guest.place is not None
            address = str(guest.place.address)
            status, body = network.run_inside(lambda: get(address))
            assert (status, body) == (200, (tree.path / "etc" / "passwd").read_bytes())
            seen = guest.exec(["sh", "-c", "ip address show eth0; ip route"], 20 * SECOND_NS).stdout.decode()
            assert f"inet {address}/24" in seen
            assert guest.place.mac in seen
            assert f"default via {network.gateway} dev eth0" in seen
            assert guest.pids()[0] in netns.holders()[context.token]
            assert host_network() == before
        finally:
            guest.stop(deadline())
        names = [mark.milestone for mark in guest.marks]
        assert names.index(EXEC) < names.index(READY)
        facts = arm.facts["network"]
        assert isinstance(facts, dict)
        assert (facts["kind"], facts["driver"], facts["mtu_bytes"]) == ("bridge", "virtio_net", 1500)
        assert (facts["vhost"], facts["vhost_reason"]) == (False, "only with KVM")
    finally:
        _network.release(context.token)
        arm.close()
    assert context.token not in netns.holders()
    seen_now = links_seen_by_threads()
    del seen_now[Path("/proc/thread-self/ns/net").stat().st_ino]
    assert all(links == ["lo"] for links in seen_now.values())
    assert host_network() == before


def test_two_guests_at_a_time_have_addresses_of_their_own(tree: RootTree, context: RunContext) -> None:
    arm = prepare(tree, context, "bridge")
    network = _network.acquire(context.token)
    guests = []
    try:
        guests = [arm.launch(f"t{number}") for number in range(2)]
        for guest in guests:
            guest.wait(READY, deadline())
        addresses = [str(guest.place.address) for guest in guests if guest.place]
        assert len(set(addresses)) == 2
        assert [network.run_inside(lambda at=address: get(at))[0] for address in addresses] == [200, 200]
    finally:
        for guest in guests:
            guest.stop(deadline())
        _network.release(context.token)
        arm.close()


def test_a_guest_without_a_network_has_no_interface_but_loopback(tree: RootTree, context: RunContext) -> None:
    arm = prepare(tree, context, "none")
    guest = arm.launch("t1")
    try:
        guest.wait(READY, deadline())
        assert guest.exec(["ls", "/sys/class/net"], 20 * SECOND_NS).stdout == b"lo\n"
        assert arm.facts["network"] == {"kind": "none"}
    finally:
        guest.stop(deadline())
        arm.close()


def test_the_hosts_network_is_refused(tree: RootTree, context: RunContext) -> None:
    with pytest.raises(CapabilityError, match="vm: network: host: a VM has a network stack of its own"):
        prepare(tree, context, "host")


def test_a_bridge_is_refused_where_a_daemon_starts_the_guest(tree: RootTree, context: RunContext) -> None:
    with pytest.raises(CapabilityError, match="network: bridge: a libvirt daemon is in the host's network namespace"):
        prepare(tree, context, "bridge", uri="qemu:///system")


# -- a whole run, and one that is interrupted or killed --------------------------------------------------------------

SCENARIO = """\
schema: harness.scenario/1
name: bridged
image: {name: busybox}
workload: {kind: http, argv: [/bin/busybox, httpd, -f, -p, "8080", -h, /etc], port: 8080, ready: {http: /passwd}}
limits: {cpus: 1, memory: 192MiB, pids: 64}
network: bridge
runtimes:
  vm: {backend: libvirt, accel: tcg}
control: vm
trials: {blocks: {min: BLOCKS, max: BLOCKS}, warmup: 0, seed: 7}
metrics: [startup]
"""


@pytest.fixture
def ground(tree: RootTree, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory in which runs are made, with a short path: it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="hn") as place:
        monkeypatch.setenv("HARNESS_RUNTIME", f"{place}/r")
        yield Path(place)


def harness(ground: Path, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", *argv]
    return subprocess.Popen(command, cwd=ground, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start_run(ground: Path, blocks: int) -> subprocess.Popen[str]:
    (ground / "scenario.yaml").write_text(SCENARIO.replace("BLOCKS", str(blocks)))
    return harness(ground, "run", "scenario.yaml")


def token_of(ground: Path, run: subprocess.Popen[str]) -> str:
    """Return the token of a run when its guest is there; the harness and libvirt's helpers are inside for a moment."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s and run.poll() is None:
        for path in (ground / "r").glob("*/owner.json"):
            pids = netns.holders().get(path.parent.name, set())
            if {Path(f"/proc/{pid}/comm").read_text()[:11] for pid in pids} == {"qemu-system"}:
                return path.parent.name
        time.sleep(0.05)
    run.kill()
    raise AssertionError(f"no guest in the network of a run: {run.communicate()[0]}")


def test_a_run_records_its_network_and_leaves_nothing(ground: Path) -> None:
    before = host_network()
    with start_run(ground, 1) as run:
        output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    (record,) = (ground / "results").glob("*/run.json")
    assert json.loads(record.read_text())["arms"]["vm"]["network"]["kind"] == "bridge"
    assert "networks-differ" not in output
    assert host_network() == before


def test_ctrl_c_leaves_nothing(ground: Path) -> None:
    with start_run(ground, 50) as run:
        token = token_of(ground, run)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=120)
    assert run.returncode == 130, output
    assert token not in netns.holders()
    assert not (ground / "r" / token).exists()


def test_what_kill_9_leaves_is_one_guest_that_clean_finds_and_the_network_goes_with_it(ground: Path) -> None:
    with start_run(ground, 50) as run:
        token = token_of(ground, run)
        run.kill()
        run.communicate(timeout=60)
    (pid,) = netns.holders()[token]
    with harness(ground, "clean") as clean:
        output, _ = clean.communicate(timeout=60)
    assert clean.returncode == 0, output
    assert len(re.findall(rf"pid {pid}\b", output)) == 1  # whichever backend finds it first tells of it
    until_s = time.monotonic() + 5
    while token in netns.holders() and time.monotonic() < until_s:
        time.sleep(0.05)
    assert token not in netns.holders()
