"""A PostgreSQL server under pgbench: transactions a second, their latency at a fixed rate, CPU time of one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.fields import Port
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import ImageConfig, NetworkKind, Ready, WorkloadSpec
from harness.model.work import Did
from harness.workloads import _driven
from harness.workloads._options import CommonOptions, compile_common

RATE = Metric("postgres.rate", Unit.PER_S, Better.HIGHER, "transactions a second, by pgbench, without connecting")
CPU = _driven.cpu_metric("postgres", "transaction")
_LATENCY = "transactions at a fixed rate, by pgbench: from when it was due until it was committed"
LATENCY = {
    name: Metric(f"postgres.latency.{name}", Unit.NS, Better.LOWER, f"{_LATENCY}; {name}")
    for name in ("p50", "p99", "max")
}
_LOG = "/tmp/pgbench"
READY = "database system is ready to accept connections"
_DONE = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_TPS = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)", re.MULTILINE)


class Options(CommonOptions):
    """`workload: {kind: postgres}`"""

    port: Port = Field(default=5432, description="the port that the server listens on, inside")
    script: Literal["tpcb-like", "simple-update", "select-only"] = Field(
        default="tpcb-like", description="which of pgbench's transactions: tpcb-like, simple-update or select-only"
    )
    clients: int = Field(default=2, ge=1, le=50, description="connections")
    transactions: int = Field(default=200, ge=10, le=1_000_000, description="transactions of each, at full speed")
    rate: float = Field(default=50, gt=0, le=100_000, description="transactions a second of which latency is measured")
    timed: int = Field(default=100, ge=20, le=1_000_000, description="how many of those")


class _Postgres:
    name = "postgres"
    doc = "a PostgreSQL server under pgbench; ready when it says so. The rows that it holds afterwards are counted"
    options = Options
    network: NetworkKind | None = "bridge"
    metrics = (RATE, *LATENCY.values(), CPU)

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, Options)
        return compile_common(options, image, Ready("line", text=READY))

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Everything is measured while it serves."""
        return ()

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        if site.address is None:
            return _driven.absent(self.metrics, _driven.NO_ADDRESS)
        warm = options.clients * 10  # the first ones copy the database's files up and fill its cache
        _pgbench(options, site, "--transactions=10")
        full, spent = _driven.spending(site, lambda: _pgbench(options, site, f"--transactions={options.transactions}"))
        done, rate = parse_summary(full.stdout.decode(), options.clients * options.transactions)
        each = max(1, options.timed // options.clients)
        _pgbench(options, site, f"--transactions={each}", f"--rate={options.rate:g}", "--log", f"--log-prefix={_LOG}")
        latencies = parse_log(_log_of(site), each * options.clients)
        _check_rows(options, site, warm + done + len(latencies))
        return (Measurement(RATE, rate, {"script": options.script}), *_percentiles(latencies), spent.per(CPU, done))


def _pgbench(options: Options, site: Site, *words: str) -> Did:
    """One thread of pgbench, so that there is one log."""
    argv = ("pgbench", f"--host={site.address}", f"--port={options.port}", "--username=postgres", "--no-vacuum",
            f"--builtin={options.script}", f"--client={options.clients}", "--jobs=1", *words, "postgres")  # fmt: skip
    return site.client(argv, options.timeout_ns)


def _log_of(site: Site) -> str:
    names = site.client(("sh", "-c", f"cat {_LOG}.*"), 10_000_000_000)
    return names.stdout.decode()


def parse_summary(text: str, expected: int) -> tuple[int, float]:
    """Return how many transactions pgbench made, and how many a second. Raises: ValueError."""
    done, rate = _DONE.search(text), _TPS.search(text)
    if done is None or rate is None or int(done[1]) != expected:
        raise ValueError(f"pgbench: {expected} transactions were asked for, {done[1] if done else 'none'} made")
    return int(done[1]), float(rate[1])


def parse_log(text: str, expected: int) -> list[int]:
    """Return the latencies of a log of pgbench, in ns, sorted.

    The third column is in us and, under `--rate`, counts from when the transaction was due. Source: PostgreSQL 15
    documentation, pgbench, "Per-Transaction Logging". Raises: ValueError unless there are `expected`.
    """
    latencies = sorted(int(line.split()[2]) * 1000 for line in text.splitlines())
    if len(latencies) != expected:
        raise ValueError(f"pgbench: {expected} transactions were to be timed, the log has {len(latencies)}")
    return latencies


def _percentiles(latencies: list[int]) -> Iterable[Measurement]:
    last = len(latencies) - 1
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        yield Measurement(LATENCY[name], latencies[round(share * last)])


def _check_rows(options: Options, site: Site, expected: int) -> None:
    """Every transaction that writes leaves a row. Raises: ValueError."""
    if options.script == "select-only":
        return
    argv = ("psql", f"--host={site.address}", f"--port={options.port}", "--username=postgres", "--no-align",
            "--tuples-only", "--command=SELECT count(*) FROM pgbench_history", "postgres")  # fmt: skip
    rows = site.client(argv, options.timeout_ns).stdout.decode().strip()
    if rows != str(expected):
        raise ValueError(f"{expected} transactions were committed, pgbench_history has {rows} rows")


PLUGIN: Driven = _Postgres()
