"""`network:` for containers and processes: what each kind gives them, who reaches whom, and what is left."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness import plugins
from harness.backends import _local, _network
from harness.host import netns
from harness.images.tree import root_digest
from harness.interfaces import Arm, ArmSpec, Instance, RunContext
from harness.model.spec import NetworkKind, Ready, RootTree, WorkloadSpec
from tests.container_kit import BOTH, LIMITS, SECOND_NS, children, deadline, is_alive, open_fds, until
from tests.integration.test_run_network import host_network

pytestmark = pytest.mark.needs("root", "overlayfs", "bridge")
SERVER = WorkloadSpec(("httpd", "-f", "-p", "8080", "-h", "/bin"), {"PATH": "/bin"}, ready=Ready("tcp", port=8080))
HOSTS_DEFAULT = {"builtin": "none", "process": "host"}


@contextmanager
def prepared(backend: str, tree: Path, context: RunContext, network: NetworkKind | None) -> Iterator[Arm]:
    plugin = plugins.load("backends", backend)
    spec = ArmSpec(backend, RootTree(tree, root_digest(tree), 0), SERVER, LIMITS, network)
    arm = plugin.prepare(spec, plugin.options(), context)
    try:
        yield arm
    finally:
        arm.close()


@contextmanager
def launched(arm: Arm, trial_id: str = "t0") -> Iterator[Instance]:
    instance = arm.launch(trial_id)
    try:
        instance.wait("ready", deadline())
        yield instance
    finally:
        instance.stop(deadline())


def links(instance: Instance) -> list[str]:
    seen = instance.exec(["cat", "/proc/net/dev"], 10 * SECOND_NS).stdout.decode()
    return [line.partition(":")[0].strip() for line in seen.splitlines()[2:]]


def hosts_links() -> list[str]:
    return [line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]


def get_size(address: str) -> int:
    connection = http.client.HTTPConnection(address, 8080, timeout=10)
    try:
        connection.request("GET", "/busybox")
        answer = connection.getresponse()
        assert answer.status == 200
        return len(answer.read())
    finally:
        connection.close()


@BOTH
def test_the_load_generator_reaches_an_instance_over_the_bridge(backend: str, tree: Path, context: RunContext) -> None:
    before = host_network()
    with prepared(backend, tree, context, "bridge") as arm, launched(arm) as instance:
        network = _network.acquire(context.token)
        try:
            address = instance.address
            assert address is not None
            size = network.run_inside(lambda: get_size(address))
            assert host_network() == before
        finally:
            _network.release(context.token)
        assert size == (tree / "bin" / "busybox").stat().st_size
        assert links(instance) == ["lo", "eth0"]
        assert arm.facts["network"] == {
            "kind": "bridge", "driver": "veth", "mtu_bytes": 1500, "subnet": str(netns.SUBNET),
        }  # fmt: skip
    assert host_network() == before


@BOTH
def test_without_a_network_there_is_loopback_alone_and_it_is_up(backend: str, tree: Path, context: RunContext) -> None:
    with prepared(backend, tree, context, "none") as arm, launched(arm) as instance:  # ready: 127.0.0.1 answered
        assert links(instance) == ["lo"]
        assert instance.address is None
        assert arm.facts["network"] == {"kind": "none"}


@BOTH
def test_with_the_hosts_network_it_sees_the_hosts_links(backend: str, tree: Path, context: RunContext) -> None:
    with prepared(backend, tree, context, "host") as arm, launched(arm) as instance:
        assert links(instance) == hosts_links()
        (pid, *_) = instance.pids()
        assert Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
        assert arm.facts["network"] == {"kind": "host"}


@BOTH
def test_the_default_is_the_backends_own(backend: str, tree: Path, context: RunContext) -> None:
    with prepared(backend, tree, context, None) as arm:
        assert arm.facts["network"] == {"kind": HOSTS_DEFAULT[backend]}


def test_two_arms_share_one_bridge_and_each_instance_has_its_own_address(tree: Path, context: RunContext) -> None:
    with ExitStack() as stack:
        arms = [stack.enter_context(prepared(name, tree, context, "bridge")) for name in ("builtin", "process")]
        instances = [stack.enter_context(launched(arm, f"t{n}{m}")) for n, arm in enumerate(arms) for m in range(2)]
        addresses = [instance.address for instance in instances if instance.address]
        assert len(set(addresses)) == 4
        network = _network.acquire(context.token)
        stack.callback(_network.release, context.token)
        sizes = {network.run_inside(lambda at=address: get_size(at)) for address in addresses}
        assert sizes == {(tree / "bin" / "busybox").stat().st_size}
    assert context.token not in netns.holders()


@BOTH
def test_repeated_starts_on_a_bridge_leak_no_fd_no_child_and_no_port(
    backend: str, tree: Path, context: RunContext
) -> None:
    with prepared(backend, tree, context, "bridge") as arm:
        with launched(arm):
            pass
        before, fds = children(), open_fds()
        for number in range(3):
            with launched(arm, f"t{number}"):
                pass
        assert children() == before
        assert open_fds() == fds
        network = _network.acquire(context.token)
        try:
            ports = json.loads(network.command(["ip", "-j", "link", "show", "master", network.bridge]).stdout)
        finally:
            _network.release(context.token)
        assert len(ports) <= 1  # the last instance's, which the next start would remove


RUN = """
import sys, time
from pathlib import Path
from harness import plugins
from harness.backends import _network
from harness.host.paths import cache_dir
from harness.interfaces import ArmSpec, RunContext
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
tree, token, scratch = sys.argv[1:]
server = WorkloadSpec(("httpd", "-f", "-p", "8080"), {"PATH": "/bin"}, ready=Ready("tcp", port=8080))
context = RunContext("test", token, Path(scratch), cache_dir())
backend = plugins.load("backends", "builtin")
spec = ArmSpec("arm", RootTree(Path(tree), "", 0), server, Limits(), "bridge")
arm = backend.prepare(spec, backend.options(), context)
instance = arm.launch("t0")
instance.wait("ready", time.monotonic_ns() + 20 * 10**9)
print(instance.pids()[0], flush=True)
_network.acquire(token).command(["sleep", "300"])
"""


def test_after_kill_9_the_container_is_dead_and_reaping_ends_the_load_generator(
    tree: Path, context: RunContext
) -> None:
    argv = [sys.executable, "-c", RUN, str(tree), context.token, str(context.scratch)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        until(lambda: len(netns.holders().get(context.token, set()) - {run.pid}) == 1)
        run.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(pid))
    until(lambda: len(netns.holders()[context.token]) == 1)
    (client,) = netns.holders()[context.token]
    line = f"process: pid {client} in the network namespace of run {context.token}"
    assert line in _local.reap(context.token, dry_run=True)
    assert is_alive(client)
    assert line in _local.reap(context.token, dry_run=False)
    until(lambda: context.token not in netns.holders())
    assert _local.reap(context.token, dry_run=True) == []
