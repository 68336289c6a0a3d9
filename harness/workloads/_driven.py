"""What driven workloads share: an idle instance to work in, checks of commands, CPU time of work, latencies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from harness.interfaces import Site
from harness.model.fields import DurationNs, Strict
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import ImageConfig, NetworkKind, Ready, WorkloadSpec
from harness.model.work import Did, Served
from harness.workloads._options import DEFAULT_PATH

T = TypeVar("T")

PAUSE = "harness:pause"
WORKBENCH = "harness:workbench"
BUSY_RATIO = 0.8
LAG_NS = 1_000_000
ANSWERED_RATIO = 0.95
NO_ADDRESS = "the instance is not on the run's bridge: network: bridge"


class InsideOptions(Strict):
    """Options of what works inside an otherwise idle instance."""

    timeout_ns: DurationNs = Field(
        default=120_000_000_000, gt=0, alias="timeout", description="how long each piece of the work may take"
    )


def idle(image: ImageConfig, timeout_ns: int) -> WorkloadSpec:
    """Return an instance that does nothing until it is asked to: the agent itself, with the image's environment."""
    env = {"PATH": DEFAULT_PATH, **image.env}
    return WorkloadSpec(argv=(PAUSE,), env=env, ready=Ready("line", text="ready"), timeout_ns=timeout_ns)


class Inside:
    """A workload that works inside an otherwise idle instance; what is measured, it measures while that is ready."""

    network: NetworkKind | None = None

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, InsideOptions)
        return idle(image, options.timeout_ns)

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Everything is measured while it is ready."""
        return ()


def succeeded(did: Did, what: str) -> Did:
    """Return a command that ended with 0. Raises: ValueError with the end of what it wrote."""
    if did.returncode != 0:
        words = (did.stderr or did.stdout).decode("utf-8", "replace").strip().splitlines()
        raise ValueError(f"{what}: ended with code {did.returncode}: {words[-1] if words else 'it wrote nothing'}")
    return did


def workbench(site: Site, parts: Sequence[str], timeout_ns: int) -> Mapping[str, Any]:
    """Return what the agent's own bench printed. Raises: ValueError."""
    did = succeeded(site.inside((WORKBENCH, *parts), timeout_ns), "workbench")
    answer = json.loads(did.stdout)
    if answer.get("schema") != "harness.workbench/1":
        raise ValueError("no answer of the schema harness.workbench/1")
    found: Mapping[str, Any] = answer
    return found


def per_operation_ns(answer: Mapping[str, Any], part: str) -> float:
    """Return the time of one operation of a part. Raises: ValueError where it was not done."""
    done = answer.get(part)
    if not isinstance(done, dict) or not done.get("count") or not done.get("ns"):
        raise ValueError(f"{part}: not done")
    return int(done["ns"]) / int(done["count"])


# -- CPU time --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spent:
    """The host's CPU time of a piece of work; None where it cannot be read."""

    cpu_ns: int | None

    def per(self, metric: Metric, units: float, labels: Mapping[str, str] | None = None) -> Measurement | Absent:
        """Return the CPU time of one unit."""
        if self.cpu_ns is None:
            return Absent(metric, "no cgroup and no process of this instance is known to count CPU time")
        if units <= 0:
            raise ValueError(f"{metric.name}: no unit of work was done")
        return Measurement(metric, round(self.cpu_ns / units), labels or {})


def spending(site: Site, work: Callable[[], T]) -> tuple[T, Spent]:
    """Return what `work` returns and what CPU time the instance used meanwhile."""
    before = site.cpu_ns()
    result = work()
    after = site.cpu_ns()
    return result, Spent(None if before is None or after is None else max(0, after - before))


def cpu_metric(kind: str, unit: str) -> Metric:
    return Metric(
        f"{kind}.cpu", Unit.NS, Better.LOWER,
        f"host CPU time per {unit}: the instance's processes, its kernel's work for it, or VMM, vhost and helpers",
    )  # fmt: skip


# -- latencies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LatencyMetrics:
    """The metrics of an open loop: latencies from when each request was due, and whether server and client kept up."""

    percentiles: Mapping[str, Metric]
    answered: Metric
    busy: Metric
    saturated: Metric

    @classmethod
    def of(cls, kind: str, what: str) -> LatencyMetrics:
        names = {"50": "p50", "90": "p90", "99": "p99", "99.9": "p999", "max": "max"}
        doc = f"{what}: latency at a fixed rate, from when it was due until it was answered"
        return cls(
            {key: Metric(f"{kind}.latency.{name}", Unit.NS, Better.LOWER, f"{doc}; {name}")
             for key, name in names.items()},
            Metric(f"{kind}.answered", Unit.RATIO, Better.HIGHER, f"{what}: rate of answers over the rate asked for"),
            Metric(f"{kind}.client.busy", Unit.RATIO, Better.NEITHER, "the client's own CPU time over the window"),
            Metric(f"{kind}.client.saturated", Unit.BOOL, Better.LOWER,
                   f"the client was busy for {BUSY_RATIO:.0%} or 1 ms late by itself (p99): latencies are its own too"),
        )  # fmt: skip

    @property
    def all(self) -> tuple[Metric, ...]:
        return (*self.percentiles.values(), self.answered, self.busy, self.saturated)

    def emit(self, served: Served, rate_per_s: float) -> Iterator[Measurement]:
        """Yield what an open loop at `rate_per_s` has shown; labels hold the whole histogram."""
        offered_ns = served.asked * 1e9 / rate_per_s
        answered = min(1.0, offered_ns / max(offered_ns, served.elapsed_ns))
        for key, metric in self.percentiles.items():
            labels = {"histogram": served.histogram} if key == "50" else {}
            yield Measurement(metric, served.latency_ns[key], labels)
        server = {"server": "saturated"} if answered < ANSWERED_RATIO else {}
        yield Measurement(self.answered, answered, {**server, "queued": str(served.queued)})
        yield Measurement(self.busy, served.client_busy_ratio)
        saturated = served.client_busy_ratio >= BUSY_RATIO or served.client_lag_ns > LAG_NS
        yield Measurement(self.saturated, int(saturated), {"lag_p99_ns": str(served.client_lag_ns)})


def all_answered(served: Served) -> Served:
    """Return a load that was answered in full. Raises: ValueError."""
    if served.wrong or served.answered != served.asked:
        why = f": {served.error}" if served.error else ""
        raise ValueError(f"{served.answered} of {served.asked} requests were answered, {served.wrong} went wrong{why}")
    return served


def absent(metrics: Iterable[Metric], reason: str) -> list[Measurement | Absent]:
    return [Absent(metric, reason) for metric in metrics]
