"""The network of an instance: throughput by iperf3, and how long a small message takes there and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.fields import Port
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import ImageConfig, NetworkKind, Ready, WorkloadSpec
from harness.model.work import Load
from harness.workloads import _driven
from harness.workloads._options import DEFAULT_PATH

ECHO = "harness:echo"
TRIES, LISTENING_S = 4, 10.0
_WHERE = "through bridge and veth or tap"
IN = Metric("network.in", Unit.BYTES_PER_S, Better.HIGHER, f"one TCP stream into the instance {_WHERE}, by iperf3")
OUT = Metric("network.out", Unit.BYTES_PER_S, Better.HIGHER, f"one TCP stream out of the instance {_WHERE}, by iperf3")
ROUND = {
    name: Metric(f"network.round.{name}", Unit.NS, Better.LOWER, f"one byte there and back on one connection; {name}")
    for name in ("p50", "p99")
}
CPU = _driven.cpu_metric("network", "MiB into the instance")
RATE = Metric("network.rate", Unit.PER_S, Better.HIGHER, "messages of one byte there and back a second, 16 connections")


class Options(_driven.InsideOptions):
    """`workload: {kind: network}`"""

    port: Port = Field(default=7, description="the port of the echo, inside")
    iperf: Port = Field(default=5201, description="the port of iperf3, inside")
    window: int = Field(default=1, ge=1, le=3600, description="seconds that each stream lasts, whole ones")
    rounds: int = Field(default=2000, ge=100, le=1_000_000, description="messages there and back")


class _Network:
    name = "network"
    doc = "TCP throughput both ways by iperf3, and round trips of small messages; ready when its echo accepts"
    options = Options
    network: NetworkKind | None = "bridge"
    metrics = (IN, OUT, *ROUND.values(), RATE, CPU)

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        """The echo is the agent's own; iperf3 of the image serves one stream after the other beside it."""
        assert isinstance(options, Options)
        argv = (ECHO, str(options.port))
        env = {"PATH": DEFAULT_PATH, **image.env}
        return WorkloadSpec(argv=argv, env=env, ready=Ready("tcp", port=options.port), timeout_ns=options.timeout_ns)

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Everything is measured while it serves."""
        return ()

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        if site.address is None:
            return _driven.absent(self.metrics, _driven.NO_ADDRESS)
        one = Load(options.port, "echo", b"x", options.rounds, warmup=options.rounds // 10, connections=1,
                   timeout_ns=options.timeout_ns)  # fmt: skip
        many = Load(options.port, "echo", b"x", options.rounds, warmup=options.rounds // 10, connections=16,
                    timeout_ns=options.timeout_ns)  # fmt: skip
        trips = _driven.all_answered(site.serve(one)).latency_ns
        rate = _driven.all_answered(site.serve(many)).rate_per_s
        into, out = _stream(options, site), _stream(options, site, "--reverse")
        return (
            Measurement(IN, into.stream.rate, into.labels),
            Measurement(OUT, out.stream.rate, out.labels),
            *(Measurement(metric, trips[name.removeprefix("p")]) for name, metric in ROUND.items()),
            Measurement(RATE, rate),
            into.spent.per(CPU, into.stream.received_bytes / (1 << 20)),
        )


@dataclass(frozen=True, slots=True)
class Stream:
    """What arrived, by the receiver's own count, and how much of it a second in bytes."""

    received_bytes: int
    rate: int


@dataclass(frozen=True, slots=True)
class Tried:
    """A stream that arrived, what CPU time it took, and what became of the tries before it."""

    stream: Stream
    spent: _driven.Spent
    failed: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """Return how many tries there were, and why each but the last is no value."""
        return {"tries": str(len(self.failed) + 1), **({"failed": "; ".join(self.failed)} if self.failed else {})}


def _stream(options: Options, site: Site, *words: str) -> Tried:
    """Return one stream, from or to a server that serves it alone. Raises: ValueError that names every try.

    A slow side of iperf3 may lose its control connection when a test ends: no fault of the network that is measured, so
    it is asked again, some times. What is measured is the first try that came to its end, and that one alone.
    """
    failed: list[str] = []
    while True:
        serve = ("iperf3", "--server", "--one-off", "--daemon", "--port", str(options.iperf))
        _driven.succeeded(site.inside(serve, options.timeout_ns), "iperf3")
        try:
            stream, spent = _driven.spending(site, lambda: _client(options, site, words))
        except ValueError as error:
            failed.append(str(error))
            if len(failed) == TRIES or "control" not in str(error):
                raise ValueError("; then ".join(failed)) from error
        else:
            return Tried(stream, spent, tuple(failed))


def _client(options: Options, site: Site, words: Sequence[str]) -> Stream:
    """The server says nothing of when it listens: a client that comes too early comes again. Raises: ValueError."""
    server = ("--client", str(site.address), "--port", str(options.iperf))
    argv = ("iperf3", *server, "--time", str(options.window), "--json", *words)
    deadline_s = time.monotonic() + LISTENING_S
    while True:
        try:
            return parse_iperf(site.client(argv, options.timeout_ns).stdout)
        except ValueError as error:
            if "unable to connect" not in str(error) or time.monotonic() > deadline_s:
                raise
        time.sleep(0.05)


def parse_iperf(output: bytes) -> Stream:
    """Return what `iperf3 --json` says. Raises: ValueError unless most of what was sent has arrived."""
    answer = json.loads(output)
    end = answer.get("end") or {}
    sent, received = end.get("sum_sent") or {}, end.get("sum_received") or {}
    if answer.get("error") or not sent.get("bytes") or 2 * received.get("bytes", 0) < sent["bytes"]:
        raise ValueError(f"iperf3: {answer.get('error') or 'less than half arrived'}: sent {sent}, received {received}")
    return Stream(int(received["bytes"]), round(float(received["bits_per_second"]) / 8))


PLUGIN: Driven = _Network()
