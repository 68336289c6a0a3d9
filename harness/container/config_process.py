"""`process` of a config.json, and the document of `exec --process`, which is the same object by itself."""

from __future__ import annotations

from collections.abc import Mapping

from harness.container._fields import INT64, MAX_ID, UINT16, UINT64, Fields, shown
from harness.container.defaults import CAPABILITIES
from harness.container.frozen import Frozen
from harness.container.spec import Capabilities, Process, Rlimit

_CAPABILITIES = {f"CAP_{name.upper()}": name for name in CAPABILITIES}

# Source: include/uapi/asm-generic/resource.h, which x86 and arm64 use.
_RLIMITS = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split()
    )
}

# Source: include/uapi/linux/ioprio.h and sched.h. SCHED_ISO is a word of the specification that no kernel took.
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
_REAL_TIME = ("SCHED_FIFO", "SCHED_RR")
_SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip

_MAX_CPU = 8191
"""The last CPU of the largest kernel (NR_CPUS of x86 and arm64 is at most 8192)."""


class ExecAffinity(Frozen):
    """CPUs of a process that is added to a container, before and after it enters the cgroup; empty: as they are."""

    initial: tuple[int, ...] = ()
    final: tuple[int, ...] = ()


def cpu_list(fields: Fields, key: str) -> tuple[int, ...]:
    """Return the CPUs of a list like "0-3,7", in ascending order, each once."""
    cpus: set[int] = set()
    text = fields.text(key)
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and len(end) <= 4 and int(end) <= _MAX_CPU for end in ends):
            fields.fail(key, f"{shown(text)} is no list of CPUs up to {_MAX_CPU}, like '0-3,7'")
        if int(ends[0]) > int(ends[1]):
            fields.fail(key, f"{shown(text)} has a range that ends before it begins")
        cpus.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(cpus))


def _capabilities(fields: Fields) -> Capabilities:
    """Return the sets. Names that nobody knows yet are kept: they must be warned of, not refused (config.md)."""
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return Capabilities(*(_names(fields, key) for key in sets))


def _names(fields: Fields, key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_CAPABILITIES.get(word, word) for word in fields.texts(key)))


def _rlimit(fields: Fields) -> Rlimit:
    limit = Rlimit(
        fields.choice("type", _RLIMITS),
        fields.needed_number("soft", 0, UINT64),
        fields.needed_number("hard", 0, UINT64),
    )
    if limit.soft > limit.hard:
        fields.fail("soft", f"{limit.soft} is above the hard limit {limit.hard}")
    return limit


def _rlimits(process: Fields) -> tuple[Rlimit, ...]:
    limits = process.each("rlimits", _rlimit)
    seen: set[int] = set()
    for index, limit in enumerate(limits):
        if limit.resource in seen:
            process.fail(f"rlimits[{index}].type", "is there twice")
        seen.add(limit.resource)
    return limits


def _environment(process: Fields) -> tuple[str, ...]:
    env = process.texts("env")
    for index, entry in enumerate(env):
        if entry.find("=") < 1:
            process.fail(f"env[{index}]", f"{shown(entry)} is not NAME=value")
    return env


def _console_size(process: Fields) -> tuple[int, int] | None:
    """Return rows and columns: two unsigned 16-bit numbers in struct winsize."""
    if not process.has("consoleSize") or not process.flag("terminal"):
        return None
    box = process.fields("consoleSize")
    return box.needed_number("height", 0, UINT16), box.needed_number("width", 0, UINT16)


def _io_priority(process: Fields) -> tuple[int, int] | None:
    if not process.has("ioPriority"):
        return None
    fields = process.fields("ioPriority")
    return fields.choice("class", _IO_CLASSES), fields.number("priority", 0, 7) or 0


def _scheduler(process: Fields) -> Mapping[str, int] | None:
    """Return the fields of struct sched_attr (sched_setattr(2)), without its `sched_`."""
    if not process.has("scheduler"):
        return None
    fields = process.fields("scheduler")
    policy = fields.choice("policy", _POLICIES)
    attributes = {
        "policy": policy,
        "flags": sum(set(fields.words("flags", _SCHEDULER_FLAGS))),
        "nice": fields.number("nice", -20, 19) or 0,
        "priority": fields.number("priority", 0, 99) or 0,
        "runtime": fields.number("runtime", 0, INT64) or 0,
        "deadline": fields.number("deadline", 0, INT64) or 0,
        "period": fields.number("period", 0, INT64) or 0,
    }
    real_time = policy in {_POLICIES[name] for name in _REAL_TIME}
    if real_time != (attributes["priority"] > 0):
        fields.fail("priority", f"from 1 to 99 with {' and '.join(_REAL_TIME)}, 0 with the others")
    for key in ("runtime", "deadline", "period"):
        if attributes[key] and policy != _POLICIES["SCHED_DEADLINE"]:
            fields.fail(key, "is of SCHED_DEADLINE alone")
    return attributes


def exec_affinity(process: Fields) -> ExecAffinity:
    """Return `execCPUAffinity` of a process. Raises ContainerError."""
    fields = process.fields("execCPUAffinity")
    return ExecAffinity(cpu_list(fields, "initial"), cpu_list(fields, "final"))


def _args(process: Fields) -> tuple[str, ...]:
    args = process.texts("args")
    if not args:
        process.fail("args", "at least the program is needed")
    if not args[0]:
        process.fail("args[0]", "is empty")
    return args


def process_of(process: Fields) -> Process:
    """Return a process, without its seccomp filter and CPUs, which are said elsewhere. Raises ContainerError."""
    user = process.fields("user")
    return Process(
        args=_args(process),
        env=_environment(process),
        cwd=process.absolute("cwd"),
        uid=user.number("uid", 0, MAX_ID) or 0,
        gid=user.number("gid", 0, MAX_ID) or 0,
        additional_gids=user.numbers("additionalGids", 0, MAX_ID),
        umask=user.number("umask", 0, 0o777),
        capabilities=_capabilities(process.fields("capabilities")) if process.has("capabilities") else None,
        no_new_privs=process.flag("noNewPrivileges"),
        rlimits=_rlimits(process),
        oom_score_adj=process.number("oomScoreAdj", -1000, 1000),
        apparmor_profile=process.text("apparmorProfile") or None,
        selinux_label=process.text("selinuxLabel") or None,
        terminal=process.flag("terminal"),
        console_size=_console_size(process),
        io_priority=_io_priority(process),
        scheduler=_scheduler(process),
    )
