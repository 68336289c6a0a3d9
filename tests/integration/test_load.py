"""The load client against servers whose times are known, and driven workloads in a process, a container and a guest."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.errors import TrialError
from harness.loading import cpu_time, generator
from harness.model.work import Load

ROOT = Path(__file__).parents[2]
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

needs_root = pytest.mark.needs("root", "bridge")


@contextmanager
def server(answer: Callable[[int, bytes], bytes | None], backlog: int = 64) -> Iterator[int]:
    """Serve one thread a connection; `answer` gets the number of the request in it; None: close."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            number = 0
            while request := connection.recv(65536):
                reply = answer(number, request)
                number += 1
                if reply is None:
                    return
                connection.sendall(reply)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_every_request_is_answered_and_counted():
    with server(lambda _number, _request: PAGE) as port:
        served = generator.run(Load(port, "http", GET, 300, 1000, warmup=10, connections=4, body_bytes=5), "127.0.0.1")
    assert (served.asked, served.answered, served.wrong) == (300, 300, 0)
    assert served.latency_ns["50"] <= served.latency_ns["99"] <= served.latency_ns["max"]


def test_a_stall_of_the_server_counts_for_every_request_that_was_due_in_it():
    """One answer comes 400 ms late on one connection: a client that waits for it (a closed loop) would see one slow
    request; at 100 a second 40 are due meanwhile, and each must have waited for what was left of the stall."""

    def stall(number: int, _request: bytes) -> bytes:
        if number == 20:
            time.sleep(0.4)
        return PAGE

    with server(stall) as port:
        served = generator.run(Load(port, "http", GET, 100, 100, connections=1, body_bytes=5), "127.0.0.1")
    assert served.answered == 100
    assert served.latency_ns["max"] >= 390_000_000
    assert served.latency_ns["90"] >= 200_000_000  # a closed loop would have one slow request in a hundred
    assert served.queued >= 30


def test_a_fixed_delay_is_what_is_measured():
    def slow(_number: int, _request: bytes) -> bytes:
        time.sleep(0.02)
        return PAGE

    with server(slow) as port:
        served = generator.run(Load(port, "http", GET, 40, 20, connections=4, body_bytes=5), "127.0.0.1")
    assert 20_000_000 <= served.latency_ns["50"] < 35_000_000


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell", "answer"),
        (None, "receive"),
    ],
)
def test_an_answer_that_is_wrong_is_no_answer(reply, why):
    with server(lambda _number, _request: reply) as port:
        load = Load(port, "http", GET, 10, 0, connections=2, body_bytes=5, timeout_ns=2_000_000_000)
        served = generator.run(load, "127.0.0.1")
    assert (served.answered, served.wrong) == (0, 10)
    assert served.error.startswith(why)


def test_an_echo_must_be_the_same_bytes_and_redis_its_protocol():
    with server(lambda _number, request: request) as port:
        assert generator.run(Load(port, "echo", b"abcd", 20, 0, connections=2), "127.0.0.1").answered == 20
    with server(lambda _number, _request: b"abcx") as port:
        assert generator.run(Load(port, "echo", b"abcd", 20, 0, connections=2), "127.0.0.1").answered == 0
    with server(lambda number, _request: (b"$3\r\nfoo\r\n", b"+OK\r\n", b":7\r\n")[number % 3]) as port:
        assert generator.run(Load(port, "resp", b"PING\r\n", 30, 0, connections=1), "127.0.0.1").answered == 30
    with server(lambda _number, _request: b"-ERR no\r\n") as port:
        assert generator.run(Load(port, "resp", b"PING\r\n", 3, 0, connections=1), "127.0.0.1").wrong == 3


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TrialError, match="connect: Connection refused"):
        generator.run(Load(port, "http", GET, 10), "127.0.0.1")


def test_the_agents_bench_does_all_that_it_is_asked_to():
    argv = ["integer=1000", "float=1", "stream=3145728:2", "random=1048576:1000", "fault=10", "call=100", "fork=2",
            "pipe=10", "futex=10", "spawn=2", "true"]  # fmt: skip
    agent = ROOT / "harness" / "agent" / "harness-agent"
    done = subprocess.run(["harness:workbench", *argv], executable=agent, capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["random"]["count"] == 16384
    assert all(part["ns"] > 0 for part in answer.values() if isinstance(part, dict))
    wrong = subprocess.run(
        ["harness:workbench", "spawn=1", "/nowhere"], executable=agent, capture_output=True, check=False
    )
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (1, b"workbench: /nowhere: No such file or directory")


# -- runs ------------------------------------------------------------------------------------------------------------

SCENARIO = """
schema: harness.scenario/1
name: driven
image: {image}
workload: {workload}
limits: {cpus: 1, memory: 192MiB, pids: 64}
runtimes:
  process: {{backend: process}}
  container: {{backend: builtin}}
  late: {{backend: builtin, network: none}}
control: process
trials: {{blocks: {{min: 1, max: 1}}, warmup: 0}}
metrics: [cpu]
"""


def measured(tmp_path: Path, image: str, workload: str) -> dict[str, dict]:
    text = SCENARIO.replace("{image}", image).replace("{workload}", workload).replace("{{", "{").replace("}}", "}")
    (tmp_path / "s.yaml").write_text(text)
    argv = [sys.executable, "-m", "harness", "run", "s.yaml", "--results", "res"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (trials,) = (tmp_path / "res").glob("*/trials.jsonl")
    return {trial["runtime"]: trial["metrics"] for trial in map(json.loads, trials.read_text().splitlines())}


@needs_root
def test_a_web_server_under_load_from_outside(tmp_path):
    """busybox httpd closes every connection, so the client opens one for each request."""
    work = "{kind: web, port: 8080, requests: 100, timed: 100, rate: 100, connections: 2}"
    found = measured(tmp_path, f"{{build: {ROOT}/images/webserver}}", work)
    for runtime in ("process", "container", "late"):
        assert found[runtime]["web.rate"]["value"] > 10
        assert found[runtime]["web.latency.p50"]["value"] > 10_000
        assert found[runtime]["web.latency.p50"]["labels"]["histogram"]
        assert found[runtime]["web.cpu"]["value"] > 10_000
        assert found[runtime]["cpu.start"]["labels"] == {"counted": "1 cgroup"}


@needs_root
def test_work_inside_is_counted_where_the_host_spends_it(tmp_path):
    """20 million steps that wait for each other take at least a nanosecond each on any processor of today."""
    found = measured(tmp_path, "{name: busybox}", "{kind: cpu, steps: 20000000, products: 1}")
    for runtime in ("process", "container", "late"):
        steps_per_s = found[runtime]["compute.integer"]["value"]
        cpu_ns_per_step = found[runtime]["compute.cpu"]["value"] / 1e6
        assert 0.3 < cpu_ns_per_step < 1.3e9 / steps_per_s + 0.5  # CPU time is no more than the time that it took


@needs_root
def test_a_cgroup_counts_what_has_ended(tmp_path):
    """A process that is not in a group of its own is counted by its threads and what it has waited for."""
    child = subprocess.Popen(
        ["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; cat"], stdin=subprocess.PIPE
    )
    meter = cpu_time.Meter(lambda: [child.pid])
    assert meter.counted == "1 process"
    deadline = time.monotonic() + 20
    while (meter.read_ns() or 0) < 10_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (meter.read_ns() or 0) >= 10_000_000
    child.communicate(b"", timeout=30)
    assert cpu_time.Meter(lambda: []).read_ns() is None
