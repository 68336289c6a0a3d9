"""The accounts of one instance add up to what the host got back, whatever explains them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.analysis import ledger
from harness.analysis.summary import analyse
from harness.host import memory as host
from harness.interfaces import CgroupMemory
from harness.model.metrics import Absent, Measurement
from harness.model.records import MetricValue, TrialRecord, TrialSpec
from harness.probes.memory import MemoryProbe
from harness.report import _ledger
from tests.example_run import example_run
from tests.fakes import FakeInstance

MIB = 1 << 20
CHARGED = CgroupMemory(5 * MIB, 9 * MIB, 2 * MIB, 16 * MIB, 17 * MIB, 1 * MIB)


def measured(monkeypatch: pytest.MonkeyPatch, runtime: str, came_back_mib: int, block: int = 1) -> TrialRecord:
    """Return a trial as the memory probe measures it on a host that gets `came_back_mib` back."""
    used: Iterator[int] = iter((100 * MIB, (100 - came_back_mib) * MIB))
    monkeypatch.setattr(host, "read_host", lambda: host.HostMemory(1 << 30, 1 << 29, next(used), 0))
    monkeypatch.setattr(host, "read_sizes", lambda _pids: host.Sizes(12 * MIB, 14 * MIB, 11 * MIB))
    charged = None if runtime == "vm" else CHARGED
    instance, probe = FakeInstance(own_pids=(1,), charged=charged), MemoryProbe()
    values: dict[str, MetricValue] = {}

    def emit(item: Measurement | Absent) -> None:
        if isinstance(item, Measurement):
            values[item.metric.name] = MetricValue(item.value, item.metric.unit.value, item.labels)

    with probe.watch(instance, emit):
        pass
    probe.conclude(instance, emit)
    spec = TrialSpec(f"b{block}-{runtime}", block, 0, runtime, "x")
    return TrialRecord(spec, "ok", "2026-01-01T00:00:00Z", metrics=values)


@pytest.mark.parametrize(("runtime", "rest_mib"), [("container", 3), ("vm", 0)])
def test_the_accounts_add_up_to_what_the_host_got_back(
    runtime: str, rest_mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ledger.of_runtime([measured(monkeypatch, runtime, 11)], runtime)
    assert found is not None
    assert sum(found.accounts.values()) + found.rest_bytes == found.host_bytes == 11 * MIB
    assert found.rest_bytes == rest_mib * MIB


def test_it_is_one_real_trial_the_median_one_and_none_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [measured(monkeypatch, "vm", size, block) for block, size in enumerate((30, 10, 20, 40))]
    records.append(replace(measured(monkeypatch, "vm", 1, 9), status="failed"))
    found = ledger.of_runtime(records, "vm")
    assert found is not None
    assert (found.trial_id, found.host_bytes) == ("b2-vm", 20 * MIB)


def test_the_table_ends_with_the_sum_and_shows_what_is_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [measured(monkeypatch, name, 10) for name in ("container", "vm")]
    report = analyse(example_run(runtimes=("process", "container", "vm")), records)
    assert _ledger.matrix(report) == [
        ["memory of the host", "container", "vm"],
        ["anonymous memory of its cgroup", "5.00 MiB", "-"],
        ["tmpfs of its cgroup", "1.00 MiB", "-"],
        ["kernel memory of its cgroup", "2.00 MiB", "-"],
        ["what only its processes map", "-", "11.0 MiB"],
        ["unexplained", "2.00 MiB", "-1.00 MiB"],
        ["= what was free again after it", "10.0 MiB", "10.0 MiB"],
    ]


def test_a_run_without_memory_has_no_ledger() -> None:
    assert _ledger.matrix(analyse(example_run(), [])) == []
