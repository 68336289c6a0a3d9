"""The harness' own client: `harness-load` (csrc/load), its output checked and its latencies in an HdrHistogram."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import CapabilityError, CommandError, TrialError
from harness.host import process
from harness.model.work import Load, Served

PROGRAM = Path(__file__).with_name("harness-load")
SCHEMA = "harness.load/1"

_FIELDS = 3  # of a request: latency, the client's own lag, latency from when it was sent; each 8 bytes
_LOWEST_NS, _HIGHEST_NS, _DIGITS = 1, 3_600_000_000_000, 3
PERCENTILES = {"50": 50.0, "90": 90.0, "99": 99.0, "99.9": 99.9, "max": 100.0}


def command(load: Load, address: str) -> list[str]:
    """Return the client's command; the request goes to its stdin."""
    numbers = (load.count, load.warmup, load.connections, load.timeout_ns // 1_000_000, load.body_bytes)
    return [str(PROGRAM), address, str(load.port), load.framing, f"{load.rate_per_s:g}", *map(str, numbers)]


def run(load: Load, address: str) -> Served:
    """Put a load on `address`, from the calling thread's network namespace. Raises: TrialError, CapabilityError."""
    if not PROGRAM.exists():
        raise CapabilityError("load generator: not built", hint="scripts/setup builds it (or: python hatch_build.py)")
    lasts_ns = round((load.count + load.warmup) * 1e9 / load.rate_per_s) if load.rate_per_s else 0
    try:
        done = process.run(
            command(load, address), input=load.request, timeout_ns=lasts_ns + load.timeout_ns + 30_000_000_000
        )
        return parse(done.stdout)
    except CommandError as error:
        raise TrialError(f"load: {error.message}") from error
    except ValueError as error:
        raise TrialError(f"load: the client's output makes no sense: {error}") from error


def parse(output: bytes) -> Served:
    """Return what the client printed. Raises: ValueError."""
    head, _, rest = output.partition(b"\n")
    said = json.loads(head)
    if said.get("schema") != SCHEMA or len(rest) % (8 * _FIELDS):
        raise ValueError(f"no answer of the schema {SCHEMA}")
    numbers = array("Q", rest)
    answered = [at for at in range(0, len(numbers), _FIELDS) if numbers[at]]
    latency, histogram = _histogram([numbers[at] for at in answered])
    lag, _ = _histogram([numbers[at + 1] for at in range(0, len(numbers), _FIELDS)])
    return Served(
        asked=len(numbers) // _FIELDS,
        answered=len(answered),
        wrong=int(said["wrong"]),
        error=str(said["error"]),
        queued=int(said["queued"]),
        elapsed_ns=int(said["counted_ns"]),
        latency_ns=latency,
        client_busy_ratio=_busy(said),
        client_lag_ns=lag.get("99", 0),
        histogram=histogram,
    )


def _busy(said: Mapping[str, Any]) -> float:
    return int(said["cpu_ns"]) / max(1, int(said["elapsed_ns"]))


def _histogram(values_ns: Sequence[int]) -> tuple[dict[str, int], str]:
    """Return percentiles and the encoded histogram (three significant digits); nothing of no values."""
    from hdrh.histogram import HdrHistogram  # noqa: PLC0415  (only a run with a load pays for the import)

    if not values_ns:
        return {}, ""
    histogram = HdrHistogram(_LOWEST_NS, _HIGHEST_NS, _DIGITS)
    for value in values_ns:
        histogram.record_value(max(_LOWEST_NS, min(value, _HIGHEST_NS)))
    found = {name: int(histogram.get_value_at_percentile(at)) for name, at in PERCENTILES.items()}
    return found, histogram.encode().decode()
