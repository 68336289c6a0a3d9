"""`linux` of a config.json but for resources: namespaces, id mappings, devices, sysctls, seccomp, small things."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from harness.container._fields import INT64, MAX_ID, UINT32, UINT64, Fields, shown
from harness.container.config_resources import MAX_MAJOR, MAX_MINOR
from harness.container.options import PROPAGATION
from harness.container.seccomp import Arg, Profile, Rule
from harness.container.spec import CLONE_FLAGS, Device, IdMap, Namespace, NamespaceKind

_KINDS: Mapping[str, NamespaceKind] = {kind: kind for kind in CLONE_FLAGS}

_DEVICE_KINDS: Mapping[str, str] = {"c": "c", "u": "c", "b": "b", "p": "p"}

# PER_LINUX and PER_LINUX32 of personality(2).
_PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}

_CLOCKS = {"monotonic": "monotonic", "boottime": "boottime"}

# What is the container's own in /proc/sys, and by which namespace: ipc_namespaces(7), uts_namespaces(7).
_IPC_SYSCTLS = frozenset(
    f"kernel/{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced",
                                  "auto_msgmni", "msg_next_id", "sem_next_id", "shm_next_id")
)  # fmt: skip


def _words(*words: str) -> Mapping[str, str]:
    return {word: word for word in words}


# Source: the runtime specification 1.2, config-linux.md, "Seccomp".
_ACTIONS = _words(
    *(f"SCMP_ACT_{name}" for name in (
        "KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY"))
)  # fmt: skip
_OPERATORS = _words(*(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")))
_SECCOMP_FLAGS = _words(
    *(f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))
)
_ARCHITECTURES = _words(
    *(f"SCMP_ARCH_{name}" for name in (
        "X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "M68K", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL",
        "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "SH", "SHEB", "PARISC", "PARISC64",
        "RISCV64"))
)  # fmt: skip


# -- namespaces and ids ----------------------------------------------------------------------------------------------


def _namespace(fields: Fields) -> Namespace:
    kind = fields.choice("type", _KINDS)
    return Namespace(kind, fields.absolute("path") if fields.text("path") else None)


def namespaces_of(linux: Fields) -> tuple[Namespace, ...]:
    """Return the namespaces, at most one of a kind. Raises ContainerError."""
    namespaces = linux.each("namespaces", _namespace)
    seen: set[str] = set()
    for index, namespace in enumerate(namespaces):
        if namespace.kind in seen:
            linux.fail(f"namespaces[{index}].type", f"{namespace.kind!r} is there twice")
        seen.add(namespace.kind)
    return namespaces


def _id_map(fields: Fields) -> IdMap:
    mapping = IdMap(
        inside=fields.needed_number("containerID", 0, MAX_ID),
        outside=fields.needed_number("hostID", 0, MAX_ID),
        size=fields.needed_number("size", 1, UINT32),
    )
    if max(mapping.inside, mapping.outside) + mapping.size - 1 > MAX_ID:
        fields.fail("size", f"{mapping.size} ids from there on go beyond the last one, {MAX_ID}")
    return mapping


def id_maps(fields: Fields, key: str) -> tuple[IdMap, ...]:
    """Return mappings of ids that do not overlap. Raises ContainerError.

    More than 340 are refused, as by the kernel (user_namespaces(7)).
    """
    maps = fields.each(key, _id_map)
    if len(maps) > 340:
        fields.fail(key, f"{len(maps)} mappings; the kernel takes 340")
    for side in ("inside", "outside"):
        order = sorted((getattr(mapping, side), mapping.size, index) for index, mapping in enumerate(maps))
        for (start, size, _), (following, _, index) in pairwise(order):
            if following < start + size:
                fields.fail(f"{key}[{index}]", "overlaps another mapping")
    return maps


def check_id_maps(linux: Fields, namespaces: Mapping[NamespaceKind, Namespace]) -> None:
    """Raise ContainerError unless there are mappings for a new user namespace, and none without one."""
    user = namespaces.get("user")
    for key in ("uidMappings", "gidMappings"):
        if linux.values.get(key) and user is None:
            linux.fail(key, "needs a namespace of type 'user'")
        if not linux.values.get(key) and user is not None and user.path is None:
            linux.fail(key, "is missing: a new user namespace needs it")


# -- devices, sysctls, clocks ----------------------------------------------------------------------------------------


def device_of(fields: Fields) -> Device:
    """Return a device. Raises ContainerError."""
    kind = fields.choice("type", _DEVICE_KINDS)
    if kind != "p":
        fields.need("major")
        fields.need("minor")
    mode = fields.number("fileMode", 0, 0o177777)  # Podman writes st_mode, with the type of the file in it
    return Device(
        path=fields.absolute("path"),
        kind="p" if kind == "p" else "b" if kind == "b" else "c",
        major=fields.number("major", 0, MAX_MAJOR) or 0,
        minor=fields.number("minor", 0, MAX_MINOR) or 0,
        mode=0o666 if mode is None else mode & 0o7777,
        uid=fields.number("uid", 0, MAX_ID) or 0,
        gid=fields.number("gid", 0, MAX_ID) or 0,
    )


def _sysctl_path(name: str) -> str:
    """Return a sysctl as a path below /proc/sys.

    The first separator decides: "net/ipv4/conf/eth0.100/forwarding" and "net.ipv4.conf.eth0/100.forwarding" are the
    same (sysctl(8)).
    """
    first = next((letter for letter in name if letter in "./"), ".")
    return name if first == "/" else name.translate({ord("."): "/", ord("/"): "."})


def _sysctl_namespace(path: str) -> NamespaceKind | None:
    """Return the kind of namespace that a sysctl belongs to, or None for those of the whole kernel."""
    if path in _IPC_SYSCTLS or path.startswith("fs/mqueue/"):
        return "ipc"
    if path == "kernel/domainname":
        return "uts"
    return "network" if path.startswith("net/") else None


def sysctls_of(linux: Fields, namespaces: Mapping[NamespaceKind, Namespace]) -> tuple[tuple[str, str], ...]:
    """Return (path below /proc/sys, value) of each sysctl.

    Raises: ContainerError for one that is not of a namespace which the container has of its own.
    """
    found = []
    fields = linux.fields("sysctl")
    if linux.pairs("sysctl").keys() & {"kernel.hostname", "kernel/hostname"}:
        fields.fail("kernel.hostname", "is what the field 'hostname' is for")
    for name, value in linux.pairs("sysctl").items():
        path = _sysctl_path(name)
        kind = _sysctl_namespace(path)
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            fields.fail(name, "is not the name of a sysctl")
        if kind is None:
            fields.fail(name, "belongs to no namespace: the host would be changed")
        if kind not in namespaces:
            fields.fail(name, f"needs a namespace of type {kind!r}")
        found.append((path, value))
    return tuple(found)


def time_offsets_of(linux: Fields, namespaces: Mapping[NamespaceKind, Namespace]) -> tuple[tuple[str, int, int], ...]:
    """Return (clock, seconds, ns) of each clock that is moved. Raises ContainerError."""
    offsets = []
    time = namespaces.get("time")
    for clock, offset in linux.items("timeOffsets"):
        linux.known(f"timeOffsets.{clock}", clock, _CLOCKS)
        seconds = offset.number("secs", -INT64 - 1, INT64) or 0
        offsets.append((clock, seconds, offset.number("nanosecs", 0, 999_999_999) or 0))
    if offsets and (time is None or time.path is not None):
        linux.fail("timeOffsets", "needs a new namespace of type 'time'")
    return tuple(offsets)


# -- seccomp ---------------------------------------------------------------------------------------------------------


def _arg(fields: Fields) -> Arg:
    return Arg(
        index=fields.needed_number("index", 0, 5),
        value=fields.needed_number("value", 0, UINT64),
        value_two=fields.number("valueTwo", 0, UINT64) or 0,
        op=fields.choice("op", _OPERATORS),
    )


def _rule(fields: Fields) -> Rule:
    names = fields.texts("names")
    if not all(names) or not names:
        fields.fail("names", "at least one name, and none empty, is needed")
    return Rule(
        names=names,
        action=fields.choice("action", _ACTIONS),
        errno=fields.number("errnoRet", 0, UINT32),
        args=fields.each("args", _arg),
    )


def seccomp_of(linux: Fields) -> Profile | None:
    """Return the profile, or None if there is none. Raises ContainerError."""
    if not linux.has("seccomp"):
        return None
    fields = linux.fields("seccomp")
    profile = Profile(
        default_action=fields.choice("defaultAction", _ACTIONS),
        default_errno=fields.number("defaultErrnoRet", 0, UINT32),
        architectures=fields.words("architectures", _ARCHITECTURES),
        flags=fields.words("flags", _SECCOMP_FLAGS),
        rules=fields.each("syscalls", _rule),
        listener_path=fields.absolute("listenerPath") if fields.text("listenerPath") else None,
        listener_metadata=fields.text("listenerMetadata"),
    )
    if profile.listener_metadata and profile.listener_path is None:
        fields.fail("listenerMetadata", "needs a listenerPath")
    return profile


# -- the rest --------------------------------------------------------------------------------------------------------


def propagation_of(linux: Fields) -> int:
    """Return the MS_* flags of `rootfsPropagation`, 0 if nothing is said. Raises ContainerError."""
    word = linux.text("rootfsPropagation")
    return linux.known("rootfsPropagation", word, PROPAGATION) if word else 0


def personality_of(linux: Fields) -> int | None:
    """Return the argument of personality(2), or None. Raises ContainerError for flags: the specification has none."""
    if not linux.has("personality"):
        return None
    fields = linux.fields("personality")
    flags = fields.texts("flags")
    if flags:
        fields.fail("flags[0]", f"{shown(flags[0])} is unknown: no flag is")
    return fields.choice("domain", _PERSONALITIES)
