"""One trial, counted as others count: the arithmetic of each figure, and a reason where there is none."""

from __future__ import annotations

import json

import pytest

from harness.analysis.definitions import DEFINITIONS, cells
from harness.analysis.summary import analyse
from harness.errors import UsageError
from harness.model.milestones import DOCS
from harness.model.records import MetricValue, TrialRecord, TrialSpec
from harness.report import _definitions as rendered
from tests.example_run import example_run

MS = 1_000_000
MARKS = {
    "vmm.exec": 50, "vcpu": 100, "kernel": 300, "init": 2300, "exec": 2350, "ready": 2400, "exited": 2410,
    "returned": 110, "stopping": 9000, "deleted": 9070,
}  # fmt: skip
ACCOUNTS = {"memory.cgroup.anon": 5, "memory.cgroup.shmem": 1, "memory.cgroup.kernel": 2}


def one_trial(**changes: object) -> TrialRecord:
    marks = {name: at * MS for name, at in MARKS.items()} | {"requested": 0}
    metrics = {name: MetricValue(value << 20, "bytes") for name, value in ACCOUNTS.items()}
    absent = {"memory.vmm": "no mapping has the size of its RAM"}
    given = {"marks": marks, "metrics": metrics, "absent": absent, **changes}
    return TrialRecord(TrialSpec("b01-vm", 1, 0, "vm", "libvirt"), "ok", "2026-01-01T00:00:00Z", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("definition", "figure", "value"),
    [
        ("harness", "start", 2400 * MS),
        ("firecracker", "boot time", 2200 * MS),
        ("kata", "to workload", 2350 * MS),
        ("kata", "in kernel", 2000 * MS),
        ("kata", "to quit", 70 * MS),
        ("cloud-hypervisor", "boot time", 2000 * MS),
        ("docker-cli", "run --rm", (2410 + 70) * MS),
        ("docker-cli", "MEM USAGE", 8 << 20),
        ("bucketbench", "run", 110 * MS),
    ],
)
def test_each_figure_is_the_time_or_the_accounts_that_it_names(definition: str, figure: str, value: int) -> None:
    found = cells(example_run(runtimes=("vm",)), [one_trial()], [definition])
    cell = next(cell for cell in found if cell.figure.name == figure)
    assert cell.estimate is not None
    assert cell.estimate.value == value


def test_what_cannot_be_had_has_its_reason() -> None:
    found = cells(example_run(runtimes=("vm",)), [one_trial()], ["firecracker"])
    assert [cell.reason for cell in found if cell.estimate is None] == ["no mapping has the size of its RAM"]


def test_every_definition_is_of_milestones_that_exist() -> None:
    spans = [span for definition in DEFINITIONS.values() for figure in definition.figures for span in figure.spans]
    assert {name for span in spans for name in span} <= DOCS.keys()
    figures = [figure for definition in DEFINITIONS.values() for figure in definition.figures]
    assert all(bool(figure.spans) != bool(figure.accounts) for figure in figures)


def test_a_report_explains_each_definition_and_stands_beside_ours() -> None:
    report = analyse(example_run(runtimes=("vm",), control="vm"), [one_trial()])
    names = rendered.names_of(["kata"])
    assert names == ("harness", "kata")
    text = rendered.render(report, names, "terminal")
    assert "in kernel" in text
    assert "stopping to deleted" in text
    assert "tests/metrics" in text
    assert "| kata | in kernel |" in rendered.render(report, names, "markdown")
    document = json.loads(rendered.render(report, names, "json"))
    assert {row["definition"] for row in document["figures"]} == {"harness", "kata"}


def test_a_definition_that_nobody_knows_is_told() -> None:
    with pytest.raises(UsageError, match="did you mean 'kata'"):
        rendered.names_of(["katta"])
