"""The faults of the study `containment`: how each is caused in a sandbox of our own, bounded, and what came of it."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import TrialError
from harness.host.paths import cache_dir, data_dir
from harness.interfaces import Instance
from harness.model.spec import Limits
from harness.model.units import format_bytes
from harness.studies import _caps, _pair
from harness.studies._host_watch import boot_id
from harness.studies._processes import Processes, held, runtime_over

LIMITS = Limits(cpus=1, memory_bytes=128 << 20, pids=64)
OVER_BYTES = 256 << 20
HOST_ROOM_BYTES = 8 * OVER_BYTES
EXIT_CODE = 3
GONE_NS = 10_000_000_000
Fault = Literal[
    "memory", "processes", "disk", "init_killed", "init_exit", "init_memory", "panic", "killed", "runtime"
]  # fmt: skip
FAULTS: Mapping[Fault, str] = {
    "memory": "a child takes 256 MiB under a limit of 128 MiB: it alone is killed",
    "processes": "a fork bomb, as many as it can get under a limit of 64: further ones are refused",
    "disk": "256 MiB written to its root: refused when what it may have is full",
    "init_killed": "its first process sends itself SIGKILL: ignored of a pid 1, or it ends and takes all with it",
    "init_exit": "its first process exits with 3: it ends (a guest's kernel panics) and takes all with it",
    "init_memory": "its first process takes 256 MiB under a limit of 128 MiB: it ends and takes all with it",
    "panic": "the kernel is made to panic, where it is proven not to be the host's: the sandbox ends",
    "killed": "the process between it and the host (VMM, or its first process) is killed: nothing of it is left",
    "runtime": "the runtime's process that stands over it (shim, conmon) is killed: it can be removed still",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a fault ended as it should, and what was seen. `gone_ns`: from it until all its processes had ended."""

    as_expected: bool
    seen: str
    gone_ns: int | None = None


# -- what was seen -----------------------------------------------------------------------------------------------------


def _is_alive(instance: Instance) -> bool:
    try:
        return instance.exec(["harness:probe", "nothing"], GONE_NS).returncode == 0
    except TrialError:
        return False


def _state(alive: bool) -> str:  # noqa: FBT001
    return f"sandbox {'alive' if alive else 'dead'}"


def _how_it_ended(instance: Instance) -> list[str]:
    try:
        instance.inside()
    except TrialError as error:
        return [f"{error.message}{f' ({error.ending})' if error.ending else ''}"]
    return []


def _ended(instance: Instance, processes: Processes, since_ns: int, said: str = "") -> Outcome:
    """Return the outcome of a fault that ends a sandbox: all is gone by itself, and nothing is left once removed."""
    gone_ns = processes.gone_ns(since_ns, GONE_NS)
    words = [said] if said else []
    if instance.boundary == "vm":  # its console and its monitor tell more than the agent's silence
        words += _how_it_ended(instance)
    try:
        instance.stop(time.monotonic_ns() + GONE_NS)
    except TrialError as error:
        words += [] if instance.boundary == "vm" else [error.message]
    left = processes.living()
    words.append(f"left: {len(left)} processes" if left else "nothing left")
    return Outcome(gone_ns is not None and not left, "; ".join(words), gone_ns)


# -- faults that it outlives -------------------------------------------------------------------------------------------


def _memory(instance: Instance) -> Outcome:
    said = instance.exec(["harness:probe", "fault", "memory", str(OVER_BYTES)], GONE_NS)
    text = said.stdout.decode("ascii", "replace").strip() or f"ended with {said.returncode}"
    alive, use = _is_alive(instance), instance.cgroup_memory()
    peak = f", at most {format_bytes(use.peak_bytes)} of the host's" if use and use.peak_bytes else ""
    return Outcome(text == "killed 9" and alive, f"child {text}, {_state(alive)}{peak}")


def _processes(instance: Instance) -> Outcome:
    made, why = _pair.ask(instance, "fault", "processes", "0", bound_ms=10_000)
    expected = why == errno.EAGAIN and made < LIMITS.pids
    return Outcome(expected, f"{made} processes, then {errno.errorcode.get(why, 'no refusal')}")


def _disk(instance: Instance) -> Outcome:
    said = instance.exec(["harness:probe", "fault", "disk", str(OVER_BYTES)], 2 * GONE_NS)
    if said.returncode:  # a root in memory takes the sandbox's own, and whoever writes there is killed for it
        alive = _is_alive(instance)
        return Outcome(alive, f"the writer ended with {said.returncode}, {_state(alive)}")
    written, why = map(int, said.stdout.split())
    full = why in {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
    return Outcome(full, f"{written >> 20} MiB, then {errno.errorcode.get(why, 'no refusal')}")


# -- faults that end it ------------------------------------------------------------------------------------------------


def _of_init(instance: Instance, kind: str, argument: int) -> Outcome:
    """A fault of the agent itself: where it ends by it, nothing answers."""
    with held(instance.pids()) as processes:
        since_ns = time.monotonic_ns()
        try:
            said = instance.exec(["harness:probe", "fault", f"init-{kind}", str(argument)], GONE_NS)
        except TrialError:
            return _ended(instance, processes, since_ns)
        alive = _is_alive(instance)
        words = f"answered with {said.returncode}, {_state(alive)}"
        return Outcome(alive, words) if alive else replace(_ended(instance, processes, since_ns), as_expected=False)


def _init_killed(instance: Instance) -> Outcome:
    return _of_init(instance, "kill", 0)


def _init_exit(instance: Instance) -> Outcome:
    return _of_init(instance, "exit", EXIT_CODE)


def _init_memory(instance: Instance) -> Outcome:
    return _of_init(instance, "memory", OVER_BYTES)


def own_kernel(instance: Instance) -> bool:
    """Return whether an instance is a VM whose kernel was proven, by its boot id, not to be the host's."""
    inside, host = instance.inside().get("boot_id"), boot_id()
    return instance.boundary == "vm" and isinstance(inside, str) and len(inside) == len(host) and inside != host


def _panic(instance: Instance) -> Outcome:
    """The exec never answers: the kernel that ran it is gone."""
    assert own_kernel(instance)
    with held(instance.pids()) as processes:
        since_ns, said = time.monotonic_ns(), ""
        with contextlib.suppress(TrialError):
            done = instance.exec(["harness:probe", "fault", "panic", boot_id()], GONE_NS)
            said = f"the program inside ended with {done.returncode}"
        found = _ended(instance, processes, since_ns, said)
    told = b"Kernel panic" in instance.console()
    words = "its console says: Kernel panic" if told else "its console says nothing of it"
    return replace(found, as_expected=found.as_expected and told, seen=f"{found.seen}; {words}")


def _killed(instance: Instance) -> Outcome:
    pids = instance.pids()
    with held(pids) as processes, held(pids[:1]) as first:
        since_ns = time.monotonic_ns()
        first.kill()
        return _ended(instance, processes, since_ns)


def _runtime(instance: Instance) -> Outcome:
    pids = instance.pids()
    over = runtime_over(pids[0])
    assert over is not None
    name = Path(f"/proc/{over}/comm").read_text().strip()
    with held(pids) as processes, held([over]) as runtime:
        runtime.kill()
        runtime.gone_ns(time.monotonic_ns(), GONE_NS)
        words = [f"{name} killed", _state(_is_alive(instance))]
        try:
            instance.stop(time.monotonic_ns() + GONE_NS)
        except TrialError as error:
            words.append(error.message)
        left = processes.living()
        words.append(f"left after its removal: {len(left)} processes" if left else "nothing left after its removal")
        processes.kill()  # nobody else's task any more
    return Outcome(not left, "; ".join(words))


LIVES_ON: Mapping[Fault, Callable[[Instance], Outcome]] = {"memory": _memory, "processes": _processes, "disk": _disk}
ENDS: Mapping[Fault, Callable[[Instance], Outcome]] = {
    "init_killed": _init_killed,
    "init_exit": _init_exit,
    "init_memory": _init_memory,
    "panic": _panic,
    "killed": _killed,
    "runtime": _runtime,
}


def refusal(fault: Fault, instance: Instance) -> str | None:
    """Return why a fault is not tried on an instance, None where it is."""
    if fault == "panic" and not own_kernel(instance):
        return "shared kernel: a panic here would be the host's, so it is never tried"
    if fault == "disk" and min(shutil.disk_usage(place()).free for place in (data_dir, cache_dir)) < HOST_ROOM_BYTES:
        return f"the host's disk has less than {format_bytes(HOST_ROOM_BYTES)} left, should nothing limit the sandbox"
    if fault == "runtime" and instance.boundary == "vm":
        return "its VMM is the one: see killed"
    if fault == "runtime" and runtime_over(instance.pids()[0]) is None:
        return "no process of its runtime stands over it but the harness itself"
    return None


def oom_kills(instance: Instance) -> int | None:
    """Return how many processes the host's kernel has killed for memory in an instance's cgroup, None where untold."""
    group = _caps.group_of(instance)
    return group.stats().memory.oom_kills_count if group else None


def memory_group(instance: Instance) -> str:
    """Return the path of the cgroup that limits an instance's memory, as the kernel's log has it; empty without one."""
    return _caps.path_of(instance, "memory")
