"""What of a kernel the workload reaches: system calls, privileged operations, kernel files, devices, views, leaks.

The agent tries it from inside as `harness:probe`; nothing that is tried can take effect (csrc/probe). What seccomp lets
through is found a second time from outside, by running the filters that the kernel holds: the two must agree. In a VM
all of it acts on the guest's own kernel and says nothing about the host, which is why every value says whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, TrialError
from harness.interfaces import Emit, Instance
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.probes import _bracketing, _filters, _surface, _syscalls
from harness.probes._bpf import ABIS, call_of, codes, verdict
from harness.probes._surface import Finding, Missing, Outcome, property_metric

TIMEOUT_NS = 120_000_000_000
OWN_KERNEL, HOST_KERNEL = "own kernel", "host kernel"
_ABSENT = frozenset({38})  # ENOSYS
_NO_DEVICE = frozenset({2, 6, 19})  # ENOENT, ENXIO, ENODEV
_NO_LEAK = frozenset({2, 61})  # ENOENT, ENODATA: no such file, or nothing in it


BRACKETING = Metric(
    "isolation.host_counter_bracketing",
    Unit.RATIO,
    Better.LOWER,
    "of host-wide counters that rose meanwhile, the share whose value inside lies between two readings on the host",
)
REACHABLE = property_metric("syscalls.reachable", "x86-64 system calls that reach the kernel, of those it implements")
HIGH_RISK = property_metric(
    "syscalls.high_risk", "of them, calls that administer the kernel or see into other processes"
)
I386 = property_metric("syscalls.i386", "numbers of the 32-bit entry that no filter refuses, of 512")
X32 = property_metric("syscalls.x32", "numbers of the x32 entry that no filter refuses, of 512")
VECTORS = property_metric(
    "syscalls.arguments", "calls that profiles judge by their arguments and that reach the kernel"
)
BY_FILTERS = property_metric(
    "syscalls.by_filters", "the same as syscalls.reachable, from the filters that the host holds"
)
DISAGREE = property_metric("syscalls.disagree", "numbers of all three entries on which inside and outside disagree")
FILTERS = property_metric("seccomp.filters", "seccomp filters of the workload, by the host", better=Better.HIGHER)
OPERATIONS = property_metric(
    "privileged_ops", "privileged operations that were permitted, of 22 that fail by construction"
)
SYSCTLS = property_metric("writable.sysctls", "files below /proc/sys that may be written, asked with access(2)")
PSEUDO_FILES = property_metric("writable.pseudo_files", "other kernel files in /proc and /sys that may be written")
UNMASKED = property_metric("unmasked", "kernel files that engines hide and that are to be had here, of 27")
OPENED = property_metric("devices.opened", "devices that could be opened with a node of its own making, of 7")
ENGINES = property_metric("engine_sockets", "sockets of container engines and libvirt within reach")
HOST_MOUNTS = property_metric(
    "mounts.host_writable", "writable mounts of other file systems: what is written stays on the host"
)
MOUNTS = property_metric("mounts.visible", "mounts in its /proc/self/mountinfo", better=Better.NEITHER)
DISKS = property_metric("block_devices.visible", "block devices in its /proc/diskstats, partitions and loops too")
HOST_ROOT = property_metric("host_root", "its user is uid 0 in the host's user namespace", Unit.BOOL)
VIEWS = property_metric("views.host", "of memory, swap, cpus, load and uptime, how many show the host's")
LEAKS = property_metric("leaks", "kernel logs, addresses, keys and the like that can be read, of 8")
LABEL = property_metric("lsm", "a security module's label confines it", Unit.BOOL, Better.HIGHER)

METRICS = (
    BRACKETING, REACHABLE, HIGH_RISK, I386, X32, VECTORS, BY_FILTERS, DISAGREE, FILTERS, OPERATIONS, SYSCTLS,
    PSEUDO_FILES, UNMASKED, OPENED, DISKS, ENGINES, MOUNTS, HOST_MOUNTS, HOST_ROOT, VIEWS, LEAKS, LABEL,
)  # fmt: skip


_OUTSIDE = (FILTERS, BY_FILTERS, DISAGREE)
MALFORMED = (  # what an answer of another shape leads to
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
)


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that one look at an instance gave, before it is judged."""

    answer: Mapping[str, Any]
    shared: bool
    before: Mapping[str, str]
    after: Mapping[str, str]


@cache
def host_symbols() -> frozenset[str]:
    """Return the entry points of the host's kernel: strong symbols, named without their prefix; none where hidden."""
    try:
        lines = Path("/proc/kallsyms").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.split()[2][len("__x64_sys_") :] for line in lines if " T __x64_sys_" in line)


def host_boot_id() -> str:
    """Return what tells this boot of this kernel from any other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def judge(seen: Observed) -> Mapping[Metric, Outcome]:
    """Return what the probe inside found. Pure but for the host's symbols."""
    answer = seen.answer
    identity = _surface.section(answer, "identity")
    writable = _surface.section(answer, "writable")
    files = _surface.section(answer, "files")
    sees = _surface.section(answer, "sees")
    devices = _surface.section(answer, "devices")
    views: Mapping[str, str] = {} if isinstance(files, Missing) else {k: str(v) for k, v in files.items()}
    found: dict[Metric, Outcome] = {
        **_calls(answer, shared=seen.shared),
        OPERATIONS: _surface.tried(_surface.section(answer, "operations"), _ABSENT, "operations"),
        SYSCTLS: _surface.counted(writable, "sysctls"),
        PSEUDO_FILES: _surface.counted(writable, "pseudo_files"),
        UNMASKED: _surface.unmasked(_surface.section(answer, "masked")),
        OPENED: _opened(devices),
        ENGINES: _surface.engine_sockets(sees),
        LEAKS: _surface.tried(_surface.section(answer, "leaks"), _NO_LEAK, "leaks"),
        DISKS: _surface.block_devices(views.get("/proc/diskstats")),
        MOUNTS: _surface.visible_mounts(views.get("/proc/self/mountinfo", "")),
        HOST_MOUNTS: _surface.host_mounts(views.get("/proc/self/mountinfo", "")),
        BRACKETING: _bracketing_of(seen, views),
    }
    if isinstance(identity, Missing):
        return {**found, HOST_ROOT: identity, LABEL: identity, VIEWS: identity}
    cpus = _surface.cpus_shown(views), _surface.cpus_shown(seen.after)
    return {
        **found,
        HOST_ROOT: _surface.root_of_host(str(identity.get("uid_map", "")), _uid(identity)),
        LABEL: _surface.label_of(identity),
        VIEWS: _surface.resource_views(views, seen.after, cpus),
    }


def judged(seen: Observed) -> Mapping[Metric, Outcome]:
    """Return what `judge` does. Raises: ValueError for an answer of another shape, which a guest's root can forge."""
    try:
        return judge(seen)
    except MALFORMED as error:
        raise ValueError(f"a malformed answer: {error}") from error


def _uid(identity: Mapping[str, Any]) -> int:
    for line in str(identity.get("status", "")).splitlines():
        if line.startswith("Uid:") and line.split()[2].isdigit():
            return int(line.split()[2])
    return 0


def _opened(part: Mapping[str, Any] | Missing) -> Outcome:
    if isinstance(part, Missing):
        return part
    tried = part.get("opened")
    if not isinstance(tried, dict):
        return Missing("denied", "no tmpfs of its own on which a node could be tried")
    return _surface.tried(tried, _NO_DEVICE, "devices")


def _bracketing_of(seen: Observed, views: Mapping[str, str]) -> Outcome:
    before, inside, after = (_bracketing.fields(files) for files in (seen.before, views, seen.after))
    between, rose = _bracketing.bracketed(before, inside, after)
    if rose < _bracketing.FIELDS_MIN:
        return Missing("absent", f"only {rose} counters that both show rose on the host meanwhile")
    return Finding(between / rose, {"counters": str(rose)})


def implemented(answer: Mapping[str, Any], *, shared: bool) -> frozenset[int]:
    """Return the numbers that the instance's kernel implements; none where nobody may see its symbols."""
    symbols = host_symbols() if shared else frozenset(str(answer.get("symbols") or "").split())
    return _syscalls.implemented(symbols)


def _calls(answer: Mapping[str, Any], *, shared: bool) -> Mapping[Metric, Outcome]:
    """Return what seccomp lets through, by the oracle inside."""
    inside = _surface.oracle_codes(answer)
    if isinstance(inside, Missing):
        return dict.fromkeys((REACHABLE, HIGH_RISK, I386, X32, VECTORS), inside)
    has = implemented(answer, shared=shared)
    part = _surface.section(answer, "syscalls")
    assert not isinstance(part, Missing)
    found: dict[Metric, Outcome] = {
        metric: Finding(sum(code == 0 for code in inside[abi]), _existence(part[abi].get("exists")))
        for metric, abi in ((I386, "i386"), (X32, "x32"))
    }
    found[VECTORS] = _vectors(part.get("vectors"))
    none = Missing("denied", "/proc/kallsyms is hidden: which calls this kernel implements is not known")
    found[REACHABLE] = _surface.reachable(inside["x86_64"], has) if has else none
    found[HIGH_RISK] = _surface.high_risk(inside["x86_64"], has) if has else none
    return found


def _existence(code: object) -> Mapping[str, str]:
    """Whether the kernel has that entry at all: getpid was called through it."""
    return {"entry": "exists" if code == 0 else f"getpid: {_surface.errno_text(code if isinstance(code, int) else 0)}"}


def _vectors(listed: object) -> Outcome:
    rows = [row for row in listed if isinstance(row, list) and len(row) == 3] if isinstance(listed, list) else []
    if not rows:
        return Missing("error", "the probe did not say: vectors")
    through = [str(row[0]) for row in rows if row[1] == 0]
    refused = ", ".join(f"{row[0]} ({_surface.errno_text(int(row[1]))})" for row in rows if row[1] != 0)
    return Finding(len(through), {"of": str(len(rows)), "names": ", ".join(through), "denied": refused})


def from_outside(answer: Mapping[str, Any], programs: _filters.Programs) -> Mapping[Metric, Outcome]:
    """Return what the filters that the host holds let through, and how far that agrees with what was found inside."""
    if here := _syscalls.unknown_on():
        return dict.fromkeys(_OUTSIDE, Missing("unsupported", here))
    count = _syscalls.NUMBERS_MAX
    outside = {abi: codes(programs, abi, count) for abi in ABIS}
    has = implemented({}, shared=True)
    instructions = sum(len(program) for program in programs)
    found: dict[Metric, Outcome] = {
        FILTERS: Finding(len(programs), {"instructions": str(instructions)}),
        BY_FILTERS: _surface.reachable(outside["x86_64"], has)
        if has
        else Missing("denied", "/proc/kallsyms is hidden here"),
    }
    inside = _surface.oracle_codes(answer)
    if isinstance(inside, Missing):
        return {**found, DISAGREE: inside}
    differ = _surface.differing(inside, outside) + _differing_vectors(answer, programs)
    return {**found, DISAGREE: Finding(len(differ), {"of": str(3 * count), "names": _surface.joined(differ)})}


def _differing_vectors(answer: Mapping[str, Any], programs: _filters.Programs) -> list[str]:
    part = answer.get("syscalls")
    rows = part.get("vectors", []) if isinstance(part, dict) else []
    return [
        str(name)
        for name, code, words in rows
        if (code == 0) != (verdict(programs, call_of("x86_64", int(words[0]), tuple(words[1:7]))) == 0)
    ]


class SurfaceProbe:
    name = "surface"
    doc = "system calls, privileged operations, kernel files, devices and views that the workload reaches"
    metrics = METRICS

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        shared = instance.inside().get("boot_id") == host_boot_id()
        acts_on = HOST_KERNEL if shared else OWN_KERNEL
        found: dict[Metric, Outcome]
        answer: Mapping[str, Any] = {}
        try:
            seen = look(instance, shared=shared)
            answer, found = seen.answer, dict(judged(seen))
        except (TrialError, ValueError) as error:
            found = dict.fromkeys(METRICS, Missing("error", str(error)))
        try:
            found |= self._outside(instance, answer, shared=shared)
        except MALFORMED as error:
            found |= dict.fromkeys(_OUTSIDE, Missing("error", f"a malformed answer: {error}"))
        for metric in METRICS:
            _tell(metric, found[metric], acts_on, emit)
        yield

    def _outside(self, instance: Instance, answer: Mapping[str, Any], *, shared: bool) -> Mapping[Metric, Outcome]:
        metrics = _OUTSIDE
        if not shared:
            return dict.fromkeys(metrics, Missing("absent", "own kernel: the host holds no filters of the workload"))
        namespaces = (answer.get("identity") or {}).get("namespaces") or instance.inside().get("namespaces") or {}
        pids = _filters.inside(instance.pids(), str(namespaces.get("mnt")) if isinstance(namespaces, dict) else "")
        tids = _filters.threads(pids)
        try:
            dumped = _filters.dump(tids)
        except HarnessError as error:
            return dict.fromkeys(metrics, Missing("denied", error.message))
        programs = next((dumped[tid] for tid in sorted(dumped)), None)
        if programs is None:
            return dict.fromkeys(metrics, Missing("absent", "no thread of the workload was there any more"))
        return from_outside(answer, programs)

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Everything was taken while it ran."""


def look(instance: Instance, *, shared: bool) -> Observed:
    """Have the probe run inside, between two readings of the host's counters. Raises: TrialError, ValueError."""
    argv = ["harness:probe", "surface", *(() if shared else ("symbols",))]
    before = _bracketing.host_files()
    result = instance.exec(argv, TIMEOUT_NS)
    after = _bracketing.host_files()
    if result.returncode:
        words = result.stderr.decode("utf-8", "replace").strip()[-200:]
        killed = f" (signal {result.returncode - 128})" if result.returncode > 128 else ""
        raise ValueError(f"the probe ended with {result.returncode}{killed} before it could answer {words}".strip())
    return Observed(_surface.read_answer(result.stdout), shared, before, after)


def _tell(metric: Metric, outcome: Outcome, acts_on: str, emit: Emit) -> None:
    if isinstance(outcome, Missing):
        emit(Absent(metric, outcome.text()))
    else:
        emit(Measurement(metric, outcome.value, {"acts_on": acts_on, **outcome.labels}))


def as_inside(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer in the form in which the agent says what it sees, for the isolation probe's own metrics."""
    identity, files, sees = (answer.get(name) or {} for name in ("identity", "files", "sees"))
    status = (line.partition(":") for line in str(identity.get("status", "")).splitlines())
    interfaces = str(files.get("/proc/net/dev", "")).count("\n") - 2
    return {
        "boot_id": str(identity.get("boot_id", "")).strip(),
        "kernel": " ".join(str(identity.get("version", "")).split()[2:3]),
        "namespaces": identity.get("namespaces"),
        "status": {key: text.strip() for key, _, text in status},
        "processes": sees.get("processes"),
        **({"network_interfaces": interfaces} if interfaces >= 0 else {}),
    }


PLUGIN = SurfaceProbe()
