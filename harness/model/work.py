"""What is asked of a running instance, and what came of it: plain data between workloads and what carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Framing = Literal["http", "resp", "echo"]
"""How the end of an answer is told: HTTP/1.1 with Content-Length, Redis' RESP, or the request itself sent back."""


@dataclass(frozen=True, slots=True)
class Load:
    """`count` equal requests to a port of an instance, after `warmup` that are not counted.

    `rate_per_s` above 0 is an open loop: request i is due at i/rate whatever was answered before, and its latency
    counts from then. 0 is a closed loop: each of `connections` asks as soon as it was answered. `body_bytes`: what an
    HTTP answer must hold; 0: anything.
    """

    port: int
    framing: Framing
    request: bytes
    count: int
    rate_per_s: float = 0
    warmup: int = 0
    connections: int = 16
    body_bytes: int = 0
    timeout_ns: int = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Served:
    """What became of a load. Latencies in ns by percentile ("50", "99", "max"); they are of `answered` requests.

    `elapsed_ns` is of the counted part. `client_busy_ratio`: the client's CPU time over the whole; `client_lag_ns`: how
    late it was itself, 99th percentile. `queued`: requests that waited because all connections were. `histogram`: all
    latencies, as HdrHistogram encodes them (V2, base64).
    """

    asked: int
    answered: int
    wrong: int
    error: str
    queued: int
    elapsed_ns: int
    latency_ns: Mapping[str, int]
    client_busy_ratio: float
    client_lag_ns: int
    histogram: str = field(repr=False, default="")

    @property
    def rate_per_s(self) -> float:
        return self.answered * 1e9 / self.elapsed_ns if self.elapsed_ns else 0.0


@dataclass(frozen=True, slots=True)
class Did:
    """A command that ran, inside or as client; `took_ns` by the host's clock, with what it took to ask for it."""

    returncode: int
    stdout: bytes
    stderr: bytes
    took_ns: int
