"""Seccomp filters, run here as the kernel would: which system calls they let through. Pure.

Source: kernel/seccomp.c (seccomp_run_filters, seccomp_check_filter), include/uapi/linux/{bpf_common,seccomp,audit}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, value: struct sock_filter."""
Program = tuple[Instruction, ...]

_INSTRUCTION = struct.Struct("=HBBI")
_WORD = 0xFFFFFFFF
ARCH_X86_64, ARCH_I386 = 0xC000003E, 0x40000003
X32_BIT = 0x40000000
ABIS = ("x86_64", "i386", "x32")
# Instruction classes and the parts of a code.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_ABSOLUTE, _IMMEDIATE, _MEMORY, _LENGTH = 0x20, 0x00, 0x60, 0x80
_DATA_BYTES = 64  # sizeof(struct seccomp_data)
# SECCOMP_RET_*: action, what it means to a call. The lowest signed number of all filters wins.
ALLOW, LOG, TRACE, NOTIFY = 0x7FFF0000, 0x7FFC0000, 0x7FF00000, 0x7FC00000
ERRNO, TRAP, KILL_THREAD, KILL_PROCESS = 0x00050000, 0x00030000, 0x00000000, 0x80000000
_ACTION, _RESULT = 0xFFFF0000, 0x0000FFFF
_SIGSYS = 31
KILLED = -1000
"""The probe's own way to say it: KILLED - n, where signal n ended the caller."""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call as a filter sees it (struct seccomp_data)."""

    arch: int
    number: int
    arguments: tuple[int, ...] = (0, 0, 0, 0, 0, 0)

    def words(self) -> tuple[int, ...]:
        """Return the data as 32-bit words, as a filter loads them; the instruction pointer is 0."""
        raw = struct.pack("=iIQ6Q", self.number, self.arch, 0, *(value & (1 << 64) - 1 for value in self.arguments))
        return struct.unpack(f"={_DATA_BYTES // 4}I", raw)


def call_of(abi: str, number: int, arguments: tuple[int, ...] = (0, 0, 0, 0, 0, 0)) -> Call:
    """Return a call through one of the three ways into an x86-64 kernel."""
    if abi == "i386":
        return Call(ARCH_I386, number, arguments)
    return Call(ARCH_X86_64, number | X32_BIT if abi == "x32" else number, arguments)


def parse(raw: bytes) -> Program:
    """Return a program from the bytes of its struct sock_filter. Raises: ValueError for part of one."""
    if not raw or len(raw) % _INSTRUCTION.size:
        raise ValueError(f"filter: {len(raw)} bytes: no whole number of instructions")
    return tuple(_INSTRUCTION.iter_unpack(raw))


class _Machine:
    """The registers of classic BPF."""

    __slots__ = ("a", "memory", "words", "x")

    def __init__(self, words: Sequence[int]) -> None:
        self.a = self.x = 0
        self.memory = [0] * 16
        self.words = words

    def load(self, code: int, value: int) -> int:
        mode = code & 0xE0
        if mode == _ABSOLUTE:
            return self.words[value // 4]
        if mode == _IMMEDIATE:
            return value
        if mode == _MEMORY:
            return self.memory[value]
        if mode == _LENGTH:
            return _DATA_BYTES
        raise ValueError(f"filter: code {code:#x}: unknown load")

    def compute(self, code: int, value: int) -> int:
        b = self.x if code & 0x08 else value
        operation = code & 0xF0
        if operation in {0x30, 0x90} and b == 0:
            raise ValueError("filter: a division by zero")
        results = {
            0x00: lambda: self.a + b, 0x10: lambda: self.a - b, 0x20: lambda: self.a * b, 0x30: lambda: self.a // b,
            0x40: lambda: self.a | b, 0x50: lambda: self.a & b, 0x60: lambda: self.a << b, 0x70: lambda: self.a >> b,
            0x80: lambda: -self.a, 0x90: lambda: self.a % b, 0xA0: lambda: self.a ^ b,
        }  # fmt: skip
        return results[operation]() & _WORD

    def holds(self, code: int, value: int) -> bool:
        b = self.x if code & 0x08 else value
        operation = code & 0xF0
        if operation == 0x10:
            return self.a == b
        if operation == 0x20:
            return self.a > b
        if operation == 0x30:
            return self.a >= b
        if operation == 0x40:
            return bool(self.a & b)
        raise ValueError(f"filter: code {code:#x}: unknown jump")

    def move(self, code: int, value: int) -> None:
        """Carry out one instruction that neither jumps nor ends."""
        kind = code & 7
        if kind == _LD:
            self.a = self.load(code, value)
        elif kind == _LDX:
            self.x = self.load(code, value)
        elif kind == _ST:
            self.memory[value] = self.a
        elif kind == _STX:
            self.memory[value] = self.x
        elif kind == _ALU:
            self.a = self.compute(code, value)
        elif code & 0xF8:
            self.a = self.x  # BPF_TXA
        else:
            self.x = self.a  # BPF_TAX


def run(program: Program, words: Sequence[int]) -> int:
    """Return what one filter says about a call. Raises: ValueError for a program that no kernel would take."""
    machine, at = _Machine(words), 0
    while at < len(program):  # jumps go forward only
        code, if_true, if_false, value = program[at]
        kind = code & 7
        if kind == _RET:
            return machine.a if code & 0x18 == 0x10 else value
        if kind == _JMP:
            jump = value if code & 0xF0 == 0 else if_true if machine.holds(code, value) else if_false
            at += 1 + jump
        else:
            machine.move(code, value)
            at += 1
    raise ValueError("filter: does not end")


def _signed(action: int) -> int:
    return action - (1 << 32) if action & 1 << 31 else action


def verdict(programs: Sequence[Program], call: Call) -> int:
    """Return what all filters together say of a call: 0 where it reaches the kernel, -errno, or KILLED - n.

    `programs` are newest first. All are run; the lowest action wins, and at a tie the newest (the first one).
    A call that a filter hands to a supervisor (NOTIFY) or a tracer is not counted as reaching: -ENOSYS without one.
    """
    words, result = call.words(), ALLOW
    for program in programs:
        said = run(program, words)
        if _signed(said & _ACTION) < _signed(result & _ACTION):
            result = said
    action = result & _ACTION
    if action in {ALLOW, LOG}:
        return 0
    if action == ERRNO:
        return -(result & _RESULT)
    return -38 if action in {TRACE, NOTIFY} else KILLED - _SIGSYS


@lru_cache(maxsize=64)
def codes(programs: tuple[Program, ...], abi: str, count: int) -> tuple[int, ...]:
    """Return the verdict on each number from 0 up, with arguments that are all 0. Cached: containers share filters."""
    if not programs:
        return (0,) * count
    return tuple(verdict(programs, call_of(abi, number)) for number in range(count))
