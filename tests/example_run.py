"""A run as it comes out of a real one: a process as control, a container, a VM in software emulation; fixed numbers."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from harness.model.records import Attestation, Level, MetricValue, Noise, RunRecord, Status, TrialRecord, TrialSpec

RUNTIMES = {"process": "process", "container": "builtin", "vm": "libvirt"}
BOUNDARIES = {"process": "process", "container": "container", "vm": "vm"}
HOST_BOOT = "11111111-aaaa-4bbb-8ccc-000000000000"

_NO_VMM = "no VMM: it runs on the host's kernel"
_OWN_KERNEL = "own kernel: its namespaces say nothing about the host's"
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


def _define(unit: str, better: str = "lower", assume: str = "nothing", doc: str = "") -> dict[str, str]:
    return {"unit": unit, "better": better, "assume": assume, "doc": doc}


METRICS: dict[str, dict[str, str]] = {
    "startup.runtime.exec": _define("ns", doc="requested to runtime.exec: the runtime's first instruction"),
    "startup.vmm.exec": _define("ns", doc="requested to vmm.exec: the VMM's main() has opened its marker channel"),
    "startup.kernel": _define("ns", doc="requested to kernel: the guest kernel writes its first message"),
    "startup.init": _define("ns", doc="requested to init: the agent is pid 1"),
    "startup.exec": _define("ns", doc="requested to exec: the agent is about to execve the workload"),
    "startup.ready": _define("ns", doc="requested to ready: the workload's readiness condition holds"),
    "stop.deleted": _define("ns", doc="stopping to deleted: everything of the instance is gone"),
    "marker.write": _define("ns", doc="what writing one mark costs the sender"),
    "marker.delivery": _define("ns", doc="from the sender's stamp to the host's"),
    "memory.pss": _define("bytes", doc="proportional set size of all host processes of the instance"),
    "memory.uss": _define("bytes", doc="pages that only the instance's host processes map"),
    "memory.guest_ram": _define("bytes", doc="resident part of the mapping that is the guest's RAM"),
    "memory.vmm": _define("bytes", doc="USS without the guest's RAM"),
    "memory.cgroup.anon": _define("bytes", doc="anonymous memory charged to the cgroup"),
    "memory.cgroup.file": _define("bytes", doc="page cache charged to the cgroup"),
    "memory.inside.total": _define("bytes", "neither", doc="MemTotal as the workload sees it"),
    "memory.inside.available": _define("bytes", "higher", doc="MemAvailable as the workload sees it"),
    "isolation.kernel.shared": _define("bool", assume="exact", doc="the boot id inside is the host's"),
    "isolation.namespaces.own": _define("count", "higher", "exact", "namespaces that are not the host's"),
    **{f"isolation.namespace.{kind}": _define("bool", "higher", "exact") for kind in _NAMESPACES},
    "isolation.capabilities.effective": _define("count", assume="exact", doc="effective capabilities"),
    "isolation.capabilities.bounding": _define("count", assume="exact", doc="capabilities that could be gained"),
    "isolation.seccomp.mode": _define("count", "higher", "exact", "0 none, 1 strict, 2 filter"),
    "isolation.no_new_privs": _define("bool", "higher", "exact", "setuid programs give it nothing"),
    "isolation.devices.visible": _define("count", assume="exact", doc="device nodes in its /dev"),
    "isolation.host_processes.visible": _define("count", assume="exact", doc="host processes its /proc shows"),
}

_MS = 1_000_000
_MIB = 1 << 20
_TYPICAL: dict[str, dict[str, float]] = {
    "process": {
        "startup.runtime.exec": 1.1 * _MS, "startup.init": 1.4 * _MS, "startup.exec": 1.6 * _MS,
        "startup.ready": 4.66 * _MS, "stop.deleted": 1.9 * _MS, "marker.write": 1_100, "marker.delivery": 28_000,
        "memory.pss": 6.4 * _MIB, "memory.uss": 5.9 * _MIB, "memory.cgroup.anon": 5.2 * _MIB, "memory.cgroup.file": 0,
        "memory.inside.total": 8192 * _MIB, "memory.inside.available": 6100 * _MIB,
    },
    "container": {
        "startup.runtime.exec": 2.9 * _MS, "startup.init": 4.4 * _MS, "startup.exec": 5.1 * _MS,
        "startup.ready": 8.9 * _MS, "stop.deleted": 6.3 * _MS, "marker.write": 1_150, "marker.delivery": 29_000,
        "memory.pss": 6.6 * _MIB, "memory.uss": 6.0 * _MIB, "memory.cgroup.anon": 5.3 * _MIB,
        "memory.cgroup.file": 0.3 * _MIB, "memory.inside.total": 8192 * _MIB, "memory.inside.available": 6090 * _MIB,
    },
    "vm": {
        "startup.vmm.exec": 61 * _MS, "startup.kernel": 402 * _MS, "startup.init": 1710 * _MS,
        "startup.exec": 1790 * _MS, "startup.ready": 1918 * _MS, "stop.deleted": 84 * _MS, "marker.write": 9_400,
        "marker.delivery": 41_000, "memory.pss": 171 * _MIB, "memory.uss": 168 * _MIB, "memory.guest_ram": 92 * _MIB,
        "memory.vmm": 76 * _MIB, "memory.cgroup.anon": 160 * _MIB, "memory.cgroup.file": 8 * _MIB,
        "memory.inside.total": 231 * _MIB, "memory.inside.available": 188 * _MIB,
    },
}  # fmt: skip
_OWN_NAMESPACES = {"process": (), "container": ("cgroup", "ipc", "mnt", "net", "pid", "uts")}
_EXACT: dict[str, dict[str, int]] = {
    "process": {
        "kernel.shared": 1, "capabilities.effective": 41, "capabilities.bounding": 41, "seccomp.mode": 0,
        "no_new_privs": 0, "devices.visible": 173, "host_processes.visible": 188,
    },
    "container": {
        "kernel.shared": 1, "capabilities.effective": 0, "capabilities.bounding": 14, "seccomp.mode": 2,
        "no_new_privs": 1, "devices.visible": 9, "host_processes.visible": 0,
    },
    "vm": {
        "kernel.shared": 0, "capabilities.effective": 41, "capabilities.bounding": 41, "seccomp.mode": 0,
        "no_new_privs": 0, "devices.visible": 24, "host_processes.visible": 0,
    },
}  # fmt: skip


def attestation(runtime: str, trial_id: str) -> Attestation:
    in_vm = runtime == "vm"
    return Attestation(
        root_digest="sha256:" + "3f" * 32,
        exe_sha256="sha256:" + "a1" * 32,
        argv=("/app/server", "--port", "8080"),
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        uid=1000,
        gid=1000,
        cwd="/app",
        cpus=1 if in_vm else 2,
        memory_bytes=231 * _MIB if in_vm else 256 * _MIB,
        kernel="6.1.0-56-cloud-amd64" if in_vm else "6.12.9",
        boot_id=f"guest-{trial_id}" if in_vm else HOST_BOOT,
    )


def example_run(**changes: Any) -> RunRecord:
    facts: dict[str, dict[str, Any]] = {name: {"boundary": boundary} for name, boundary in BOUNDARIES.items()}
    facts["vm"] |= {
        "machine": "microvm", "accelerator": "tcg", "accelerator_reason": "kvm: no guest booted within 20 s",
        "disk_bytes": 14 * _MIB, "kernel_bytes": 41 * _MIB, "initrd_bytes": 1_400_000,
    }  # fmt: skip
    run = RunRecord(
        run_id="20260314T091522Z-http-start-7f3c0a1b",
        scenario="http-start",
        scenario_hash="7f3c0a1b" + "0" * 56,
        status="complete",
        started="2026-03-14T09:15:22+00:00",
        seed=4711,
        control="process",
        runtimes=tuple(RUNTIMES),
        image={"reference": "webserver:latest", "root_digest": "sha256:" + "3f" * 32, "size_bytes": 12 * _MIB},
        host={
            "boot_id": HOST_BOOT, "kernel": "6.12.9", "cpu_model": "AMD EPYC 7543P 32-Core Processor", "cpu_count": 2,
            "memory_bytes": 8192 * _MIB, "os": "Debian GNU/Linux 12 (bookworm)", "virtualisation": "kvm",
            "class": "x86_64-amd-epyc-7543p-32-core-2c-8g-6.12-kvm",
        },
        arms=facts,
        metrics=METRICS,
        tools={"harness": "0.1.0"},
        stop_reason="every contrast is decided after 10 blocks",
    )  # fmt: skip
    return replace(run, **changes)


def _values(runtime: str, source: random.Random) -> tuple[dict[str, MetricValue], dict[str, str]]:
    metrics: dict[str, MetricValue] = {}
    absent: dict[str, str] = {}
    speed = source.lognormvariate(0, 0.03)
    for name, value in _TYPICAL[runtime].items():
        factor = speed * source.lognormvariate(0, 0.01) if METRICS[name]["unit"] == "ns" else 1 + source.random() / 200
        metrics[name] = MetricValue(round(value * factor), METRICS[name]["unit"])
    acts_on = {"acts_on": "own kernel" if runtime == "vm" else "host kernel"}
    for name, value in _EXACT[runtime].items():
        metrics[f"isolation.{name}"] = MetricValue(value, METRICS[f"isolation.{name}"]["unit"], acts_on)
    metrics["isolation.kernel.shared"] = replace(metrics["isolation.kernel.shared"], labels={})
    if runtime == "vm":
        absent |= {name: _OWN_KERNEL for name in METRICS if name.startswith("isolation.namespace")}
        absent["startup.runtime.exec"] = "a VM has no launcher on the host: see vmm.exec"
    else:
        absent |= dict.fromkeys(("startup.vmm.exec", "startup.kernel", "memory.guest_ram", "memory.vmm"), _NO_VMM)
        own = _OWN_NAMESPACES[runtime]
        metrics["isolation.namespaces.own"] = MetricValue(len(own), "count", {"names": " ".join(own), "of": "8"})
        for kind in _NAMESPACES:
            metrics[f"isolation.namespace.{kind}"] = MetricValue(int(kind in own), "bool")
    return metrics, absent


def trial(runtime: str, block: int, order: int, source: random.Random, *, warmup: bool = False) -> TrialRecord:
    spec = TrialSpec(f"{'w' if warmup else 'b'}{block:02d}-{runtime}", block, order, runtime, RUNTIMES[runtime], warmup)
    metrics, absent = _values(runtime, source)
    ready_ns = int(metrics["startup.ready"].value)
    return TrialRecord(
        spec=spec,
        status="ok",
        started=f"2026-03-14T09:{15 + block:02d}:{22 + 5 * order:02d}.000Z",
        accelerator="tcg" if runtime == "vm" else None,
        marks={"requested": 0, "exec": int(metrics["startup.exec"].value), "ready": ready_ns},
        metrics=metrics,
        absent=absent,
        attestation=attestation(runtime, spec.trial_id),
        noise=Noise(0.0, 0.02, ("cpu-pressure",) if block == 4 else ()),
    )


def fail(record: TrialRecord, error: str, status: Status = "timeout") -> TrialRecord:
    reason = "not measured: the trial failed before"
    return replace(
        record,
        status=status,
        error=error,
        marks={"requested": 0},
        metrics={},
        absent={**dict.fromkeys(record.metrics, reason), **record.absent},
        attestation=None,
    )


def example_trials(blocks: int = 10, seed: int = 7) -> list[TrialRecord]:
    """A warm-up block and `blocks` that count; one container start fails, one VM start is far from the rest."""
    source = random.Random(seed)
    records = []
    for block in range(blocks + 1):
        order = list(RUNTIMES)
        source.shuffle(order)
        records += [trial(name, block, place, source, warmup=block == 0) for place, name in enumerate(order)]
    for place, record in enumerate(records):
        if record.spec.trial_id == "b07-container":
            records[place] = fail(record, "ready: not reached within 60 s; last: exec | stderr: bind: address in use")
        if record.spec.trial_id == "b03-vm":
            slow = {name: replace(v, value=v.value * 2) if v.unit == "ns" else v for name, v in record.metrics.items()}
            records[place] = replace(record, metrics=slow)
    return records


def dense_trials() -> list[TrialRecord]:
    """The trials that succeeded, as a scenario with `density:` writes them: what 1, 2 and 4 instances took together."""
    each_mib = {"process": 2, "container": 3, "vm": 96}
    return [
        replace(
            record,
            levels=tuple(
                Level(
                    n,
                    {"density.pss": MetricValue(each_mib[record.spec.runtime] * n * _MIB + record.spec.block, "bytes")},
                )
                for n in (1, 2, 4)
            ),
        )
        for record in example_trials()
        if record.status == "ok"
    ]
