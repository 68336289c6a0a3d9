"""What separates the workload from the host: read inside by the agent, compared with the host's own values.

In a VM most of these act on the guest's own kernel: full capabilities there are no power over the host. Such values are
labelled `acts_on: own kernel`, and what has no meaning across two kernels (namespace numbers) is absent, not false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.container.defaults import CAPABILITIES
from harness.interfaces import Emit, Instance, Json
from harness.model.metrics import Absent, Better, Measurement, Unit
from harness.probes._surface import property_metric

_LOOKS = 3
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


KERNEL_SHARED = property_metric("kernel.shared", "the boot id inside is the host's", Unit.BOOL)
OWN_NAMESPACES = property_metric("namespaces.own", "namespaces that are not the host's", better=Better.HIGHER)
NAMESPACE = {
    kind: property_metric(f"namespace.{kind}", f"the {kind} namespace is not the host's", Unit.BOOL, Better.HIGHER)
    for kind in NAMESPACES
}
CAPS_EFFECTIVE = property_metric("capabilities.effective", "effective capabilities of the workload")
CAPS_BOUNDING = property_metric("capabilities.bounding", "capabilities that a program could gain")
SECCOMP = property_metric("seccomp.mode", "0 none, 1 strict, 2 filter (seccomp(2))", better=Better.HIGHER)
NO_NEW_PRIVS = property_metric("no_new_privs", "setuid programs give it nothing (prctl(2))", Unit.BOOL, Better.HIGHER)
DEVICES = property_metric("devices.visible", "device nodes in its /dev")
PROCESSES = property_metric(
    "host_processes.visible", "its /proc shows processes of the host (labels: how many)", Unit.BOOL
)
INTERFACES = property_metric("network_interfaces.visible", "network interfaces in its /proc/net/dev")


def capability_names(mask: int) -> list[str]:
    """Return the names of the bits of a capability set; a bit newer than our list by its number."""
    return [CAPABILITIES[bit] if bit < len(CAPABILITIES) else f"cap_{bit}" for bit in range(64) if mask >> bit & 1]


def _text(seen: Mapping[str, Json], *path: str) -> str:
    value: Json = dict(seen)
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def _host_namespaces() -> dict[str, str]:
    links = {}
    for kind in NAMESPACES:
        try:
            links[kind] = str(Path(f"/proc/self/ns/{kind}").readlink())
        except FileNotFoundError:
            continue  # this kernel has no such namespace
    return links


def _emit_namespaces(seen: Mapping[str, Json], *, shared: bool, emit: Emit) -> None:
    if not shared:
        reason = "own kernel: its namespaces say nothing about the host's"
        for metric in (OWN_NAMESPACES, *NAMESPACE.values()):
            emit(Absent(metric, reason))
        return
    host, inside = _host_namespaces(), seen.get("namespaces")
    own = []
    for kind, metric in NAMESPACE.items():
        link = inside.get(kind) if isinstance(inside, dict) else None
        if kind not in host or link is None:
            emit(Absent(metric, "this kernel has no such namespace, or /proc inside does not show it"))
            continue
        if link != host[kind]:
            own.append(kind)
        emit(Measurement(metric, int(link != host[kind])))
    if isinstance(inside, dict) and inside:
        emit(Measurement(OWN_NAMESPACES, len(own), {"names": " ".join(own), "of": str(len(host))}))
    else:
        emit(Absent(OWN_NAMESPACES, "/proc inside shows no namespace"))


def _emit_privileges(seen: Mapping[str, Json], acts_on: str, emit: Emit) -> None:
    for metric, key in ((CAPS_EFFECTIVE, "CapEff"), (CAPS_BOUNDING, "CapBnd")):
        mask = _text(seen, "status", key)
        if mask:
            names = capability_names(int(mask, 16))
            emit(Measurement(metric, len(names), {"acts_on": acts_on, "mask": mask, "names": " ".join(names)}))
        else:
            emit(Absent(metric, f"/proc/self/status inside has no {key}"))
    for metric, key in ((SECCOMP, "Seccomp"), (NO_NEW_PRIVS, "NoNewPrivs")):
        value = _text(seen, "status", key)
        if value:
            emit(Measurement(metric, int(value), {"acts_on": acts_on}))
        else:
            emit(Absent(metric, f"/proc/self/status inside has no {key}"))


def _foreign(seen: Mapping[str, Json], instance: Instance) -> int:
    """Return how many visible processes are not the instance's own; asked again, since some come and go."""
    counts: list[int] = []
    for _ in range(_LOOKS):
        before = set(instance.pids())
        visible = _text(instance.inside() if counts else seen, "processes")
        counts.append(max(0, int(visible or 0) - len(before | set(instance.pids()))))
        if counts[-1] == 0:
            break
    return min(counts)


def _emit_view(seen: Mapping[str, Json], foreign: Callable[[], int], acts_on: str, emit: Emit) -> None:
    devices = seen.get("devices")
    if isinstance(devices, dict):
        count = int(_text(devices, "character") or 0) + int(_text(devices, "block") or 0)
        emit(Measurement(DEVICES, count, {"acts_on": acts_on, "names": _text(devices, "names")}))
    else:
        emit(Absent(DEVICES, "/dev inside could not be read"))
    visible, interfaces = _text(seen, "processes"), _text(seen, "network_interfaces")
    if acts_on == "own kernel":
        emit(Measurement(PROCESSES, 0, {"basis": "own kernel", "processes": visible}))
    else:
        count = foreign()
        emit(Measurement(PROCESSES, int(count > 0), {"processes": visible, "host_processes": str(count)}))
    if interfaces:
        emit(Measurement(INTERFACES, int(interfaces), {"acts_on": acts_on}))
    else:
        emit(Absent(INTERFACES, "/proc/net/dev inside could not be read"))


def tell(seen: Mapping[str, Json], foreign: Callable[[], int], emit: Emit) -> None:
    """Emit every metric from what is seen inside; `foreign` counts the host's processes that can be seen there."""
    host_boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    shared = _text(seen, "boot_id") == host_boot_id
    acts_on = "host kernel" if shared else "own kernel"
    emit(Measurement(KERNEL_SHARED, int(shared), {"kernel": _text(seen, "kernel")}))
    _emit_namespaces(seen, shared=shared, emit=emit)
    _emit_privileges(seen, acts_on, emit)
    _emit_view(seen, foreign, acts_on, emit)


class IsolationProbe:
    name = "isolation"
    doc = "kernel, namespaces, capabilities, seccomp, devices and processes, as seen from inside"
    metrics = (
        KERNEL_SHARED, OWN_NAMESPACES, *NAMESPACE.values(), CAPS_EFFECTIVE, CAPS_BOUNDING, SECCOMP, NO_NEW_PRIVS,
        DEVICES, PROCESSES, INTERFACES,
    )  # fmt: skip

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        seen = instance.inside()
        tell(seen, lambda: _foreign(seen, instance), emit)
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Everything was read while it ran."""


PLUGIN = IsolationProbe()
