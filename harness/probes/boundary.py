"""The process that stands between the workload and the host: a container's own tasks, or a VM's monitor.

Who breaks a guest's kernel open has the monitor next; what that one may ask of the host is the second line. It is asked
here of both sides alike: which system calls it makes during a fixed piece of work, which it could make, and as whom.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError, TrialError
from harness.interfaces import Emit, Instance
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.probes import _filters, _surface, _syscalls, _traced
from harness.probes._bpf import codes
from harness.probes._surface import Finding, Missing, Outcome, property_metric
from harness.probes.isolation import NAMESPACES, capability_names
from harness.probes.surface import HOST_KERNEL, host_symbols

WORK_NS = 60_000_000_000


USED = Metric(
    "isolation.boundary.syscalls.used",
    Unit.COUNT,
    Better.LOWER,
    "different system calls of the host that its processes made during the fixed work, all threads and children",
)
ALLOWED = property_metric(
    "boundary.syscalls.allowed", "system calls that its least filtered thread could make, of those implemented"
)
HIGH_RISK = property_metric(
    "boundary.syscalls.high_risk", "of them, calls that administer the kernel or see into other processes"
)
UNFILTERED = property_metric("boundary.threads.unfiltered", "its threads without any seccomp filter")
ROOT = property_metric("boundary.root", "one of its processes is uid 0 of the host", Unit.BOOL)
CAPABILITIES = property_metric(
    "boundary.capabilities", "effective capabilities of its most privileged process, in any user namespace"
)
NO_NEW_PRIVS = property_metric(
    "boundary.no_new_privs", "setuid programs give none of its threads anything", Unit.BOOL, Better.HIGHER
)
OWN_NAMESPACES = property_metric(
    "boundary.namespaces.own", "namespaces that are not the host's, of its first process", better=Better.HIGHER
)
DESCRIPTORS = Metric(
    "isolation.boundary.descriptors", Unit.COUNT, Better.LOWER, "open file descriptors of its processes (labels: kinds)"
)
VMM_DEVICES = property_metric("boundary.devices", "devices that the machine monitor emulates, by its own list")
REGIONS = property_metric(
    "boundary.io_regions", "different regions of memory and ports that the machine monitor answers itself"
)
EXITS = Metric(
    "isolation.boundary.vm_exits", Unit.COUNT, Better.LOWER,
    "times that the first virtual CPU left guest mode for the host's kernel during the fixed work (labels: reasons)",
)  # fmt: skip
LABELLED = property_metric(
    "boundary.lsm", "a security module's label confines all of its processes", Unit.BOOL, Better.HIGHER
)

METRICS = (
    USED, ALLOWED, HIGH_RISK, UNFILTERED, ROOT, CAPABILITIES, NO_NEW_PRIVS, OWN_NAMESPACES, DESCRIPTORS, LABELLED,
    VMM_DEVICES, REGIONS, EXITS,
)  # fmt: skip
_OF_FILTERS = (ALLOWED, HIGH_RISK, UNFILTERED)


# -- what it may do ------------------------------------------------------------------------------------------------


def filtered(dumped: Mapping[int, _filters.Programs], implemented: frozenset[int]) -> Mapping[Metric, Outcome]:
    """Return what the least filtered thread may call. Pure; `implemented` empty where nobody knows."""
    if not dumped:
        return dict.fromkeys(_OF_FILTERS, Missing("absent", "it has no thread any more"))
    unfiltered = sum(not programs for programs in dumped.values())
    found: dict[Metric, Outcome] = {UNFILTERED: Finding(unfiltered, {"of": str(len(dumped))})}
    if here := _syscalls.unknown_on():
        return {**found, **dict.fromkeys((ALLOWED, HIGH_RISK), Missing("unsupported", here))}
    if not implemented:
        hidden = Missing("denied", "/proc/kallsyms is hidden: which calls this kernel implements is not known")
        return {**found, ALLOWED: hidden, HIGH_RISK: hidden}
    verdicts = [codes(programs, "x86_64", _syscalls.NUMBERS_MAX) for programs in set(dumped.values())]
    loosest = max(verdicts, key=lambda one: len(_surface.reached(one, implemented)))
    return {
        **found,
        ALLOWED: _surface.reachable(loosest, implemented),
        HIGH_RISK: _surface.high_risk(loosest, implemented),
    }


def _status(pid: int) -> Mapping[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: text.strip() for key, _, text in (line.partition(":") for line in lines)}


def _label(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n ")
    except OSError:
        return ""


def privileges(pids: Sequence[int]) -> Mapping[Metric, Outcome]:
    """Return as whom the processes run. Raises: OSError when one is gone."""
    states = [_status(pid) for pid in pids]
    if not states:
        return dict.fromkeys((ROOT, CAPABILITIES, NO_NEW_PRIVS, LABELLED), Missing("absent", "it has no process"))
    uids = sorted({state["Uid"].split()[1] for state in states}, key=int)
    mask = max((int(state["CapEff"], 16) for state in states), key=int.bit_count)
    labels = sorted({_label(pid) for pid in pids})
    confined = all(label and not label.startswith("unconfined") and label != "kernel" for label in labels)
    threads = [_status(tid) for tid in _filters.threads(pids)]
    return {
        ROOT: Finding(int("0" in uids), {"uids": " ".join(uids)}),
        CAPABILITIES: Finding(mask.bit_count(), {"names": " ".join(capability_names(mask)), "mask": f"{mask:016x}"}),
        NO_NEW_PRIVS: Finding(int(all(one["NoNewPrivs"] == "1" for one in threads)), {"threads": str(len(threads))}),
        LABELLED: Finding(int(confined), {"labels": " ".join(filter(None, labels)) or "none"}),
    }


_KIND = re.compile(r"(/dev/[\w/-]+|anon_inode:\[?[\w-]+|/memfd:|[a-z_]+:)")


def kinds_of(targets: Sequence[str]) -> Counter[str]:
    """Return what file descriptors are, by the targets of their links: devices by name, else `socket`, `file`..."""
    found: Counter[str] = Counter()
    for target in targets:
        match = _KIND.match(target)
        found[match[1].rstrip(":") if match else "file"] += 1
    return found


def _descriptors(pids: Sequence[int]) -> Finding:
    targets = []
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                targets.append(str(entry.readlink()))
            except FileNotFoundError:
                continue
    return Finding(len(targets), {"kinds": ", ".join(f"{name} {count}" for name, count in kinds_of(targets).items())})


def _namespaces(pid: int) -> Finding:
    own = []
    for kind in NAMESPACES:
        here, there = Path(f"/proc/self/ns/{kind}"), Path(f"/proc/{pid}/ns/{kind}")
        if here.exists() and here.readlink() != there.readlink():
            own.append(kind)
    return Finding(len(own), {"names": " ".join(own)})


# -- what it emulates ----------------------------------------------------------------------------------------------

_DEVICE = re.compile(r"^\s*dev: ([\w.-]+)", re.MULTILINE)
_REGION = re.compile(r"^\s+[0-9a-f]+-[0-9a-f]+ \(prio -?\d+, i/o\): (.+?)(?: @[0-9a-f]+)?$", re.MULTILINE)


def devices_of(qtree: str) -> Finding:
    """Return how many devices QEMU's `info qtree` lists, with their kinds."""
    found = _DEVICE.findall(qtree)
    return Finding(len(found), {"kinds": str(len(set(found))), "names": " ".join(sorted(set(found)))})


def regions_of(mtree: str) -> Finding:
    """Return how many regions QEMU's `info mtree -f` names that it answers itself (i/o), each name once."""
    found = set(_REGION.findall(mtree.replace("\r", "")))
    return Finding(len(found), {"names": ", ".join(sorted(found))})


def emulated(instance: Instance) -> Mapping[Metric, Outcome]:
    """Return what a machine monitor emulates, by its own monitor."""
    metrics = (VMM_DEVICES, REGIONS)
    if instance.boundary != "vm":
        return dict.fromkeys(metrics, Missing("absent", "no machine monitor: it runs on the host's kernel"))
    ask = getattr(instance, "monitor", None)
    if ask is None:
        return dict.fromkeys(metrics, Missing("unsupported", "this backend gives no way to its monitor"))
    try:
        return {VMM_DEVICES: devices_of(ask("info qtree")), REGIONS: regions_of(ask("info mtree -f"))}
    except HarnessError as error:
        return dict.fromkeys(metrics, Missing("error", error.message))


_EXITS = re.compile(r"^ +(\w*exits) \(cumulative[^)]*\): (\d+)", re.MULTILINE)


def exits_of(stats: str) -> Counter[str]:
    """Return how often the first virtual CPU has left guest mode, by KVM's names: `exits`, of them `io_exits`...

    From QEMU's `info stats vcpu` (QEMU 7.1, Linux 5.14); empty without KVM.
    """
    return Counter({name: int(count) for name, count in _EXITS.findall(stats.replace("\r", ""))})


def vm_exits(instance: Instance) -> Outcome:
    """Return the exits during the fixed work."""
    ask = getattr(instance, "monitor", None)
    if instance.boundary != "vm" or ask is None:
        return Missing("absent", "no machine monitor: it runs on the host's kernel")
    try:
        if "enabled" not in ask("info kvm"):
            return Missing("absent", "TCG: there are no VM exits, the monitor itself runs the guest's code, translated")
        before, started_ns = exits_of(ask("info stats vcpu")), time.monotonic_ns()
        fixed_work(instance)
        found, took_ns = exits_of(ask("info stats vcpu")), time.monotonic_ns() - started_ns
    except TrialError:
        raise
    except HarnessError as error:
        return Missing("error", error.message)
    if "exits" not in found:
        return Missing("unsupported", "no statistics of KVM: they need QEMU 7.1 and Linux 5.14")
    found.subtract(before)
    reasons = ", ".join(
        f"{name.removesuffix('_exits')} {n}" for name, n in found.most_common() if name != "exits" and n
    )
    return Finding(found["exits"], {"per_s": f"{found['exits'] * 1e9 / took_ns:.0f}", "reasons": reasons})


# -- the probe -----------------------------------------------------------------------------------------------------


class WorkFailed(HarnessError):
    """The fixed work did not come to its end inside: a filter forbids what it does, say."""


def fixed_work(instance: Instance) -> None:
    """Have the same work done inside: files, pipes, 20 programs, maps, sleeps. Raises: WorkFailed, TrialError."""
    result = instance.exec(["harness:probe", "work"], WORK_NS)
    if result.returncode:
        raise WorkFailed(f"the fixed work ended with {result.returncode}")


def _used(instance: Instance, pids: Sequence[int]) -> Outcome:
    if not pids:
        return Missing("absent", "it has no process")
    try:
        calls = _traced.during(_filters.threads(pids), pids, lambda: fixed_work(instance))
    except WorkFailed as error:
        return Missing("error", error.message)
    except TrialError:
        raise
    except HarnessError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Missing("unsupported", f"{error.message}{hint}")
    names = sorted(calls)
    return Finding(len(names), {"calls": str(calls.total()), "names": " ".join(names)})


def _filter_findings(pids: Sequence[int]) -> Mapping[Metric, Outcome]:
    try:
        dumped = _filters.dump(_filters.threads(pids))
    except HarnessError as error:
        return dict.fromkeys(_OF_FILTERS, Missing("denied", error.message))
    return filtered(dumped, _syscalls.implemented(host_symbols()))


def boundary_pids(instance: Instance) -> tuple[int, ...]:
    """Return the host processes that a workload would have to take over: its own, or the VMM with its helpers.

    Of a container those alone that see its mounts: a shim serves it from outside.
    """
    pids = instance.pids()
    if instance.boundary == "vm":
        return pids
    namespaces = instance.inside().get("namespaces")
    link = str(namespaces.get("mnt")) if isinstance(namespaces, dict) else ""
    return tuple(_filters.inside(pids, link)) or pids


class BoundaryProbe:
    name = "boundary"
    doc = "the process between workload and host: host system calls it makes and could make, as whom it runs"
    metrics = METRICS

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        pids = boundary_pids(instance)
        found: dict[Metric, Outcome] = {**_filter_findings(pids), **emulated(instance)}
        try:
            found |= {**privileges(pids), DESCRIPTORS: _descriptors(pids), OWN_NAMESPACES: _namespaces(pids[0])}
        except (OSError, IndexError) as error:
            reason = Missing("absent", f"a process ended while it was looked at: {error}")
            found |= dict.fromkeys((ROOT, CAPABILITIES, NO_NEW_PRIVS, LABELLED, DESCRIPTORS, OWN_NAMESPACES), reason)
        found |= {USED: _used(instance, pids), EXITS: vm_exits(instance)}
        who = {"acts_on": HOST_KERNEL, "processes": " ".join(_commands(pids))}
        for metric in METRICS:
            outcome = found[metric]
            if isinstance(outcome, Missing):
                emit(Absent(metric, outcome.text()))
            else:
                emit(Measurement(metric, outcome.value, {**who, **outcome.labels}))
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Everything was taken while it ran."""


def _commands(pids: Sequence[int]) -> list[str]:
    found = set()
    for pid in pids:
        try:
            found.add(os.fsdecode(Path(f"/proc/{pid}/comm").read_bytes()).strip())
        except OSError:
            continue
    return sorted(found)


PLUGIN = BoundaryProbe()
