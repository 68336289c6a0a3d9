"""Seccomp profiles as frozen data, and the filters that they become.

The data is `linux.seccomp` of the OCI runtime specification 1.2 (config-linux.md, "Seccomp"), with its own words for
actions, architectures, operators and flags. To compile a profile takes libseccomp some 10 ms, so what comes out is kept
on disk; a container that starts from the cache loads no library.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from harness.container import libseccomp
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen, replace

INSTRUCTION_BYTES = 8  # struct sock_filter
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, include/uapi/linux/bpf_common.h

# include/uapi/linux/audit.h
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # __X32_SYSCALL_BIT: numbers of another ABI begin there
# include/uapi/linux/bpf_common.h: BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K and so on
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06

_MAX_ERRNO = 4095  # include/linux/err.h; a filter's greater value becomes this one (seccomp(2))
_RECIPE = 3
"""Part of a cached filter's key: raise it when the same profile is to become another program."""

# SECCOMP_RET_*, include/uapi/linux/seccomp.h. SCMP_ACT_KILL is the thread alone (seccomp_init(3)).
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_ERRNO = {"SCMP_ACT_ERRNO": _MAX_ERRNO, "SCMP_ACT_TRACE": 0xFFFF}

# enum scmp_compare, seccomp.h of libseccomp.
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

ARCHITECTURES = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X "
        "PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
    ).split()
)

# SECCOMP_FILTER_FLAG_*, include/uapi/linux/seccomp.h.
_TSYNC = 1 << 0
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE_RECV = 1 << 5
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": _TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": _WAIT_KILLABLE_RECV,
}


class Arg(Frozen):
    """A condition on one argument (0 to 5) of a system call, compared as an unsigned 64-bit number.

    For SCMP_CMP_MASKED_EQ, `value` is the mask and `value_two` what the masked argument must be.
    """

    index: int
    value: int
    value_two: int = 0
    op: str = "SCMP_CMP_EQ"


class Rule(Frozen):
    """What happens to system calls of these names whose arguments fulfil all of `args`. `errno` None: EPERM.

    Where two of `args` are about the same argument, fulfilling any one of them is enough: libseccomp refuses such a
    rule, and runc and crun read it so.
    """

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    args: tuple[Arg, ...] = ()


class Profile(Frozen):
    """A profile. `architectures` beside the host's own, which is always one; `default_errno` None: EPERM."""

    default_action: str
    default_errno: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    listener_path: str | None = None
    listener_metadata: str = ""


class Filter(Frozen):
    """A compiled profile: the bytes of its `struct sock_filter`, and the names that this libseccomp does not know.

    A rule for an unknown name is left out, as runc and crun do: the default action is what such a call meets.
    """

    program: bytes
    unknown: tuple[str, ...] = ()


def _refuse(field: str, why: str) -> ContainerError:
    return ContainerError("seccomp", 0, f"linux.seccomp.{field}: {why}")


def _word(words: Mapping[str, int], word: str, field: str) -> int:
    try:
        return words[word]
    except KeyError:
        raise _refuse(field, f"{word!r}: unknown; known: {', '.join(words)}") from None


def _action(name: str, returns: int | None, field: str, errno_field: str) -> int:
    """Return the number of an action, its errno included."""
    number = _word(ACTIONS, name, field)
    if name not in _WITH_ERRNO:
        if returns is not None:
            raise _refuse(errno_field, f"{returns}: {name} returns no errno")
        return number
    value = errno.EPERM if returns is None else returns
    if not 0 <= value <= _WITH_ERRNO[name]:
        raise _refuse(errno_field, f"{value}: not from 0 to {_WITH_ERRNO[name]}")
    return number | value


def _condition(arg: Arg, field: str) -> libseccomp.Condition:
    operator = _word(OPERATORS, arg.op, f"{field}.op")
    if not 0 <= arg.index <= 5:
        raise _refuse(f"{field}.index", f"{arg.index}: not from 0 to 5")
    for name, value in (("value", arg.value), ("valueTwo", arg.value_two)):
        if not 0 <= value < 1 << 64:
            raise _refuse(f"{field}.{name}", f"{value}: not an unsigned 64-bit number")
    return libseccomp.Condition(arg.index, operator, arg.value, arg.value_two)


def _is_name(name: str) -> bool:
    """Whether a text could be a name: in C it ends at a NUL, and the cache has blanks between names."""
    return name.isascii() and name.isprintable() and bool(name) and " " not in name


def _check_notify(rule: Rule, field: str) -> None:
    """A container whose write(2) waits for the listener cannot tell it so: runc refuses it for the same reason."""
    if rule.action == "SCMP_ACT_NOTIFY" and "write" in rule.names:
        raise _refuse(f"{field}.action", "SCMP_ACT_NOTIFY: not for write")


def compile_filter(profile: Profile) -> Filter:
    """Return the filter of a profile: libseccomp's, in as few instructions as are known to do the same.

    Raises: ContainerError naming the field that is wrong, or where there is no libseccomp.
    """
    from harness.container.seccomp_tree import shorten

    made = _made_by_libseccomp(profile)
    return replace(made, program=_newer_calls(profile) + shorten(made.program))


def _newer_calls(profile: Profile) -> bytes:
    """Return what is put before a filter so that calls newer than all that its profile names say ENOSYS, not EPERM.

    Programs (the C library first of all) try a new call and go on without it where the kernel has none; "not permitted"
    they take for the last word. Only where the rest is refused by an errno, and only for the native numbers.
    """
    import struct

    if profile.default_action != "SCMP_ACT_ERRNO" or profile.default_errno == errno.ENOSYS:
        return b""
    architecture = _AUDIT_ARCH.get(os.uname().machine)
    path = libseccomp.find()[0]
    newest = max((libseccomp.native_number(path, name) for rule in profile.rules for name in rule.names), default=-1)
    if newest < 0 or architecture is None:
        return b""
    refuse = ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS
    lines = (
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_EQUAL, 0, 4, architecture),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_JUMP_GREATER_EQUAL, 2, 0, _X32),
        (_JUMP_GREATER, 0, 1, newest),
        (_RETURN, 0, 0, refuse),
    )
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _made_by_libseccomp(profile: Profile, optimisation: int = libseccomp.BINARY_TREE) -> Filter:
    default = _action(profile.default_action, profile.default_errno, "defaultAction", "defaultErrnoRet")
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise _refuse("defaultAction", "SCMP_ACT_NOTIFY: the start of the container would wait for its listener")
    unknown: list[str] = []
    with libseccomp.Context(libseccomp.find()[0], default, optimisation) as context:
        for index, name in enumerate(profile.architectures):
            field = f"architectures[{index}]"
            if name not in ARCHITECTURES:
                raise _refuse(field, f"{name!r}: unknown; known: {', '.join(sorted(ARCHITECTURES))}")
            if not context.add_architecture(name.removeprefix("SCMP_ARCH_").lower()):
                raise _refuse(field, f"{name}: this libseccomp does not know it")
        for index, rule in enumerate(profile.rules):
            unknown += _add(context, rule, f"syscalls[{index}]", default)
        program = context.program()
    _check_program(program)
    return Filter(program, tuple(dict.fromkeys(unknown)))


def compile_profile(profile: Profile) -> bytes:
    """Return the program of `compile_filter`."""
    return compile_filter(profile).program


def _add(context: libseccomp.Context, rule: Rule, field: str, default: int) -> list[str]:
    """Add a rule; return the names that are not known."""
    action = _action(rule.action, rule.errno, f"{field}.action", f"{field}.errnoRet")
    _check_notify(rule, field)
    conditions = [_condition(arg, f"{field}.args[{index}]") for index, arg in enumerate(rule.args)]
    if not rule.names or not all(map(_is_name, rule.names)):
        raise _refuse(f"{field}.names", "at least one is needed, and each of visible ASCII characters")
    if action == default:  # libseccomp refuses it, and nothing would change
        return []
    several = len({condition.argument for condition in conditions}) < len(conditions)
    alternatives = [[condition] for condition in conditions] if several else [conditions]
    unknown = []
    for name in rule.names:
        try:
            if not all(context.add_rule(name, action, alternative) for alternative in alternatives):
                unknown.append(name)
        except ContainerError as error:
            why = ": an earlier rule says otherwise" if error.errno == errno.EEXIST else ""
            raise ContainerError("seccomp", error.errno, f"linux.seccomp.{field}: {name}{why}") from error
    return unknown


def _check_program(program: bytes) -> None:
    count, rest = divmod(len(program), INSTRUCTION_BYTES)
    if rest or not 0 < count <= MAX_INSTRUCTIONS:
        raise ContainerError("seccomp", 0, f"filter: {len(program)} bytes: not 1 to {MAX_INSTRUCTIONS} instructions")


def notifies(profile: Profile) -> bool:
    """Return whether there is a listener: one that is asked about some calls, or one that is only named."""
    return bool(profile.listener_path) or any(rule.action == "SCMP_ACT_NOTIFY" for rule in profile.rules)


def flags(profile: Profile) -> int:
    """Return the flags of seccomp(2), SECCOMP_FILTER_FLAG_NEW_LISTENER among them where a listener is asked.

    Raises: ContainerError for an unknown flag, for a listener that is missing, or a flag that needs one.
    """
    value = 0
    for index, name in enumerate(profile.flags):
        value |= _word(FLAGS, name, f"flags[{index}]")
    if not notifies(profile):
        if value & _WAIT_KILLABLE_RECV:
            raise _refuse("flags", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: no action is SCMP_ACT_NOTIFY")
        return value
    if not profile.listener_path:
        raise _refuse("listenerPath", "missing, and SCMP_ACT_NOTIFY needs it")
    # The kernel refuses both together, and a process with one thread has nothing to synchronise.
    return (value | _NEW_LISTENER) & ~_TSYNC


# -- the cache -------------------------------------------------------------------------------------------------------

_MAGIC = b"harness seccomp filter\n"
_DIGEST_BYTES = 32
_memo: dict[Profile, Filter] = {}
_MEMO_LIMIT = 64


def compiled(profile: Profile, cache_dir: str | None) -> bytes:
    """Return the program of `compiled_filter`."""
    return compiled_filter(profile, cache_dir).program


def compiled_filter(profile: Profile, cache_dir: str | None) -> Filter:
    """Return the filter of a profile: from this process's memory, from `cache_dir`, or compiled and put there.

    A file that is damaged, or that another user could have written, counts as missing and is replaced.

    Raises: ContainerError as `compile_filter`, or where the directory cannot be written.
    """
    found = _memo.get(profile)
    if found is None:
        found = compile_filter(profile) if cache_dir is None else _from_disk(profile, cache_dir)
        if len(_memo) >= _MEMO_LIMIT:
            _memo.clear()
        _memo[profile] = found
    return found


def forget() -> None:
    """Empty this process's memory of filters."""
    _memo.clear()


def _digest(data: bytes) -> bytes:
    """Return a BLAKE2b digest: some seven times as fast as SHA-256 without its instructions."""
    try:
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()


def cache_key(profile: Profile) -> str:
    """Return the name under which a filter is kept: all that its program depends on, and so no flag and no listener."""
    head = (_RECIPE, os.uname().machine, libseccomp.find()[1], profile.default_action, profile.default_errno)
    text = f"{head!r}{profile.architectures!r}{''.join(map(_canonical, profile.rules))}"
    return _digest(text.encode("utf-8", "surrogatepass")).hex()


def _canonical(rule: Rule) -> str:
    """Return a text that no other rule has; joined, since `repr` of some 400 names takes longer than the whole rest."""
    args = [(arg.index, arg.value, arg.value_two, arg.op) for arg in rule.args]
    return f"\n{len(rule.names)} {rule.action!r} {rule.errno!r} {args!r} " + "\0".join(rule.names)


def _from_disk(profile: Profile, cache_dir: str) -> Filter:
    key = cache_key(profile)
    path = f"{cache_dir}/{key}.bpf"
    found = _read(path, key)
    if found is None:
        found = compile_filter(profile)
        _write(path, key, found)
    return found


def _read(path: str, key: str) -> Filter | None:
    """Return a kept filter; None where there is none that can be trusted."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        about = os.fstat(fd)
        if about.st_uid not in {0, os.geteuid()} or about.st_mode & 0o022 or about.st_mode >> 12 != 0o10:  # S_IFREG
            return None
        return _decode(os.read(fd, about.st_size), key)
    except OSError:
        return None
    finally:
        os.close(fd)


def _encode(kept: Filter, key: str) -> bytes:
    """The key is part of what is summed up, so that no filter passes for another's under a changed name."""
    body = " ".join(kept.unknown).encode() + b"\n" + kept.program
    return _MAGIC + _digest(key.encode() + body) + body


def _decode(data: bytes, key: str) -> Filter | None:
    start = len(_MAGIC) + _DIGEST_BYTES
    body = data[start:]
    if data[:start] != _MAGIC + _digest(key.encode() + body):
        return None
    names, _, program = body.partition(b"\n")
    if len(program) % INSTRUCTION_BYTES or not program:
        return None
    return Filter(program, tuple(names.decode().split()))


def _write(path: str, key: str, kept: Filter) -> None:
    """Write a file whole or not at all; who reads at the same time sees the old one or the new one."""
    draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(_encode(kept, key))
            os.rename(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise ContainerError("seccomp cache", error.errno or 0, path) from error
