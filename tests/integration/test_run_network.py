"""A run's private network: it carries packets, changes nothing of the host's, and nothing of it survives its holder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import BackendError, CommandError
from harness.host import netns

pytestmark = pytest.mark.needs("root", "bridge")
TOKEN = "0123abcd"
DEATH_S = 10  # the kernel removes a namespace in the background


@pytest.fixture
def network() -> Iterator[netns.RunNetwork]:
    made = netns.RunNetwork(TOKEN)
    yield made
    made.close()


def output(*argv: str) -> str:
    """Return what a command says, empty where it is not installed; packet counters are left out."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return re.sub(r"\[\d+:\d+\]|^#.*$", "", done.stdout, flags=re.MULTILINE)


def host_network() -> dict[str, str]:
    """Return links, addresses, routes, rules, filters and settings of the host's own network."""
    state = {
        name: output(*name.split())
        for name in ("ip -j link", "ip -j address", "ip -j route show table all", "ip -j rule", "ip -j netns",
                     "bridge -j link", "iptables-save", "ip6tables-save", "nft list ruleset")
    }  # fmt: skip
    for path in sorted(Path("/proc/sys/net").rglob("*")):
        if path.is_file() and ("conf" in path.parts or path.name == "ip_forward"):
            try:
                state[str(path)] = path.read_text()
            except OSError:  # some are for writing only
                continue
    volatile = re.compile(r'"(valid|preferred)_life_time":\d+|"expires":\d+')
    return {name: volatile.sub("", text) for name, text in state.items()}


def serve_one(namespace: netns.Namespace, address: str) -> tuple[int, threading.Thread]:
    """Answer one connection inside a namespace with what the client said."""
    server = namespace.run(lambda: socket.create_server((address, 0)))

    def work() -> None:
        with server, server.accept()[0] as client:
            client.sendall(client.recv(100))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return server.getsockname()[1], thread


def ask(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), timeout=10) as client:
        client.sendall(b"hello")
        return client.recv(100)


def wait_until(condition: object, seconds: float = DEATH_S) -> bool:
    assert callable(condition)
    deadline_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return bool(condition())


def test_the_load_generator_reaches_an_instance_through_the_bridge(network: netns.RunNetwork) -> None:
    attachment = network.attach_namespace()
    address = str(attachment.address)
    port, thread = serve_one(attachment.namespace, address)
    assert network.run_inside(lambda: ask(address, port)) == b"hello"
    thread.join(10)
    links = json.loads(network.command(["ip", "-j", "-d", "link", "show", "master", network.bridge]).stdout)
    assert [link["ifname"] for link in links] == [attachment.port]


def test_the_host_does_not_reach_the_bridge_and_sees_nothing_of_it(network: netns.RunNetwork) -> None:
    attachment = network.attach_namespace()
    port, _thread = serve_one(attachment.namespace, str(attachment.address))
    with pytest.raises(OSError), socket.create_connection((str(attachment.address), port), timeout=0.3):  # noqa: PT011
        pass
    assert network.run_inside(lambda: ask(str(attachment.address), port)) == b"hello"


def test_nothing_of_the_hosts_network_changes() -> None:
    before = host_network()
    assert len(before) > 20
    network = netns.RunNetwork(TOKEN)
    attachments = [network.attach_namespace(), network.attach_tap()]
    during = host_network()
    for attachment in attachments:
        attachment.close()
    network.close()
    assert during == before
    assert host_network() == before


def test_nothing_is_forwarded_and_there_is_no_way_out(network: netns.RunNetwork) -> None:
    forward = network.run_inside(lambda: Path("/proc/sys/net/ipv4/ip_forward").read_text())
    assert forward.strip() == "0"
    routes = json.loads(network.command(["ip", "-j", "route"]).stdout)
    assert [(route["dst"], route["dev"]) for route in routes] == [(str(netns.SUBNET), network.bridge)]


def test_an_instance_finds_its_interface_ready(network: netns.RunNetwork) -> None:
    attachment = network.attach_namespace()
    with attachment.namespace.entered():
        links = {link["ifname"]: link for link in json.loads(output("ip", "-j", "address"))}
        routes = json.loads(output("ip", "-j", "route"))
    assert set(links) == {"lo", "eth0"}
    assert all("UP" in link["flags"] for link in links.values())
    assert (links["eth0"]["address"], links["eth0"]["mtu"]) == (attachment.mac, netns.MTU_BYTES)
    assert links["eth0"]["addr_info"][0]["local"] == str(attachment.address)
    assert routes[0]["dst"] == "default"
    assert routes[0]["gateway"] == str(network.gateway)


def test_another_process_joins_an_instances_namespace_by_its_path(network: netns.RunNetwork) -> None:
    attachment = network.attach_namespace()
    seen = output("nsenter", f"--net={attachment.namespace.path}", "ip", "-j", "link")
    assert [link["ifname"] for link in json.loads(seen)] == ["lo", "eth0"]


def test_what_an_instance_held_is_gone_when_the_next_one_is_attached(network: netns.RunNetwork) -> None:
    first, tap = network.attach_namespace(), network.attach_tap()
    first.close()
    tap.close()
    second = network.attach_namespace()
    ports = {link["ifname"] for link in json.loads(network.command(["ip", "-j", "link"]).stdout)}
    assert ports == {"lo", network.bridge, second.port}
    assert second.address not in {first.address, tap.address}


def test_a_subnet_that_is_full_is_said_and_a_place_that_was_left_is_used_again(network: netns.RunNetwork) -> None:
    taps = [network.attach_tap() for _ in range(netns.SUBNET.num_addresses - 3)]
    with pytest.raises(BackendError, match="all addresses are taken"):
        network.attach_tap()
    taps[7].close()
    assert network.attach_tap().address == taps[7].address


def test_a_thread_that_entered_is_back_outside_whatever_happened(network: netns.RunNetwork) -> None:
    before = Path("/proc/thread-self/ns/net").stat().st_ino
    with network.namespace.entered():
        assert Path("/proc/thread-self/ns/net").stat().st_ino != before
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before
    with pytest.raises(CommandError, match="exit code 3"):
        network.command(["sh", "-c", "exit 3"])
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before


def test_closing_removes_the_links_even_while_somebody_is_still_inside() -> None:
    network = netns.RunNetwork(TOKEN)
    attachment = network.attach_namespace()
    with subprocess.Popen(["nsenter", f"--net={network.namespace.path}", "sleep", "60"]) as inside:
        try:
            assert wait_until(lambda: inside.pid in netns.holders().get(TOKEN, set()))
            network.close()
            assert TOKEN not in netns.holders()
            seen = output("nsenter", f"--net=/proc/{inside.pid}/ns/net", "ip", "-j", "link")
            assert [link["ifname"] for link in json.loads(seen)] == ["lo"]
        finally:
            inside.kill()
    attachment.namespace.close()
    network.close()  # again does nothing


def test_the_callers_own_namespace_is_no_runs_whatever_is_in_it(network: netns.RunNetwork) -> None:
    """`harness clean` in a shell inside a run's namespace shall not end that shell."""
    with network.namespace.entered(), subprocess.Popen(["sleep", "60"]) as inside:
        try:
            assert TOKEN not in netns.holders()
        finally:
            inside.kill()


HOLD = """
import subprocess, sys, time
from harness.host import netns
network = netns.RunNetwork(sys.argv[1])
attachment = network.attach_namespace()
network.attach_tap()
if sys.argv[2] == "with-child":
    with network.namespace.entered():
        subprocess.Popen(["sleep", "300"])
print(attachment.namespace.path, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("child", ["alone", "with-child"])
def test_kill_9_leaves_nothing_but_what_was_started_inside_and_that_is_found(child: str) -> None:
    """A pair of veths goes with either of its namespaces: that of the instance, held here, tells of the run's end."""
    with subprocess.Popen([sys.executable, "-c", HOLD, TOKEN, child], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        inner = os.open(run.stdout.readline().strip(), os.O_RDONLY)
        run.send_signal(signal.SIGKILL)

    def links() -> list[str]:
        seen = output("nsenter", f"--net=/proc/{os.getpid()}/fd/{inner}", "ip", "-j", "link")
        return [link["ifname"] for link in json.loads(seen)]

    try:
        if child == "with-child":
            pids = netns.holders()[TOKEN]
            assert [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids] == ["sleep"]
            assert links() == ["lo", "eth0"]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: links() == ["lo"])
        assert TOKEN not in netns.holders()
    finally:
        os.close(inner)
