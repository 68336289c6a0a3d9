"""Device rules on cgroup v2: a program that the kernel asks whenever a process of the group opens or makes a device.

The program has the access in R4 and goes through the rules from the last to the first. A rule for the device that
allows takes its accesses out of R4, and allows when none is left; one that refuses ends it if R4 holds any of its own.

Source: include/uapi/linux/bpf.h (struct bpf_insn, struct bpf_cgroup_dev_ctx, union bpf_attr), bpf(2), and
Documentation/bpf/standardization/instruction-set.rst of the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from harness.container import device_rules, syscalls
from harness.container.errors import ContainerError
from harness.container.resources import DeviceRule

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI, _REPLACE = 2, 4
_MOST_PROGRAMS = 64  # of one group: BPF_CGROUP_MAX_PROGS

# Instructions: class | source or size | operation.
_LOAD_WORD = 0x61  # BPF_LDX | BPF_W | BPF_MEM
_MOV_IMMEDIATE, _MOV_REGISTER = 0xB4, 0xBC  # BPF_ALU (32 bits): BPF_MOV | BPF_K, BPF_X
_AND_IMMEDIATE = 0x54  # BPF_ALU | BPF_AND | BPF_K
_SHIFT_RIGHT = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_JUMP_IF_EQUAL, _JUMP_IF_NOT = 0x15, 0x55  # BPF_JMP: BPF_JEQ | BPF_K, BPF_JNE | BPF_K
_EXIT = 0x95

_R0, _R1, _R2, _R3, _R4, _R5 = range(6)
_KINDS = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_BLOCK, _CHAR
_BITS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_MKNOD, _READ, _WRITE


# -- the program -----------------------------------------------------------------------------------------------------


def program(rules: Sequence[DeviceRule]) -> bytes:
    """Return the instructions (8 bytes each) that answer 1 for what the rules allow, 0 for the rest.

    Raises ContainerError for rules that mean nothing.
    """
    allow, after = device_rules.effective(rules)
    code = [
        _instruction(_LOAD_WORD, _R2, _R1, offset=0),  # access << 16 | kind
        _instruction(_MOV_REGISTER, _R4, _R2),
        _instruction(_AND_IMMEDIATE, _R2, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT, _R4, immediate=16),
        _instruction(_LOAD_WORD, _R5, _R1, offset=4),  # major
        _instruction(_LOAD_WORD, _R3, _R1, offset=8),  # minor
    ]
    for rule in reversed(after):
        code += _rule(rule)
    return b"".join((*code, *_answer(allowed=allow)))


def _instruction(operation: int, target: int = 0, source: int = 0, *, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", operation, source << 4 | target, offset, immediate)


def _answer(*, allowed: bool) -> list[bytes]:
    return [_instruction(_MOV_IMMEDIATE, _R0, immediate=int(allowed)), _instruction(_EXIT)]


def _rule(rule: DeviceRule) -> list[bytes]:
    bits = sum(_BITS[letter] for letter in set(rule.access))
    if rule.allow:
        body = [
            _instruction(_AND_IMMEDIATE, _R4, immediate=~bits & 7),
            _instruction(_JUMP_IF_NOT, _R4, offset=2, immediate=0),
        ]
    else:
        body = [
            _instruction(_MOV_REGISTER, _R0, _R4),
            _instruction(_AND_IMMEDIATE, _R0, immediate=bits),
            _instruction(_JUMP_IF_EQUAL, _R0, offset=2, immediate=0),
        ]
    body += _answer(allowed=rule.allow)
    for register, number in ((_R3, rule.minor), (_R5, rule.major), (_R2, _KINDS[rule.kind])):
        if number is not None:
            body.insert(0, _instruction(_JUMP_IF_NOT, register, offset=len(body), immediate=number))
    return body


# -- in the kernel ---------------------------------------------------------------------------------------------------


def install(directory: str, rules: Sequence[DeviceRule]) -> None:
    """Have a group of cgroup v2 use these rules instead of any it has. Raises ContainerError.

    The program goes with the group. Programs of groups above must allow an access as well.
    """
    code = program(rules)
    with _translated(directory), ExitStack() as stack:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, group)
        old = []
        for number in _attached(group):
            old.append(syscalls.bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0)))
            stack.callback(os.close, old[-1])
        new = _load(code)
        stack.callback(os.close, new)
        _exchange(group, new, old)


@contextmanager
def _translated(directory: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # of setrlimit: not allowed to raise it
        raise ContainerError("devices", errno.EPERM, f"{directory}: {error}") from error
    except OSError as error:
        raise ContainerError("devices", error.errno or 0, f"{directory}: {error.filename}") from error


def _load(code: bytes) -> int:
    """Return the fd of the loaded program. Before Linux 5.11 it counts against RLIMIT_MEMLOCK (EPERM)."""
    try:
        return _load_once(code)
    except PermissionError:
        before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if before[0] == resource.RLIM_INFINITY:
            raise
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        return _load_once(code)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


def _load_once(code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII16sI",
        _TYPE_CGROUP_DEVICE, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(licence),
        0, 0, 0, 0, 0, b"harness_devices", 0,
    )  # fmt: skip
    return syscalls.bpf(_PROG_LOAD, attributes)


def _attached(group: int) -> tuple[int, ...]:
    """Return the ids of the device programs that this group itself has."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    attributes = struct.pack("=IIIIQII", group, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS, 0)
    _, answer = syscalls.bpf_answer(_PROG_QUERY, attributes)
    count = struct.unpack_from("=I", answer, 24)[0]
    return tuple(ids[:count])


def _exchange(group: int, new: int, old: Sequence[int]) -> None:
    """Put the new program in the place of the old: at once (Linux 5.6), else before the old one goes."""
    if len(old) == 1:
        try:
            _attach(group, new, _ALLOW_MULTI | _REPLACE, old[0])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return
    _attach(group, new, _ALLOW_MULTI, 0)
    for fd in old:
        syscalls.bpf(_PROG_DETACH, struct.pack("=IIIII", group, fd, _ATTACH_CGROUP_DEVICE, 0, 0))


def _attach(group: int, program_fd: int, flags: int, replaced: int) -> None:
    attributes = struct.pack("=IIIII", group, program_fd, _ATTACH_CGROUP_DEVICE, flags, replaced)
    syscalls.bpf(_PROG_ATTACH, attributes)
