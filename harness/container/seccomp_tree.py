"""A filter's look-up of the system call, made shorter: by ranges of numbers instead of one comparison for each number.

libseccomp writes a comparison for every call that a rule names, though what a profile allows are long runs of numbers.
The kernel checks, translates and compiles every instruction when a filter is attached, and then runs it for each
number there is (seccomp_cache_prepare, kernel/seccomp.c, Linux 5.11), so that a container's start pays for the length.

What a filter answers depends on architecture and number only through comparisons with constants. Between two
neighbouring constants it does the same for all; so to follow it once for each stretch finds all that it can do. From
that the shorter one is built: a search tree of the stretches, and the checks of arguments as they were.
"""

from __future__ import annotations

import struct
from itertools import pairwise

_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data, include/uapi/linux/seccomp.h
_FARTHEST = 255  # struct sock_filter: jt and jf are bytes

# include/uapi/linux/bpf_common.h
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_EQUAL, _GREATER, _NOT_LESS, _BITS = 0x15, 0x25, 0x35, 0x45  # BPF_JMP | BPF_J..., BPF_K


_Instruction = tuple[int, int, int, int]
"""`struct sock_filter`: code, jump if true, jump if false, k."""

_Code = list[_Instruction]
_Block = tuple[_Instruction, ...]
"""What is left to do when number and architecture are known: one return, or the checks of the arguments."""


class _NotUnderstood(Exception):
    """The program does something with number or architecture that libseccomp does not."""


def shorten(program: bytes) -> bytes:
    """Return a program that answers every call as `program` does, or `program` itself where no shorter one is found."""
    try:
        shorter = _rebuild(program)
    except _NotUnderstood:
        return program
    return min(program, shorter, key=len)


# -- what a program does ---------------------------------------------------------------------------------------------


def _next(code: _Code, at: int) -> list[int]:
    """Return where it may go on after the instruction at `at`, which must be one of those that are understood."""
    operation, if_true, if_false, k = code[at]
    if operation == _RETURN:
        return []
    if operation in {_LOAD, _AND}:
        return [at + 1]
    if operation == _JUMP:
        return [at + 1 + k]
    if operation in {_EQUAL, _GREATER, _NOT_LESS, _BITS}:
        return [at + 1 + if_true, at + 1 + if_false]
    raise _NotUnderstood


def _boundaries(code: _Code) -> dict[int, list[int]]:
    """Return, for number and architecture, the values at which what the program does may change; 0 is the first."""
    found: dict[int, set[int]] = {_NUMBER: {0}, _ARCHITECTURE: {0}}
    todo, seen = [(0, -1)], set()
    while todo:
        at, held = todo.pop()
        if (at, held) in seen:
            continue
        seen.add((at, held))
        operation, _, _, k = code[at]
        if operation == _LOAD:
            held = k
        elif held in found and operation != _JUMP:
            found[held] |= _changes(operation, k)
        todo += [(target, held) for target in _next(code, at)]
    return {offset: sorted(value for value in values if value < 1 << 32) for offset, values in found.items()}


def _changes(operation: int, k: int) -> set[int]:
    changes = {_EQUAL: {k, k + 1}, _GREATER: {k + 1}, _NOT_LESS: {k}, _RETURN: set[int]()}
    if operation not in changes:
        raise _NotUnderstood
    return changes[operation]


def _follow(code: _Code, architecture: int, number: int) -> int:
    """Return where the program comes to when it loads something else, or returns."""
    at, held = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        if operation == _LOAD and k in {_NUMBER, _ARCHITECTURE}:
            held = number if k == _NUMBER else architecture
        elif operation in {_LOAD, _RETURN}:
            return at - 1
        elif operation == _JUMP:
            at += k
        elif operation == _EQUAL:
            at += if_true if held == k else if_false
        else:
            at += if_true if held > k or (operation == _NOT_LESS and held == k) else if_false


def _block(code: _Code, start: int) -> _Block:
    """Return all that can follow from an instruction on, closed up."""
    reached, todo = set(), [start]
    while todo:
        at = todo.pop()
        if at not in reached:
            reached.add(at)
            todo += _next(code, at)
    place = {at: index for index, at in enumerate(sorted(reached))}

    def moved(at: int) -> _Instruction:
        operation, _, _, k = code[at]
        targets = [place[target] - place[at] - 1 for target in _next(code, at)]
        if operation == _JUMP:
            return (operation, 0, 0, targets[0])
        if len(targets) == 2:
            return (operation, targets[0], targets[1], k)
        return code[at]

    return tuple(moved(at) for at in place)


_Stretches = list[tuple[int, _Block]]
"""From which value on, what is done; neighbours differ."""


def _stretches(code: _Code, architecture: int, numbers: list[int], blocks: dict[int, _Block]) -> _Stretches:
    found: _Stretches = []
    for number in numbers:
        at = _follow(code, architecture, number)
        if at not in blocks:
            blocks[at] = _block(code, at)
        if not found or found[-1][1] != blocks[at]:
            found.append((number, blocks[at]))
    return found


# -- the program that does the same ----------------------------------------------------------------------------------


class _Writer:
    """A program written from its end, so that where a jump leads is always known. Places count from the end."""

    def __init__(self) -> None:
        self.backwards: _Code = []
        self._blocks: dict[_Block, int] = {}

    def add(self, code: int, k: int, if_true: int = 0, if_false: int = 0) -> int:
        self.backwards.append((code, if_true, if_false, k))
        return len(self.backwards) - 1

    def _near(self, place: int) -> int:
        """Return a place from which `place` follows, within reach of a comparison that is the next or the one after."""
        distance = len(self.backwards) - place
        if distance < _FARTHEST:
            return place
        code, _, _, k = self.backwards[place]
        return self.add(_RETURN, k) if code == _RETURN else self.add(_JUMP, distance - 1)

    def choose(self, code: int, k: int, true: int, false: int) -> int:
        """Add a comparison that goes on at one of two places."""
        true = self._near(true)
        false = self._near(false)
        here = len(self.backwards)
        return self.add(code, k, here - true - 1, here - false - 1)

    def block(self, block: _Block) -> int:
        """Return the place of a block, which is written once, but for returns that are too far away."""
        place = self._blocks.get(block)
        if place is None or (len(block) == 1 and len(self.backwards) - place >= _FARTHEST):
            self.backwards += reversed(block)
            place = self._blocks[block] = len(self.backwards) - 1
        return place

    def search(self, stretches: _Stretches) -> int:
        """Add a search tree; where a single number interrupts a stretch, one comparison for equality."""
        if len(stretches) == 1:
            return self.block(stretches[0][1])
        if len(stretches) == 3:
            (_, around), (number, single), (end, after) = stretches
            if around == after and end == number + 1:
                outside, inside = self.block(around), self.block(single)
                return self.choose(_EQUAL, number, inside, outside)
        middle = len(stretches) // 2 | 1  # odd, so that more of them come down to three
        above, below = self.search(stretches[middle:]), self.search(stretches[:middle])
        return self.choose(_NOT_LESS, stretches[middle][0], above, below)


def _rebuild(program: bytes) -> bytes:
    code = [*struct.iter_unpack("=HBBI", program)]
    boundaries = _boundaries(code)
    blocks: dict[int, _Block] = {}
    found: list[tuple[int, _Stretches]] = []
    for architecture in boundaries[_ARCHITECTURE]:
        stretches = _stretches(code, architecture, boundaries[_NUMBER], blocks)
        if not found or found[-1][1] != stretches:
            found.append((architecture, stretches))
    other = found[0][1]  # of the architectures that are not asked for; each that is, is one number
    own = [(value, what) for value, what in found if what != other]
    ends = {value: end for (value, _), (end, _) in pairwise(found)}
    if len(other) != 1 or any(ends.get(value) != value + 1 for value, _ in own):
        raise _NotUnderstood
    writer = _Writer()
    places = []
    for value, stretches in own:
        tree = writer.search(stretches)
        places.append((value, tree if len(stretches) == 1 else _after_load(writer, tree)))
    last = writer.block(other[0][1])
    for value, place in places:
        last = writer.choose(_EQUAL, value, place, last)
    _after_load(writer, last, _ARCHITECTURE)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in reversed(writer.backwards))


def _after_load(writer: _Writer, place: int, offset: int = _NUMBER) -> int:
    """Load the number, then go on at `place`."""
    distance = len(writer.backwards) - place - 1
    if distance:
        writer.add(_JUMP, distance)
    return writer.add(_LOAD, offset)
