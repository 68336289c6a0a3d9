from dataclasses import replace

import pytest

from harness.analysis.summary import analyse
from harness.model.records import MetricValue
from tests.example_run import HOST_BOOT, example_run, example_trials

TRIALS = example_trials()
ROWS = ["Operating system", "Startup time", "Resource consumption", "Portability", "Isolation"]


def row(feature, trials=TRIALS, **run_changes):
    claims = analyse(example_run(**run_changes), trials).claims
    return next(claim for claim in claims if claim.feature == feature)


def alter(runtime, change):
    return [change(r) if r.spec.runtime == runtime and r.status == "ok" else r for r in TRIALS]


def setting(metric, value, unit="ns", **others):
    return lambda r: replace(r, metrics={**r.metrics, metric: MetricValue(value, unit)}, **others)


def without(metric, reason="the probe could not"):
    return lambda r: replace(
        r,
        metrics={name: value for name, value in r.metrics.items() if name != metric},
        absent={**r.absent, metric: reason},
    )


def on_kvm(trials):
    return [replace(r, accelerator="kvm") if r.accelerator else r for r in trials]


def test_five_rows_in_the_order_of_the_table():
    claims = analyse(example_run(), TRIALS).claims
    assert [claim.feature for claim in claims] == ROWS
    assert [(claim.claim_vm, claim.claim_container) for claim in claims] == [
        ("its own operating system in every VM", "the host's kernel, shared"),
        ("minutes", "seconds"),
        ("high", "low"),
        ("limited", "high"),
        ("complete", "operating-system level"),
    ]
    assert [claim.verdict for claim in claims] == ["holds", "fails", "holds", "not shown", "holds"]
    assert all(claim.measured_vm.startswith("vm (tcg): ") and claim.reason for claim in claims)
    assert all(claim.measured_container.startswith("container: ") for claim in claims)


def test_operating_system_by_boot_id():
    def shared(record):
        return replace(record, attestation=replace(record.attestation, boot_id=HOST_BOOT))

    assert row("Operating system", alter("vm", shared)).verdict == "fails"
    blind = row("Operating system", host={"kernel": "6.12.9"})
    assert (blind.verdict, blind.reason) == ("not shown", "whether vm ran on the host's kernel was not attested")


@pytest.mark.parametrize(
    ("vm_s", "container_s", "accelerator", "verdict", "words"),
    [
        (90, 2, "kvm", "holds", "the VM took minutes"),
        (90, 2, "tcg", "not shown", "software emulation"),
        (2, 0.01, "kvm", "fails", "the VM was ready in 2.00 s: less than a minute"),
        (2, 0.01, "tcg", "fails", "the VM was ready in 2.00 s, even in software emulation"),
        (200, 100, "kvm", "fails", "the container needed 100 s"),
    ],
)
def test_startup_time(vm_s, container_s, accelerator, verdict, words):
    trials = alter("vm", setting("startup.ready", int(vm_s * 1e9), accelerator=accelerator))
    trials = [
        setting("startup.ready", int(container_s * 1e9))(r) if r.spec.runtime == "container" and r.metrics else r
        for r in trials
    ]
    found = row("Startup time", trials)
    assert found.verdict == verdict
    assert words in found.reason


def test_startup_direction_is_a_remark_and_nothing_under_tcg():
    assert "no measure of how they compare with KVM" in row("Startup time").remark
    assert row("Startup time", on_kvm(TRIALS)).remark.startswith("that VMs start slower than containers does hold")
    quick = on_kvm(alter("vm", setting("startup.ready", 1_000_000)))
    assert row("Startup time", quick).remark.startswith("the VM even started quicker")


def test_startup_not_measured():
    found = row("Startup time", alter("vm", without("startup.ready")))
    assert (found.verdict, found.reason) == ("not shown", "startup.ready of vm: the probe could not")


def test_resources_with_kvm_compare_pss():
    assert row("Resource consumption", on_kvm(TRIALS)).verdict == "holds"
    light = on_kvm(alter("vm", setting("memory.pss", 1 << 20, "bytes")))
    assert row("Resource consumption", light).verdict == "fails"
    assert "sum" not in row("Resource consumption", on_kvm(TRIALS)).reason


def test_resources_under_tcg_leave_the_emulators_own_memory_out():
    assert "without the emulator's code cache" in row("Resource consumption").reason
    small_guest = alter("vm", setting("memory.guest_ram", 1 << 20, "bytes"))
    found = row("Resource consumption", small_guest)
    assert (found.verdict, "cannot be told under TCG" in found.reason) == ("not shown", True)
    unknown = row("Resource consumption", alter("vm", without("memory.guest_ram", "no mapping of that size")))
    assert (unknown.verdict, unknown.reason) == ("not shown", "memory.guest_ram of vm: no mapping of that size")


def test_resources_need_six_blocks():
    assert row("Resource consumption", example_trials(blocks=5)).verdict == "not shown"


def test_portability_shows_what_would_move_and_no_more():
    found = row("Portability")
    assert found.verdict == "not shown"
    assert found.measured_vm == "vm (tcg): disk 14.0 MiB + kernel 41.0 MiB + initramfs 1.34 MiB"
    assert found.measured_container == "container: image 12.0 MiB"
    bare = row("Portability", image={}, arms={"vm": {"boundary": "vm"}, "container": {"boundary": "container"}})
    assert bare.measured_vm == "vm (tcg): sizes not recorded"


def test_isolation_by_kernel_and_namespaces():
    assert "no seccomp" not in row("Isolation").measured_container
    assert "6 own namespaces, 0 effective capabilities" in row("Isolation").measured_container
    shares = alter("vm", setting("isolation.kernel.shared", 1, "bool"))
    assert row("Isolation", shares).reason == "the VM shares the host's kernel"
    kata = alter("container", setting("isolation.kernel.shared", 0, "bool"))
    assert row("Isolation", kata).verdict == "fails"
    naked = alter("container", setting("isolation.namespaces.own", 0, "count"))
    assert row("Isolation", naked).verdict == "fails"
    blind = alter("container", without("isolation.kernel.shared", "no /proc inside"))
    assert row("Isolation", blind).reason == "isolation.kernel.shared of container: no /proc inside"


def test_one_side_alone_shows_nothing():
    arms = {"process": {"boundary": "process"}, "container": {"boundary": "container"}}
    claims = analyse(example_run(arms=arms), TRIALS).claims
    assert {claim.verdict for claim in claims} == {"not shown"}
    assert {claim.measured_vm for claim in claims} == {"no VM in this run"}
    neither = analyse(example_run(arms={}), TRIALS).claims
    assert [claim.feature for claim in neither] == ROWS


def test_the_first_of_a_kind_stands_for_it():
    run = example_run()
    arms = {**run.arms, "q35": {"boundary": "vm"}}
    assert row("Startup time", runtimes=("process", "q35", "container", "vm"), arms=arms).measured_vm.startswith("q35")
