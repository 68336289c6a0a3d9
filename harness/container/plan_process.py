"""The steps that make a process what it is, and take from it what it may not do."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Mapping, Sequence

from harness.container.defaults import CAPABILITIES
from harness.container.errors import ContainerError
from harness.container.spec import Capabilities, Process
from harness.container.step import Step, call, halves, packed, tolerant

# include/uapi/linux/prctl.h, include/uapi/linux/keyctl.h
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
KEYCTL_JOIN_SESSION_KEYRING = 1
_WORD = (1 << 64) - 1


def capability_mask(names: Sequence[str]) -> int:
    """Return the bits of capability names. Raises ContainerError for an unknown one."""
    unknown = [name for name in names if name not in CAPABILITIES]
    if unknown:
        raise ContainerError("plan", 0, f"capabilities: {unknown[0]}: unknown")
    return sum(1 << CAPABILITIES.index(name) for name in set(names))


def rlimits(process: Process) -> list[Step]:
    return [call("rlimit", 0, limit.resource, packed(limit.soft, limit.hard)) for limit in process.rlimits]


def scheduling(process: Process) -> list[Step]:
    steps = []
    if process.nice is not None:
        steps.append(call("setpriority", 0, 0, process.nice))
    if process.io_priority is not None:
        steps.append(call("ioprio_set", 1, 0, process.io_priority[0] << 13 | process.io_priority[1]))
    if process.cpu_affinity:
        steps.append(_affinity(process.cpu_affinity))
    if process.scheduler is not None:
        steps.append(_scheduler(process.scheduler))
    return steps


def _affinity(cpus: Sequence[int]) -> Step:
    mask = sum(1 << cpu for cpu in set(cpus))
    words = [mask >> shift & _WORD for shift in range(0, mask.bit_length(), 64)]
    return call("affinity", 0, 8 * len(words), packed(*words))


def _scheduler(given: Mapping[str, int]) -> Step:
    """`struct sched_attr` of sched_setattr(2), as words of 32 bits."""
    size, (policy, nice, priority) = 48, (given.get(name, 0) for name in ("policy", "nice", "priority"))
    flags, *times = (halves(given.get(name, 0)) for name in ("flags", "runtime", "deadline", "period"))
    return call("scheduler", 0, packed(size, policy, *flags, nice, priority, *itertools.chain(*times)), 0)


def oom_score(adjustment: int) -> Step:
    return Step("write", ("thread-self/oom_score_adj", str(adjustment)))


def labels(process: Process) -> list[Step]:
    """Written through the host's /proc, held since before the root changed (CVE-2019-19921, CVE-2025-52881)."""
    steps = []
    if process.apparmor_profile:
        steps.append(Step("write", ("thread-self/attr/apparmor/exec", f"exec {process.apparmor_profile}")))
    if process.selinux_label:
        steps.append(Step("write", ("thread-self/attr/exec", process.selinux_label)))
    return steps


def _capset(effective: int, permitted: int, inheritable: int) -> Step:
    """`struct __user_cap_header_struct` and two of `__user_cap_data_struct` (capset(2), version 3)."""
    sets = zip(*(halves(mask) for mask in (effective, permitted, inheritable)), strict=True)
    return call("capabilities", packed(0x20080522, 0), packed(*itertools.chain(*sets)))


def capabilities(sets: Capabilities) -> list[Step]:
    """After a change of the uid the effective set is empty, and the bounding set wants CAP_SETPCAP in it, if it may."""
    effective, permitted, inheritable = map(capability_mask, (sets.effective, sets.permitted, sets.inheritable))
    with_setpcap = permitted | capability_mask(["setpcap"])
    return [
        tolerant(errno.EPERM, _capset(with_setpcap, with_setpcap, inheritable)),
        Step("bounding", (hex(capability_mask(sets.bounding)),)),
        _capset(effective, permitted, inheritable),
        call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
        *(call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAPABILITIES.index(name), 0, 0) for name in sets.ambient),
    ]


def groups(process: Process) -> list[Step]:
    gids = process.additional_gids
    return [call("groups", len(gids), packed(*gids))] if gids else []


def user(uid: int, gid: int) -> list[Step]:
    """What is permitted stays so until `capabilities` says otherwise."""
    keep = call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    return [keep, call("setresgid", gid, gid, gid), call("setresuid", uid, uid, uid)]


def keyring(name: str) -> Step:
    """A kernel without keys has no keyring to share."""
    return tolerant(errno.ENOSYS, call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, name))


def home(process: Process) -> Step:
    """What no specification asks for and programs expect: $HOME, from the container's own /etc/passwd."""
    return Step("home", (str(process.uid),))
