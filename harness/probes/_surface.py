"""What the probe inside says, made into findings. Pure; a guest's root can forge the answer, so its shape is checked.

Every finding is a Finding or a Missing, never a default: what could not be read is not isolated.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.model.metrics import Assume, Better, Metric, Unit
from harness.probes import _syscalls
from harness.probes._bpf import ABIS, KILLED

ENGINE_SOCKETS = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock", "libvirt-sock", "buildkitd.sock")
KERNEL_FILESYSTEMS = frozenset(
    "proc sysfs tmpfs devpts mqueue cgroup cgroup2 devtmpfs overlay securityfs tracefs debugfs bpf ramfs rootfs "
    "hugetlbfs pstore binfmt_misc configfs fusectl nsfs".split()
)
_SIGALRM = 14  # csrc/probe/apart.c bounds each child by alarm(2)
_SHARED_SCHEMA = "harness.surface/1"


def property_metric(name: str, doc: str, unit: Unit = Unit.COUNT, better: Better = Better.LOWER) -> Metric:
    """Return a metric of isolation that is a property: it does not vary from trial to trial."""
    return Metric(f"isolation.{name}", unit, better, doc, Assume.EXACT)


@dataclass(frozen=True, slots=True)
class Finding:
    """A value and the labels that explain it."""

    value: int | float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no value. `status` is one of absent, denied, unsupported, error."""

    status: str
    reason: str

    def text(self) -> str:
        return self.reason if self.status == "absent" else f"{self.status}: {self.reason}"


Outcome = Finding | Missing


def read_answer(text: bytes) -> dict[str, Any]:
    """Return the probe's answer. Raises: ValueError where it is none."""
    try:
        answer = json.loads(text)
        json.dumps(answer, ensure_ascii=False).encode()  # half a surrogate pair could never be written to a file
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(answer, dict) or answer.get("schema") != _SHARED_SCHEMA:
        raise ValueError("no answer of harness-probe")
    return answer


def section(answer: Mapping[str, Any], name: str) -> dict[str, Any] | Missing:
    """Return one part of the answer, or why there is none: a filter may have killed who took it."""
    part = answer.get(name)
    if isinstance(part, dict) and part.get("killed") == _SIGALRM:
        return Missing("error", f"the probe's child took too long over {name}")
    if isinstance(part, dict) and isinstance(part.get("killed"), int):
        return Missing("denied", f"the probe's child was killed by signal {part['killed']} while it took {name}")
    return part if isinstance(part, dict) else Missing("error", f"the probe did not say: {name}")


def errno_text(code: int) -> str:
    """Return what became of a call that was tried: its errno by name, or the signal that ended its caller."""
    if code <= KILLED:
        return f"killed by signal {KILLED - code}"
    return errno.errorcode.get(abs(code), str(code))


def joined(words: Iterable[str], most: int = 40) -> str:
    """Return names for a label, cut after `most`."""
    listed = list(words)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return " ".join(listed[:most]) + rest


# -- system calls --------------------------------------------------------------------------------------------------


def unpacked(runs: object) -> tuple[int, ...]:
    """Return codes of runs `[code, count]`. Raises: ValueError unless there are as many as numbers."""
    codes: list[int] = []
    if isinstance(runs, list):
        for run in runs:
            code, count = (int(run[0]), int(run[1])) if isinstance(run, list) and len(run) == 2 else (0, 0)
            codes += [code] * min(count, _syscalls.NUMBERS_MAX)
    if len(codes) != _syscalls.NUMBERS_MAX:
        raise ValueError(f"system calls: {len(codes)} codes, expected {_syscalls.NUMBERS_MAX}")
    return tuple(codes)


def oracle_codes(answer: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]] | Missing:
    """Return the verdict on each number by way into the kernel, as found from inside; 0 where it is reached."""
    if here := _syscalls.unknown_on():
        return Missing("unsupported", here)
    part = section(answer, "syscalls")
    if isinstance(part, Missing):
        return part
    if part.get("method") == "none":
        why = os.strerror(part["errno"]) if isinstance(part.get("errno"), int) else "no reason"
        return Missing("unsupported", f"no filter of our own could be stacked inside: {why}")
    try:
        return {abi: unpacked(part[abi]["codes"]) for abi in ABIS}
    except (KeyError, TypeError, ValueError) as error:
        return Missing("error", f"system calls: {error}")


def reached(codes: Sequence[int], among: frozenset[int]) -> list[int]:
    """Return the numbers that reach the kernel. Calls that no filter sees reach it, whatever became of them."""
    return [number for number in sorted(among) if codes[number] == 0 or number in _syscalls.UNFILTERED]


def differing(inside: Mapping[str, Sequence[int]], outside: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the numbers, as `abi:number`, on which both methods disagree: reached or not."""
    return [
        f"{abi}:{number}"
        for abi in ABIS
        for number, (one, other) in enumerate(zip(inside[abi], outside[abi], strict=True))
        if (one == 0) != (other == 0) and number not in _syscalls.UNFILTERED
    ]


def reachable(codes: Sequence[int], implemented: frozenset[int]) -> Finding:
    """Return how many of the calls that a kernel has reach it, with the names of those that do not."""
    names = _syscalls.NAMES
    found = reached(codes, implemented)
    blocked = sorted(implemented - set(found))
    killed = [names[number] for number in blocked if codes[number] <= KILLED]
    labels = {"of": str(len(implemented)), "blocked": joined((names[number] for number in blocked), 400)}
    return Finding(len(found), {**labels, **({"killed": joined(killed)} if killed else {})})


def high_risk(codes: Sequence[int], implemented: frozenset[int]) -> Finding:
    """Return how many of the calls in HIGH_RISK reach the kernel."""
    watched = frozenset(number for number in implemented if _syscalls.NAMES[number] in _syscalls.HIGH_RISK)
    found = reached(codes, watched)
    return Finding(len(found), {"of": str(len(watched)), "names": joined(_syscalls.NAMES[n] for n in found)})


# -- everything else -----------------------------------------------------------------------------------------------


def tried(part: Mapping[str, Any] | Missing, absent: frozenset[int], what: str) -> Outcome:
    """Return how many of the things that were tried were permitted; by name which were not, and why.

    An errno of `absent` says that there is no such thing here. EPERM, EACCES and a signal are a refusal.
    """
    if isinstance(part, Missing):
        return part
    results = {name: code for name, code in part.items() if isinstance(code, int)}
    if not results:
        return Missing("error", f"the probe did not say: {what}")
    missing = [name for name, code in results.items() if code in absent]
    refused = {
        name: code for name, code in results.items()
        if code <= KILLED or code in {errno.EPERM, errno.EACCES, errno.EAGAIN}
    }  # fmt: skip
    permitted = [name for name in results if name not in missing and name not in refused]
    labels = {
        "of": str(len(results)),
        "names": ", ".join(permitted),
        "denied": ", ".join(f"{name} ({errno_text(code)})" for name, code in refused.items()),
        "absent": ", ".join(missing),
    }
    return Finding(len(permitted), {key: text for key, text in labels.items() if text})


def counted(part: Mapping[str, Any] | Missing, key: str) -> Outcome:
    """Return a counted list of names."""
    if isinstance(part, Missing):
        return part
    entry = part.get(key)
    if not isinstance(entry, dict) or not isinstance(entry.get("count"), int):
        return Missing("error", f"the probe did not say: {key}")
    labels = {"names": joined(map(str, entry.get("names", [])))}
    return Finding(entry["count"], {**labels, **({"at_least": "yes"} if part.get(f"{key}_cut") else {})})


def unmasked(part: Mapping[str, Any] | Missing) -> Outcome:
    """Return how many of the files that engines hide can be got at, and which are only read-only."""
    if isinstance(part, Missing):
        return part
    by_state: dict[str, list[str]] = {}
    for path, state in part.items():
        by_state.setdefault(str(state), []).append(path)
    got = [*by_state.get("open", []), *by_state.get("read-only", [])]
    labels = {"of": str(len(part)), "names": joined(got), **{k: joined(v) for k, v in by_state.items() if k != "open"}}
    return Finding(len(got), labels)


def engine_sockets(part: Mapping[str, Any] | Missing) -> Outcome:
    """Return how many sockets of container engines or libvirt are there: whoever may talk to one rules the host."""
    if isinstance(part, Missing):
        return part
    sockets = part.get("sockets")
    names = [str(name) for name in sockets.get("names", [])] if isinstance(sockets, dict) else None
    if names is None:
        return Missing("error", "the probe did not say: sockets")
    found = sorted({name for name in names if name.endswith(ENGINE_SOCKETS)})
    return Finding(len(found), {"names": joined(found)})


_ESCAPE = re.compile(r"\\([0-7]{3})")


def host_mounts(mountinfo: str) -> Outcome:
    """Return how many writable mounts show a part of another file system: what is written there stays on the host.

    Source: proc(5), /proc/pid/mountinfo: root, mount point, options, " - ", type. The root and file systems that a
    kernel makes up are left out, and whatever is mounted below /proc, /sys and /dev.
    """
    if not mountinfo.strip():
        return Missing("denied", "/proc/self/mountinfo inside could not be read")
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        words, kind = left.split(), right.split(maxsplit=1)[0] if right else ""
        if len(words) < 6 or not kind:
            continue
        root, point, options = words[3], words[4], words[5].split(",")
        of_kernel = kind in KERNEL_FILESYSTEMS and (kind != "tmpfs" or root == "/")
        if point == "/" or of_kernel or "rw" not in options or point.startswith(("/proc", "/sys", "/dev")):
            continue
        found.append(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), point))
    return Finding(len(found), {"names": joined(sorted(set(found)))})


def visible_mounts(mountinfo: str) -> Outcome:
    """Return how many mounts it sees, by kind of file system."""
    kinds = Counter(line.partition(" - ")[2].split(maxsplit=1)[0] for line in mountinfo.splitlines() if " - " in line)
    if not kinds:
        return Missing("denied", "/proc/self/mountinfo inside could not be read")
    return Finding(kinds.total(), {"kinds": ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())})


def block_devices(diskstats: str | None) -> Outcome:
    """Return how many block devices /proc/diskstats shows, by name; that file knows no namespaces."""
    if diskstats is None:
        return Missing("denied", "/proc/diskstats inside could not be read")
    names = [words[2] for words in map(str.split, diskstats.splitlines()) if len(words) > 3]
    return Finding(len(names), {"names": joined(names)})


def root_of_host(uid_map: str, uid: int) -> Outcome:
    """Return whether the workload's user is the host's root (0 in the host's user namespace).

    Source: user_namespaces(7): inside, outside, count. Outside ids of a child of the first namespace are the host's.
    """
    rows = [tuple(map(int, line.split())) for line in uid_map.splitlines() if len(line.split()) == 3]
    if not rows:
        return Missing("denied", "/proc/self/uid_map inside could not be read")
    outside = next((host + uid - inside for inside, host, count in rows if inside <= uid < inside + count), None)
    whole = rows[0][:2] == (0, 0) and rows[0][2] >= (1 << 32) - 1
    text = "; ".join(" ".join(map(str, row)) for row in rows)
    labels = {"uid_map": text, "host_uid": "none" if outside is None else str(outside)}
    return Finding(int(outside == 0), {**labels, "scope": "the host's" if whole else "its own user namespace"})


_MEMORY = re.compile(r"^(MemTotal|SwapTotal):\s+(\d+) kB", re.MULTILINE)


def resource_views(inside: Mapping[str, str], host: Mapping[str, str], cpus: tuple[int, int]) -> Outcome:
    """Return how many of five views show the host's size or load rather than the instance's.

    `cpus` are those that `/proc/stat` shows inside and on the host. Where the two are alike by chance it counts as the
    host's: a limit would have shown something else.
    """
    ours, theirs = (dict(_MEMORY.findall(files.get("/proc/meminfo", ""))) for files in (inside, host))
    if not ours or not theirs:
        return Missing("denied", "/proc/meminfo inside could not be read")
    up = [float((files.get("/proc/uptime") or "nan").split()[0]) for files in (inside, host)]
    views = {
        "memory": ours.get("MemTotal") == theirs.get("MemTotal"),
        "swap": ours.get("SwapTotal") == theirs.get("SwapTotal") and ours.get("SwapTotal") != "0",
        "cpus": cpus[0] == cpus[1],
        "load": bool(inside.get("/proc/loadavg")) and _loads(inside) == _loads(host),
        "uptime": abs(up[0] - up[1]) < 60,
    }
    found = [name for name, is_host in views.items() if is_host]
    return Finding(len(found), {"of": "5", "names": joined(found)})


def _loads(files: Mapping[str, str]) -> str:
    """Five and fifteen minutes: the first changes every five seconds."""
    return " ".join(files.get("/proc/loadavg", "").split()[1:3])


def cpus_shown(files: Mapping[str, str]) -> int:
    """Return how many CPUs /proc/stat shows."""
    return len(re.findall(r"^cpu\d", files.get("/proc/stat", ""), re.MULTILINE))


def label_of(identity: Mapping[str, Any]) -> Finding:
    """Return whether a security module confines the workload, with its label."""
    label = str(identity.get("apparmor") or identity.get("label") or "").replace("\n", "").strip("\0 ")
    free = not label or label.startswith("unconfined") or label in {"kernel", "_"}
    return Finding(int(not free), {"label": label or "none"})
