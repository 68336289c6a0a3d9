"""One step of a plan, and how plans travel: strings, each with its NUL, as `csrc/launch/plan.c` reads them."""

from __future__ import annotations

from collections.abc import Sequence

from harness.container.errors import ContainerError
from harness.container.frozen import Frozen


class Step(Frozen):
    """One thing that the launcher does; `args` as strings, since that is how they travel."""

    name: str
    args: tuple[str, ...] = ()

    def __init__(self, name: str, args: tuple[str, ...] = ()) -> None:
        _put_name(self, name)  # by hand: a start makes seventy, on the clock
        _put_args(self, args)

    def __str__(self) -> str:
        """A system call shows as itself: `call unshare 0x2000000` is `unshare 0x2000000`."""
        shown = [repr(arg) if not arg or set(arg) & {" ", "\n"} else arg for arg in self.args]
        return " ".join(shown if self.name == "call" else (self.name, *shown))


_put_name, _put_args = Step._puts


def call(name: str, *args: int | str) -> Step:
    """One system call of the launcher's table (`csrc/launch/process.c`)."""
    return Step("call", (name, *map(str, args)))


def tolerant(number: int, step: Step) -> Step:
    """Return a system call for which this errno is no failure."""
    return Step("try", (str(number), *step.args))


def packed(*numbers: int) -> str:
    """Return numbers as a system call's argument that has them in memory; how wide they are is the call's affair."""
    return ",".join(map(str, numbers))


def halves(number: int) -> tuple[int, int]:
    """Return 64 bits as the two words of 32 that they are in memory (little-endian, as all that we run on)."""
    return number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF


def encode(steps: Sequence[Step]) -> bytes:
    """Return the plan as the launcher reads it. Raises ContainerError for a NUL in it."""
    words = [word for step in steps for word in (step.name, str(len(step.args)), *step.args)]
    for word in words:
        if "\0" in word:
            raise ContainerError("plan", 0, f"{word!r}: contains a NUL byte")
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)
