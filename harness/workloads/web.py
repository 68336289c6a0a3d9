"""An HTTP server under load from outside: throughput, latency at a fixed rate, CPU time of a request."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import ImageConfig, NetworkKind, WorkloadSpec
from harness.model.work import Load
from harness.workloads import _driven, http
from harness.workloads.http import RequestPath

RATE = Metric(
    "web.rate", Unit.PER_S, Better.HIGHER, "answers a second when each connection asks as soon as it was answered"
)
CPU = _driven.cpu_metric("web", "request at full speed")
LATENCY = _driven.LatencyMetrics.of("web", "GET")


class Options(http.Options):
    """`workload: {kind: web, port: 8080}`"""

    path: RequestPath = Field(default="/", description="what is asked for")
    bytes: int = Field(default=0, ge=0, description="size that the answer's body must have; 0: any")
    requests: int = Field(default=5000, ge=100, le=10_000_000, description="requests at full speed")
    connections: int = Field(default=8, ge=1, le=1000, description="connections of the client, which are kept alive")
    rate: float = Field(default=500, gt=0, le=100_000, description="requests a second of which the latency is measured")
    timed: int = Field(default=1000, ge=100, le=1_000_000, description="how many of those")


class _Web:
    name = "web"
    doc = "an HTTP server under load: throughput, latency at a fixed rate, CPU; ready when a GET is answered"
    options = Options
    network: NetworkKind | None = "bridge"
    metrics = (RATE, *LATENCY.all, CPU)

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        return http.PLUGIN.compile(options, image)

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Everything is measured while it serves."""
        return ()

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        if site.address is None:
            return _driven.absent(self.metrics, _driven.NO_ADDRESS)
        request = f"GET {options.path} HTTP/1.1\r\nHost: {site.address}\r\nUser-Agent: harness\r\n\r\n".encode()

        def load(count: int, rate: float) -> Load:
            return Load(options.port, "http", request, count, rate, warmup=count // 10, connections=options.connections,
                        body_bytes=options.bytes, timeout_ns=options.timeout_ns)  # fmt: skip

        full, spent = _driven.spending(site, lambda: _driven.all_answered(site.serve(load(options.requests, 0))))
        timed = _driven.all_answered(site.serve(load(options.timed, options.rate)))
        return (
            Measurement(RATE, full.rate_per_s),
            *LATENCY.emit(timed, options.rate),
            spent.per(CPU, options.requests + options.requests // 10),
        )


PLUGIN: Driven = _Web()
