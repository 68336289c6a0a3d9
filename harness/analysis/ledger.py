"""What the host's memory went to while one instance was ready: accounts that add up to what came back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.model.records import MetricValue, TrialRecord

HOST, REST = "memory.host", "memory.unexplained"
ACCOUNTS: Mapping[str, str] = {
    "memory.cgroup.anon": "anonymous memory of its cgroup",
    "memory.cgroup.shmem": "tmpfs of its cgroup",
    "memory.cgroup.kernel": "kernel memory of its cgroup",
    "memory.uss": "what only its processes map",
}
"""In the order in which they are added. USS stands for the cgroup's where an instance has none of its own."""
_BY_PROCESSES = ("memory.uss",)


@dataclass(frozen=True, slots=True)
class Ledger:
    """One trial's accounts in bytes: `accounts` and `rest_bytes`, which may be negative, add up to `host_bytes`."""

    trial_id: str
    accounts: Mapping[str, int]
    rest_bytes: int
    host_bytes: int


def of_runtime(records: Sequence[TrialRecord], runtime: str) -> Ledger | None:
    """Return the ledger of the trial whose `memory.host` is the median one (of two, the lower); None without any.

    One real trial and not the median of each account: medians do not add up.
    """
    own = [
        record for record in records
        if record.spec.runtime == runtime and record.status == "ok" and not record.spec.warmup
        and {HOST, REST} <= record.metrics.keys()
    ]  # fmt: skip
    own.sort(key=lambda record: (record.metrics[HOST].value, record.spec.block))
    return _ledger(own[(len(own) - 1) // 2]) if own else None


def _ledger(record: TrialRecord) -> Ledger:
    values, rest = record.metrics, record.metrics[REST]
    accounts = {name: int(values[name].value) for name in _explaining(rest) if name in values}
    return Ledger(record.spec.trial_id, accounts, int(rest.value), int(values[HOST].value))


def _explaining(rest: MetricValue) -> tuple[str, ...]:
    """Return the accounts that the probe has taken off, by what it says of the rest."""
    by = rest.labels.get("explained by", "")
    return _BY_PROCESSES if by == "its processes" else tuple(name for name in ACCOUNTS if name not in _BY_PROCESSES)
