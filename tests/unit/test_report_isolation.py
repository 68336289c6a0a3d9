"""Isolation in reports: told apart at a glance, the process in between in a table of its own, other weights said."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from harness import plugins
from harness.analysis.summary import analyse
from harness.cli.main import cli
from harness.errors import UsageError
from harness.model.records import MetricValue
from harness.report import _isolation as isolation
from harness.report.terminal import TerminalRenderer
from tests.example_run import example_run, example_trials

LOWER = {"unit": "count", "better": "lower", "assume": "exact", "doc": "..."}
EVERYWHERE = ("isolation.syscalls.reachable", "isolation.syscalls.high_risk", "isolation.privileged_ops")
BETWEEN = ("isolation.boundary.syscalls.allowed", "isolation.boundary.syscalls.used")
VALUES = {"process": (362, 44, 18), "container": (289, 4, 4), "vm": (348, 49, 22)}
MONITOR = {"process": (362, 41), "container": (289, 41), "vm": (333, 9)}


def _with_surface(record):
    if record.status != "ok":
        return record
    own = {"acts_on": "own kernel"} if record.spec.runtime == "vm" else {"acts_on": "host kernel"}
    found = {
        name: MetricValue(value, "count", {**own, "of": "362"})
        for name, value in zip(EVERYWHERE, VALUES[record.spec.runtime], strict=True)
    }
    between = zip(BETWEEN, MONITOR[record.spec.runtime], strict=True)
    found |= {name: MetricValue(value, "count", {"acts_on": "host kernel", "of": "362"}) for name, value in between}
    return replace(record, metrics={**record.metrics, **found})


def surface_report():
    """Return a report on a run that looked at the surface too."""
    run = example_run()
    run = replace(run, metrics={**run.metrics, **dict.fromkeys((*EVERYWHERE, *BETWEEN), LOWER)})
    return analyse(run, [_with_surface(record) for record in example_trials()])


@pytest.fixture(scope="module")
def report():
    return surface_report()


def test_cards_tell_kinds_of_isolation_apart(report):
    bare, container, vm = isolation.glance(report)
    assert [(card.kind, card.badge) for card in (bare, container, vm)] == [
        ("bare", "no isolation"), ("shared", "host's kernel"), ("own", "own kernel"),
    ]  # fmt: skip
    assert container.facts[0] == "289 of 362 system calls, 4 of high risk"
    assert vm.facts[0] == "none of the host's within direct reach"
    assert vm.facts[1] == "behind it a monitor that may make 333 of 362 host calls, makes 9"
    assert "348" not in " ".join(vm.facts), "what acts on the guest's kernel is no exposure"


@pytest.mark.parametrize("name", ["html", "markdown", "terminal"])
def test_the_process_in_between_has_a_table_of_its_own(report, name):
    renderer = TerminalRenderer(120) if name == "terminal" else plugins.load("report", name)
    text = renderer.render(report)
    above, _, below = text.partition(
        "the process in between"
        if name == "terminal"
        else ">The process in between</h2>"
        if name == "html"
        else "## The process in between"
    )
    assert "boundary.syscalls" not in text
    assert "syscalls.reachable" in above
    assert "syscalls.allowed" in below


def test_a_sentence_a_runtime(report):
    lines = isolation.report_lines(report)
    assert lines[1].startswith(
        "container: the host's kernel, 289 of 362 system calls (4 of high risk), 4 of 362 privileged"
    )
    assert lines[2].startswith(
        "vm: own kernel, none of the host's within direct reach; its machine monitor may call 333 of 362"
    )


def test_weights_of_whoever_reads(report):
    lines = isolation.report_lines(replace(report, weights={"system-calls": 1.0}))
    assert any("weights changed: system calls 1 instead of 3" in line for line in lines)
    with pytest.raises(UsageError, match="no such part"):
        isolation.report_lines(replace(report, weights={"calls": 1.0}))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["report", "latest", "--weight", "calls=1"], "weight of calls: there is no such part"),
        (["probe", "--weight", "system-calls=many"], "system-calls=many: 'many': not a number"),
    ],
)
def test_a_wrong_weight_is_refused_before_anything_is_read_or_started(argv, words):
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(cli, argv, catch_exceptions=False)
