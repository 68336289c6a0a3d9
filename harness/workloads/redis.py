"""A Redis server: throughput by redis-benchmark, latency of GET at a fixed rate, CPU time of a request."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.fields import Port
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import ImageConfig, NetworkKind, Ready, WorkloadSpec
from harness.model.work import Load
from harness.workloads import _driven
from harness.workloads._options import CommonOptions, compile_common

VALUE_BYTES = 100
_KEYS = 10_000
_CALLS = re.compile(r"^cmdstat_(set|get):calls=(\d+)", re.MULTILINE)

RATE = {
    name: Metric(f"redis.{name}.rate", Unit.PER_S, Better.HIGHER, f"{name.upper()}s a second, by redis-benchmark")
    for name in ("set", "get")
}
P99 = {
    name: Metric(f"redis.{name}.p99", Unit.NS, Better.LOWER, f"{name.upper()} under that load, by redis-benchmark; p99")
    for name in ("set", "get")
}
CPU = _driven.cpu_metric("redis", "request of redis-benchmark")
LATENCY = _driven.LatencyMetrics.of("redis", "GET")


class Options(CommonOptions):
    """`workload: {kind: redis}`"""

    port: Port = Field(default=6379, description="the port that the server listens on, inside")
    requests: int = Field(default=10_000, ge=100, le=10_000_000, description="SETs, and as many GETs, at full speed")
    clients: int = Field(default=10, ge=1, le=1000, description="connections of redis-benchmark")
    rate: float = Field(default=500, gt=0, le=100_000, description="GETs a second of which the latency is measured")
    timed: int = Field(default=1000, ge=100, le=1_000_000, description="how many of those")


class _Redis:
    name = "redis"
    doc = "a Redis server under redis-benchmark, and GETs at a fixed rate; ready when it accepts"
    options = Options
    network: NetworkKind | None = "bridge"
    metrics = (*RATE.values(), *P99.values(), *LATENCY.all, CPU)

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, Options)
        return compile_common(options, image, Ready("tcp", port=options.port))

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Everything is measured while it serves."""
        return ()

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        if site.address is None:
            return _driven.absent(self.metrics, _driven.NO_ADDRESS)
        return (*_throughput(options, site), *_latency(options, site))


def _cli(options: Options, site: Site, *words: str) -> str:
    argv = ("redis-cli", "-h", str(site.address), "-p", str(options.port), *words)
    return site.client(argv, options.timeout_ns).stdout.decode()


def _throughput(options: Options, site: Site) -> Iterator[Measurement | Absent]:
    """The server's own counters must say that every request was made."""
    server = ("-h", str(site.address), "-p", str(options.port), "-c", str(options.clients))
    work = ("-t", "set,get", "-n", str(options.requests), "-d", str(VALUE_BYTES), "-r", str(_KEYS))
    argv = ("redis-benchmark", *server, *work, "--csv")
    _cli(options, site, "config", "resetstat")
    did, spent = _driven.spending(site, lambda: site.client(argv, options.timeout_ns))
    calls = dict(_CALLS.findall(_cli(options, site, "info", "commandstats")))
    if {name: int(count) for name, count in calls.items()} != dict.fromkeys(RATE, options.requests):
        raise ValueError(f"redis-benchmark: {options.requests} of each were to be made, the server counted {calls}")
    yield from parse_benchmark(did.stdout.decode())
    yield spent.per(CPU, 2 * options.requests)


def parse_benchmark(text: str) -> Iterator[Measurement]:
    """Yield what `redis-benchmark --csv` says: a row for each test, latencies in ms. Raises: ValueError."""
    rows = {row["test"].lower(): row for row in csv.DictReader(io.StringIO(text)) if row.get("test")}
    for name, metric in RATE.items():
        if name not in rows:
            raise ValueError(f"redis-benchmark: no row for {name.upper()}")
        yield Measurement(metric, float(rows[name]["rps"]))
        yield Measurement(P99[name], round(float(rows[name]["p99_latency_ms"]) * 1e6))


def _latency(options: Options, site: Site) -> Iterator[Measurement]:
    key = "harness"
    _cli(options, site, "set", key, "v" * VALUE_BYTES)
    request = f"*2\r\n$3\r\nGET\r\n${len(key)}\r\n{key}\r\n".encode()
    load = Load(options.port, "resp", request, options.timed, options.rate, warmup=options.timed // 10,
                connections=options.clients, timeout_ns=options.timeout_ns)  # fmt: skip
    yield from LATENCY.emit(_driven.all_answered(site.serve(load)), options.rate)


PLUGIN: Driven = _Redis()
