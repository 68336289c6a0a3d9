"""What the text says of virtual machines, containers and layers, row by row, held against runs.

The rows and their claims are those of the text this project began with, in English. A verdict never says more than the
run shows: one host, one workload, the accelerator named. What the run cannot tell is `not shown`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analysis.claims_isolation import FEATURE as ISOLATION
from harness.analysis.claims_isolation import REACH, joined, study_claim
from harness.analysis.claims_layers import (
    AUFS,
    BINDS,
    CACHING,
    CHANGES,
    DEVICE_MAPPER,
    EFFICIENCY,
    OVERLAYFS,
    STATEMENTS,
    VOLUMES,
    layer_claims,
    shipped,
)
from harness.analysis.evidence import Row, contrast, times
from harness.analysis.findings import TCG
from harness.analysis.statistics import EQUIVALENCE_MARGIN, Estimate, paired_ratio
from harness.model.records import RunRecord, TrialRecord
from harness.model.report import Cell, Claim, Identity, Seen, Verdict
from harness.model.units import format_bytes, format_ns

MINUTE_NS = 60_000_000_000
READY = "startup.ready"
PSS = "memory.pss"
GUEST_RAM = "memory.guest_ram"
ARTEFACTS = {"disk_bytes": "disk", "kernel_bytes": "kernel", "initrd_bytes": "initramfs"}
"""Facts of an arm that say what has to be moved besides the image, and what they are."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One arm of the comparison and all that the run knows of it. `label` names a VM's accelerator."""

    runtime: str
    label: str
    emulated: bool
    cells: Mapping[str, Cell]
    seen: Seen | None
    facts: Mapping[str, Any]
    values: Mapping[str, Mapping[int, float]]

    def median(self, metric: str) -> float | None:
        cell = self.cells.get(metric)
        return cell.median if cell else None

    def why_absent(self, metric: str) -> str:
        cell = self.cells.get(metric)
        return cell.absent[0] if cell and cell.absent else "this run did not measure it"


_ROWS = {
    "Operating system": ("its own operating system in every VM", "the host's kernel, shared"),
    "Startup time": ("minutes", "seconds"),
    "Resource consumption": ("high", "low"),
    "Portability": ("limited", "high"),
    "Isolation": ("complete", "operating-system level"),
}
COMPARISON = tuple(_ROWS)
"""The rows of the text's own table; the others are its statements on layers and storage."""


SCENARIOS = {
    ISOLATION: REACH,
    "Portability": "portability",
    EFFICIENCY: "layers",
    CHANGES: "build-cache",
    CACHING: "build-cache",
    OVERLAYFS: "storage-operations",
    AUFS: "storage-operations",
    DEVICE_MAPPER: "storage-drivers-guest",
    VOLUMES: "volumes",
    BINDS: "volumes",
}
"""Which shipped scenario measures a row; the others are measured by `quickstart`."""


def claims(run: RunRecord, kept: Sequence[TrialRecord], cells: Sequence[Cell], identity: Identity) -> tuple[Claim, ...]:
    """Return the rows that a run has something on: of runtimes the table's five, then those on layers and storage."""
    rows = layer_claims(run, kept, cells)
    if not run.study:
        rows = (*_comparison(run, kept, cells, identity), *rows)
    elif run.study.get("kind") == "portability":
        rows = (shipped(run, kept, cells, _ROWS["Portability"]), *rows)
    elif found := study_claim(run, cells, _ROWS[ISOLATION]):
        rows = (found, *rows)
    blocks = len({trial.spec.block for trial in kept})
    return tuple(replace(row, scenario=row.scenario or _scenario(row.feature), blocks=blocks) for row in rows)


def _scenario(feature: str) -> str:
    return SCENARIOS.get(feature, "quickstart")


def whole_table(tables: Sequence[tuple[str, Sequence[Claim]]]) -> tuple[Claim, ...]:
    """Return every row of the text once, from several runs: (run id, its rows).

    Of the runs that show a row the one with most blocks wins, the first of equals; on isolation three kinds of runs
    speak together. What no run has anything on is not shown, and the row says which scenario measures it.
    """
    rows = []
    for feature in (*_ROWS, *STATEMENTS):
        found = [replace(row, run_id=run) for run, own in tables for row in own if row.feature == feature]
        found = joined(found) if feature == ISOLATION else found
        found.sort(key=lambda row: -row.blocks)
        shown = [row for row in found if row.verdict != "not shown"]
        others = sorted({row.verdict for row in shown[1:]} - {row.verdict for row in shown[:1]})
        row = next(iter([*shown, *found]), None) or _unmeasured(feature)
        if others:
            row = replace(row, remark="; ".join(filter(None, [row.remark, f"another run says: {', '.join(others)}"])))
        rows.append(row)
    return tuple(rows)


def _unmeasured(feature: str) -> Claim:
    texts = _ROWS.get(feature) or ("", STATEMENTS[feature])
    scenario = _scenario(feature)
    remark = f"harness run scenarios/{scenario}.yaml does"
    return Claim(feature, *texts, "", "", "not shown", "no run here measured it", remark, scenario=scenario)


def _comparison(
    run: RunRecord, kept: Sequence[TrialRecord], cells: Sequence[Cell], identity: Identity
) -> tuple[Claim, ...]:
    """Return the five rows. Of several VMs or containers the scenario's first stands for its kind."""
    vm = _side(run, "vm", kept, cells, identity)
    container = _side(run, "container", kept, cells, identity)
    if vm is None or container is None:
        return tuple(
            Claim(
                feature,
                *texts,
                "no VM in this run" if vm is None else vm.label,
                "no container in this run" if container is None else container.label,
                "not shown",
                "both sides of the comparison are needed, and this run has only one of them"
                if vm or container
                else "this run has neither a VM nor a container",
            )
            for feature, texts in _ROWS.items()
        )
    found = (
        _operating_system(vm, container),
        _startup(vm, container),
        _resources(vm, container),
        _portability(run, vm, container),
        _isolation(vm, container),
    )
    return tuple(row.claim(feature, texts) for (feature, texts), row in zip(_ROWS.items(), found, strict=True))


def _side(
    run: RunRecord, boundary: str, kept: Sequence[TrialRecord], cells: Sequence[Cell], identity: Identity
) -> _Side | None:
    arms = ((name, run.arms.get(name, {})) for name in run.runtimes)  # a start that was prepared is no start here
    runtime = next((name for name, arm in arms if arm.get("boundary") == boundary and not arm.get("start")), None)
    if runtime is None:
        return None
    own = [trial for trial in kept if trial.spec.runtime == runtime]
    accelerators = sorted({trial.accelerator for trial in own if trial.accelerator})
    return _Side(
        runtime=runtime,
        label=f"{runtime} ({'+'.join(accelerators)})" if accelerators else runtime,
        emulated=TCG in accelerators,
        cells={cell.metric: cell for cell in cells if cell.runtime == runtime},
        seen=next((seen for seen in identity.seen if seen.runtime == runtime), None),
        facts=run.arms[runtime],
        values={
            metric: {trial.spec.block: trial.metrics[metric].value for trial in own if metric in trial.metrics}
            for metric in (READY, PSS, GUEST_RAM)
        },
    )


def _ratio(vm: _Side, vm_metric: str, container: _Side, metric: str) -> Estimate | None:
    """Return VM / container, paired by block; None without a block in which both are above 0."""
    above, below = vm.values[vm_metric], container.values[metric]
    blocks = [block for block in sorted(above.keys() & below.keys()) if above[block] > 0 and below[block] > 0]
    return paired_ratio([above[block] / below[block] for block in blocks]) if blocks else None


def _operating_system(vm: _Side, container: _Side) -> Row:
    texts = _kernel_text(vm), _kernel_text(container)
    short = _kernel_short(vm), _kernel_short(container)
    own_vm, own_container = (side.seen.own_kernel if side.seen else None for side in (vm, container))
    if own_vm is None or own_container is None:
        which = vm if own_vm is None else container
        return Row(*texts, "not shown", f"whether {which.runtime} ran on the host's kernel was not attested")
    if own_vm and not own_container:
        reason = "the boot id seen inside is another than the host's in the VM, and the host's own in the container"
        return Row(*texts, "holds", reason, short=short)
    wrong = "the VM runs on the host's kernel" if not own_vm else "this container has a kernel of its own"
    return Row(*texts, "fails", f"{wrong}, by the boot id seen inside", short=short)


def _kernel_short(side: _Side) -> str:
    whose = {True: "own kernel", False: "host's kernel", None: "kernel"}
    return f"{whose[side.seen.own_kernel]} {side.seen.kernel.partition('-')[0]}" if side.seen else ""


def _kernel_text(side: _Side) -> str:
    if side.seen is None:
        return f"{side.label}: not attested"
    whose = {True: "its own", False: "the host's", None: "whose is not known"}[side.seen.own_kernel]
    return f"{side.label}: kernel {side.seen.kernel}, {whose}"


def _startup(vm: _Side, container: _Side) -> Row:
    texts = _median_text(vm, READY, format_ns, "to ready"), _median_text(container, READY, format_ns, "to ready")
    vm_ns, container_ns = vm.median(READY), container.median(READY)
    if vm_ns is None or container_ns is None:
        which = vm if vm_ns is None else container
        return Row(*texts, "not shown", f"{READY} of {which.runtime}: {which.why_absent(READY)}")
    verdict, reason = _minutes(vm, vm_ns, container_ns)
    ratio = contrast(f"{READY}, VM / container", _ratio(vm, READY, container, READY))
    short = format_ns(vm_ns), format_ns(container_ns)
    return Row(*texts, verdict, reason, _direction(vm, container), short, ratio)


def _minutes(vm: _Side, vm_ns: float, container_ns: float) -> tuple[Verdict, str]:
    if container_ns >= MINUTE_NS:
        return "fails", f"the container needed {format_ns(container_ns)}, which is minutes"
    if vm_ns < MINUTE_NS:
        even = ", even in software emulation" if vm.emulated else ""
        return "fails", f"the VM was ready in {format_ns(vm_ns)}{even}: less than a minute"
    if vm.emulated:
        return "not shown", "the VM took minutes, but in software emulation (TCG): with KVM it may not"
    return "holds", "the VM took minutes, the container less than one"


def _direction(vm: _Side, container: _Side) -> str:
    ratio = _ratio(vm, READY, container, READY)
    if ratio is None:
        return ""
    if ratio.lo is None or ratio.hi is None:
        return f"the VM took {times(ratio)} as long as the container; too few blocks for an interval"
    said = f"the VM took {times(ratio)} as long as the container"
    if vm.emulated:
        return f"{said}, under TCG: no measure of how they compare with KVM"
    if ratio.lo > 1:
        return f"that VMs start slower than containers does hold here: {said}"
    if ratio.hi < 1:
        return f"the VM even started quicker: {said}"
    return f"which of the two starts quicker is undecided here: {said}"


def _resources(vm: _Side, container: _Side) -> Row:
    vm_text, container_text = (
        _median_text(side, PSS, format_bytes, "of host memory (PSS)") for side in (vm, container)
    )
    metric = GUEST_RAM if vm.emulated else PSS
    guest_ram_bytes = vm.median(GUEST_RAM)
    if vm.emulated and guest_ram_bytes is not None:
        vm_text += f", of it {format_bytes(guest_ram_bytes)} guest RAM"
    texts = vm_text, container_text
    for side, needed in ((vm, metric), (container, PSS)):
        if side.median(needed) is None:
            return Row(*texts, "not shown", f"{needed} of {side.runtime}: {side.why_absent(needed)}")
    ratio = _ratio(vm, metric, container, PSS)
    verdict, reason = _more_memory(vm, ratio)
    short = format_bytes(vm.median(metric) or 0), format_bytes(container.median(PSS) or 0)
    of = f"{metric} / container's {PSS}" if vm.emulated else f"{PSS}, VM / container"
    return Row(*texts, verdict, reason, short=short, contrast=contrast(of, ratio))


def _more_memory(vm: _Side, ratio: Estimate | None) -> tuple[Verdict, str]:
    if ratio is None or ratio.lo is None or ratio.hi is None:
        return "not shown", "fewer than 6 blocks hold both values: no interval, no verdict"
    part = "the guest's RAM alone (without the emulator's code cache)" if vm.emulated else "the VM"
    said = f"{part} takes {times(ratio)} the container's memory"
    limit = 1 + EQUIVALENCE_MARGIN
    if ratio.lo > limit:
        return "holds", f"{said}; CPU and disk are not part of this row"
    if vm.emulated:
        return "not shown", f"{said}; what the VMM adds cannot be told under TCG"
    return ("fails", said) if ratio.hi < limit else ("not shown", f"{said}: undecided")


def _median_text(side: _Side, metric: str, form: Callable[[float], str], what: str) -> str:
    value = side.median(metric)
    return f"{side.label}: {form(value)} {what}" if value is not None else f"{side.label}: {side.why_absent(metric)}"


def _portability(run: RunRecord, vm: _Side, container: _Side) -> Row:
    texts = _moved_text(run, vm), _moved_text(run, container)
    reason = "nothing was moved: both sides ran on one host, and sizes alone do not show portability"
    remark = "both were made from the same image" if run.image.get("root_digest") else ""
    return Row(*texts, "not shown", reason, remark)


def _moved_text(run: RunRecord, side: _Side) -> str:
    """Return what would have to be moved: the arm's own artefacts where it has any, else the image."""
    facts = {name: side.facts.get(key) for key, name in ARTEFACTS.items()}
    sizes = {name: size for name, size in facts.items() if isinstance(size, int)}
    if not sizes and isinstance(run.image.get("size_bytes"), int):
        sizes = {"image": run.image["size_bytes"]}
    parts = " + ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
    return f"{side.label}: {parts or 'sizes not recorded'}"


def _isolation(vm: _Side, container: _Side) -> Row:
    texts = _isolation_text(vm), _isolation_text(container)
    vm_shared, container_shared = (side.median("isolation.kernel.shared") for side in (vm, container))
    if vm_shared is None or container_shared is None:
        which = vm if vm_shared is None else container
        reason = f"isolation.kernel.shared of {which.runtime}: {which.why_absent('isolation.kernel.shared')}"
        return Row(*texts, "not shown", reason)
    own = container.median("isolation.namespaces.own")
    short = (
        "shared kernel" if vm_shared else "own kernel",
        "own kernel" if not container_shared else "host's kernel" if own is None else f"{own:g} own namespaces",
    )
    wrong = _not_as_said(bool(vm_shared), bool(container_shared), own)
    if wrong:
        return Row(*texts, "fails", wrong, short=short)
    reason = "as the text means it, the VM by a kernel of its own and the container within the host's kernel"
    remark = "what neighbours disturb and what breaks is shown by the scenarios noisy-neighbour and containment"
    return Row(*texts, "holds", reason, remark, short)


def _not_as_said(vm_shared: bool, container_shared: bool, own_namespaces: float | None) -> str:  # noqa: FBT001
    if vm_shared:
        return "the VM shares the host's kernel"
    if not container_shared:
        return "this container has a kernel of its own: more than operating-system level"
    return "the container has no namespace of its own: it is not isolated at all" if own_namespaces == 0 else ""


def _isolation_text(side: _Side) -> str:
    shared = side.median("isolation.kernel.shared")
    if shared is None:
        return f"{side.label}: {side.why_absent('isolation.kernel.shared')}"
    if not shared:
        allowed = side.median("isolation.boundary.syscalls.allowed")
        monitor = "" if allowed is None else f"; its monitor may make {allowed:g} of the host's system calls"
        return f"{side.label}: own kernel; what it may do inside acts on that kernel{monitor}"
    parts = ["host's kernel"]
    for metric, form in (
        ("isolation.namespaces.own", "{:g} own namespaces"),
        ("isolation.capabilities.effective", "{:g} effective capabilities"),
        ("isolation.syscalls.reachable", "{:g} system calls reachable"),
        ("isolation.privileged_ops", "{:g} privileged operations"),
    ):
        value = side.median(metric)
        if value is not None:
            parts.append(form.format(value))
    seccomp = side.median("isolation.seccomp.mode")
    if seccomp is not None:
        parts.append("seccomp filter" if seccomp == 2 else "no seccomp filter")
    return f"{side.label}: {', '.join(parts)}"
