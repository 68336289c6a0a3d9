from dataclasses import replace

import pytest

from harness.analysis.identity import differences
from harness.analysis.statistics import median
from harness.analysis.summary import analyse, counted
from harness.model.records import MetricValue, Noise
from harness.model.report import Finding
from harness.report._tables import runtime_label
from tests.example_run import example_run, example_trials, fail

TRIALS = example_trials()
REPORT = analyse(example_run(), TRIALS)


def codes(report):
    return [finding.code for finding in report.findings]


def finding(report, code):
    return next(found for found in report.findings if found.code == code)


def changed(trial_id, **changes):
    return [replace(r, **changes) if r.spec.trial_id == trial_id else r for r in TRIALS]


def with_value(metric, runtime, values, unit="ns"):
    """Return the example's trials with one metric of one runtime replaced, block by block."""
    return [
        replace(r, metrics={**r.metrics, metric: MetricValue(values(r.spec.block), unit)})
        if r.spec.runtime == runtime
        else r
        for r in TRIALS
    ]


def test_counts_and_failures():
    assert (REPORT.blocks, REPORT.warmup_blocks, REPORT.trials) == (10, 1, 33)
    assert [(f.trial_id, f.runtime, f.status) for f in REPORT.failures] == [("b07-container", "container", "timeout")]
    assert REPORT.accelerators == {"vm": "tcg"}


def test_warmup_and_failed_trials_do_not_count():
    assert len(counted(TRIALS)) == 29
    ready = REPORT.cell("startup.ready", "container")
    own = [r.metrics["startup.ready"].value for r in counted(TRIALS) if r.spec.runtime == "container"]
    assert (ready.n, ready.median, ready.minimum, ready.maximum) == (9, median(own), min(own), max(own))
    slow_warmup = [
        replace(r, metrics={**r.metrics, "startup.ready": MetricValue(10**12, "ns")}) if r.spec.warmup else r
        for r in TRIALS
    ]
    assert analyse(example_run(), slow_warmup).cells == REPORT.cells


def test_cells_are_headlines_first_then_as_declared_and_in_the_scenarios_order():
    metrics = list(dict.fromkeys(cell.metric for cell in REPORT.cells))
    assert metrics[:3] == ["startup.ready", "memory.pss", "startup.runtime.exec"]
    assert set(metrics) == set(example_run().metrics)
    assert [cell.runtime for cell in REPORT.cells[:3]] == ["process", "container", "vm"]


def test_effect_is_paired_by_block():
    """The container is 3x the process in every block, while both grow tenfold over the run: pairing sees only 3x."""
    trials = with_value("startup.ready", "process", lambda block: 1000 * (block + 1))
    trials = [
        replace(r, metrics={**r.metrics, "startup.ready": MetricValue(3000 * (r.spec.block + 1), "ns")})
        if r.spec.runtime == "container" and r.metrics
        else r
        for r in trials
    ]
    effect = analyse(example_run(), trials).cell("startup.ready", "container").effect
    assert effect.value == pytest.approx(3)
    assert (effect.lo, effect.hi) == (pytest.approx(3), pytest.approx(3))
    assert (effect.kind, effect.n, effect.wording) == ("ratio", 9, "slower")


def test_the_control_has_no_effect_and_lonely_metrics_neither():
    assert REPORT.cell("startup.ready", "process").effect is None
    assert REPORT.cell("startup.kernel", "vm").effect is None
    assert REPORT.cell("startup.kernel", "vm").n == 10


def test_zeros_are_compared_by_difference():
    effect = REPORT.cell("memory.cgroup.file", "container").effect
    assert effect.kind == "difference"
    assert effect.wording == "more"
    assert effect.value == pytest.approx(0.3 * 2**20, rel=0.01)


def test_a_difference_of_exactly_zero_is_the_same():
    zeros = [
        replace(r, metrics={**r.metrics, "memory.cgroup.file": MetricValue(0, "bytes")}) if r.metrics else r
        for r in TRIALS
    ]
    effect = analyse(example_run(), zeros).cell("memory.cgroup.file", "container").effect
    assert (effect.kind, effect.lo, effect.hi, effect.wording) == ("difference", 0, 0, "same")
    few = analyse(example_run(), [r for r in zeros if r.spec.block < 4]).cell("memory.cgroup.file", "container").effect
    assert few.wording == "too few blocks"


@pytest.mark.parametrize(
    ("factor", "metric", "unit", "wording"),
    [
        (lambda block: 1.5, "startup.ready", "ns", "slower"),
        (lambda block: 0.5, "startup.ready", "ns", "faster"),
        (lambda block: 1.02, "startup.ready", "ns", "same"),
        (lambda block: (0.7, 1.4)[block % 2], "startup.ready", "ns", "undecided"),
        (lambda block: 1.5, "memory.pss", "bytes", "more"),
        (lambda block: 0.5, "memory.pss", "bytes", "less"),
        (lambda block: 1.5, "new.metric", "count", "higher"),
    ],
)
def test_wording(factor, metric, unit, wording):
    def measured(record):
        value = 10**6 * (factor(record.spec.block) if record.spec.runtime == "vm" else 1)
        return replace(record, metrics={metric: MetricValue(value, unit)})

    report = analyse(example_run(), [measured(record) for record in TRIALS])
    assert report.cell(metric, "vm").effect.wording == wording


def test_few_blocks_give_no_interval_and_say_so():
    report = analyse(example_run(), example_trials(blocks=5))
    cell = report.cell("startup.ready", "vm")
    assert (cell.n, cell.lo, cell.hi, cell.effect.lo, cell.effect.wording) == (5, None, None, None, "too few blocks")
    assert cell.effect.value > 100
    assert codes(report).count("few-blocks") == 3
    assert "few-blocks" not in codes(REPORT)


def test_blocks_count_only_where_the_control_succeeded_too():
    trials = [fail(r, "no") if r.spec.runtime == "process" and r.spec.block > 5 else r for r in TRIALS]
    report = analyse(example_run(), trials)
    assert report.cell("startup.ready", "vm").n == 10
    assert report.cell("startup.ready", "vm").effect.n == 5
    messages = [found.message for found in report.findings if found.code == "few-blocks"]
    assert messages[2].startswith("vm: 5 blocks paired with process")


def test_exact_metrics_have_no_statistics():
    cell = REPORT.cell("isolation.namespaces.own", "container")
    assert (cell.median, cell.lo, cell.hi, cell.exact) == (6, None, None, True)
    assert (cell.effect.kind, cell.effect.value, cell.effect.wording) == ("exact", 6, "differs")
    assert cell.labels["names"] == "cgroup ipc mnt net pid uts"
    assert "exact-varies" not in codes(REPORT)


def test_an_exact_metric_that_varies_is_a_finding():
    trials = changed("b05-vm", metrics={**TRIALS[0].metrics, "isolation.devices.visible": MetricValue(99, "count")})
    report = analyse(example_run(), trials)
    found = finding(report, "exact-varies")
    assert found.message == ("isolation.devices.visible: vm: not the same at every start: 24 in 9 trials, 99 in b05-vm")
    assert "bug" not in found.remedy


def test_missing_is_listed_once_for_each_reason():
    lines = {missing.reason: missing for missing in REPORT.missing}
    no_vmm = lines["no VMM: it runs on the host's kernel"]
    assert no_vmm.runtimes == ("process", "container")
    assert "memory.vmm" in no_vmm.metrics
    cell = REPORT.cell("memory.vmm", "process")
    assert (cell.n, cell.median, cell.absent) == (0, None, ("no VMM: it runs on the host's kernel",))


def test_a_metric_that_some_trials_lack_is_told():
    victim = next(r for r in TRIALS if r.spec.trial_id == "b05-vm")
    rest = {name: value for name, value in victim.metrics.items() if name != "memory.pss"}
    trials = changed("b05-vm", metrics=rest, absent={**victim.absent, "memory.pss": "smaps vanished"})
    report = analyse(example_run(), trials)
    assert report.cell("memory.pss", "vm").n == 9
    assert [m.runtimes for m in report.missing if m.reason == "smaps vanished"] == [("vm (some trials)",)]


def test_findings_of_the_example():
    assert codes(REPORT) == ["tcg", "failures", "noise", "outliers"]
    assert "software emulation" in finding(REPORT, "tcg").message
    assert (
        "1 of 11 trials failed: 1 timeout (95 % interval of the rate 2% - 38%)" in finding(REPORT, "failures").message
    )
    assert finding(REPORT, "noise").message.startswith("cpu-pressure: 3 of 33")
    assert finding(REPORT, "outliers").message.endswith("(kept): b03-vm")
    assert REPORT.cell("startup.ready", "vm").n == 10


def test_drift_is_found_in_the_order_of_trials():
    report = analyse(example_run(), with_value("startup.ready", "vm", lambda block: 10**9 + block * 10**6))
    assert "startup.ready: vm: rises with the order of trials (Spearman +1.00" in finding(report, "drift").message
    assert "drift" not in codes(REPORT)


def test_unknown_noise_and_mixed_accelerators_are_told():
    report = analyse(example_run(), changed("b05-vm", accelerator="kvm", noise=Noise(flags=("heat",))))
    assert report.accelerators == {"vm": "tcg+kvm"}
    assert "vm (tcg+kvm)" in finding(report, "mixed-accelerator").message
    assert any("heat: 1 of 33" in found.message and found.remedy for found in report.findings)


def with_networks(**kinds):
    run = example_run()
    return replace(run, arms={name: {**run.arms[name], "network": {"kind": kind}} for name, kind in kinds.items()})


def test_unlike_networks_are_told_where_one_is_a_bridge():
    report = analyse(with_networks(process="host", container="bridge", vm="bridge"), TRIALS)
    assert "process: host, container: bridge, vm: bridge: the runtimes" in finding(report, "networks-differ").message


def test_kvm_inside_a_virtual_machine_is_told():
    run = example_run()
    report = analyse(replace(run, arms={**run.arms, "vm": {**run.arms["vm"], "nested": True}}), TRIALS)
    assert finding(report, "nested").message.startswith("vm: ran with KVM on a host that is a virtual machine itself")
    assert "nested" not in codes(analyse(run, TRIALS))
    assert runtime_label(report, "vm").endswith(", nested)")


def test_what_a_lever_of_a_vm_changes_besides_time_is_told_and_nothing_else_is():
    run = example_run()
    changes = {"legacy_timers": "a machine without PIT and PIC", "boot": "a whole distribution"}
    report = analyse(replace(run, arms={**run.arms, "vm": {**run.arms["vm"], "changes": changes}}), TRIALS)
    told = finding(report, "levers").message
    assert told.startswith("vm: its levers change more than the time of a start: boot: a whole distribution; legacy_")
    assert "levers" not in codes(analyse(run, TRIALS))


@pytest.mark.parametrize("kinds", [("bridge", "bridge", "bridge"), ("host", "none", "none")])
def test_like_networks_and_those_that_each_backend_has_by_itself_are_not(kinds):
    run = with_networks(**dict(zip(("process", "container", "vm"), kinds, strict=True)))
    assert "networks-differ" not in codes(analyse(run, TRIALS))


def test_a_run_that_was_interrupted_says_so():
    run = example_run(status="interrupted", stop_reason="by the user", warnings=("cache: cold is not supported",))
    report = analyse(run, TRIALS, [Finding("torn", "half a line")])
    assert codes(report)[:3] == ["torn", "incomplete", "warning"]
    assert finding(report, "incomplete").remedy == f"harness run --resume {run.run_id}"


def test_a_run_that_was_killed_is_not_called_running_beside_it():
    report = analyse(example_run(status="running"), TRIALS, [Finding("killed", "no process works on it")])
    assert codes(report)[0] == "killed"
    assert "incomplete" not in codes(report)
    living = analyse(example_run(status="running"), TRIALS)
    assert finding(living, "incomplete").remedy == ""


def test_a_run_without_trials_is_a_report_too():
    report = analyse(example_run(), [])
    assert codes(report) == ["empty"]
    assert not report.identity.identical
    assert all(cell.n == 0 for cell in report.cells)


def test_a_run_in_which_all_failed():
    report = analyse(example_run(), [fail(record, "no") for record in TRIALS])
    assert len(report.failures) == 33
    assert not report.identity.identical
    assert report.cell("startup.ready", "vm").absent == ("no trial of this runtime succeeded",)


def test_identity_of_equal_arms():
    assert differences(TRIALS) == []
    same = REPORT.identity
    assert (same.identical, same.attested, same.trials) == (True, 32, 32)
    assert same.root_digest == "sha256:" + "3f" * 32
    assert [(seen.runtime, seen.own_kernel, seen.cpus) for seen in same.seen] == [
        ("process", False, (2,)),
        ("container", False, (2,)),
        ("vm", True, (1,)),
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"exe_sha256": "sha256:" + "cd" * 32},
            "exe_sha256: {first} sha256:a1a1a1a1a1a1.. differs from vm sha256:cdcdcdcdcdcd.. (trial b03-vm)",
        ),
        ({"uid": 0}, "uid: {first} 1000 differs from vm 0 (trial b03-vm)"),
        ({"gid": 0}, "gid: {first} 1000 differs from vm 0 (trial b03-vm)"),
        ({"cwd": "/"}, "cwd: {first} '/app' differs from vm '/' (trial b03-vm)"),
        (
            {"argv": ("/app/server",)},
            "argv: {first} ['/app/server', '--port', '8080'] differs from vm ['/app/server'] (trial b03-vm)",
        ),
        (
            {"env": {"PATH": "/usr/bin:/bin"}},
            "env LANG: {first} 'C.UTF-8' differs from vm '(unset)' (trial b03-vm)",
        ),
        (
            {"root_digest": "sha256:" + "00" * 32},
            "root_digest: {first} sha256:3f3f3f3f3f3f.. differs from vm sha256:000000000000.. (trial b03-vm)",
        ),
    ],
)
def test_every_difference_is_named(change, line):
    victim = next(r for r in TRIALS if r.spec.trial_id == "b03-vm")
    trials = changed("b03-vm", attestation=replace(victim.attestation, **change))
    assert differences(trials) == [line.format(first=trials[0].spec.runtime)]
    assert not analyse(example_run(), trials).identity.identical


def test_a_whole_arm_that_differs_is_one_line():
    trials = [
        replace(r, attestation=replace(r.attestation, uid=0)) if r.spec.runtime == "vm" and r.attestation else r
        for r in TRIALS
    ]
    first = next(r.spec.trial_id for r in TRIALS if r.spec.runtime == "vm")
    assert [line.rpartition(" (")[2] for line in differences(trials)] == [f"trial {first})"]


def test_what_may_differ_is_no_difference():
    victim = next(r for r in TRIALS if r.spec.trial_id == "b03-vm")
    other = replace(victim.attestation, kernel="9", boot_id="z", cpus=8, memory_bytes=1)
    trials = changed("b03-vm", attestation=other)
    assert differences(trials) == []
    vm = analyse(example_run(), trials).identity.seen[2]
    assert (vm.cpus, vm.kernel) == ((1, 8), "6.1.0-56-cloud-amd64 and 9")


def test_a_missing_attestation_is_a_difference_unless_the_trial_failed():
    assert differences(changed("b03-vm", attestation=None)) == ["attestation: vm: missing (trial b03-vm)"]
    assert differences([r for r in TRIALS if r.status != "ok"]) == []


def test_arms_of_a_base_revision_need_only_be_the_same_among_themselves():
    def at_base(trial, **attested):
        attestation = trial.attestation and replace(trial.attestation, root_digest="sha256:0b", **attested)
        return replace(trial, spec=replace(trial.spec, runtime=f"{trial.spec.runtime}@base"), attestation=attestation)

    theirs = [at_base(trial) for trial in TRIALS]
    assert differences([*TRIALS, *theirs]) == []
    other = replace(theirs[-1], attestation=replace(theirs[-1].attestation, uid=7))
    assert differences([*TRIALS, *theirs[:-1], other]) != []
    run = example_run()
    both = replace(run, runtimes=(*run.runtimes, *(f"{name}@base" for name in run.runtimes)))
    report = analyse(both, [*TRIALS, *theirs])
    assert report.identity.root_digest == TRIALS[0].attestation.root_digest
