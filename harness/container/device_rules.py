"""What a list of device rules means: pure, and the same for cgroup v1 (a list of exceptions) and v2 (a program).

Each access (read, write, mknod) is decided by the last rule that fits the device and names that access; where none
does, it is refused. A rule for all devices ("a") forgets those before it, as in the kernel's `devices.allow` and
`devices.deny`, and cannot be narrowed.

Source: Documentation/admin-guide/cgroup-v1/devices.rst of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.container.errors import ContainerError
from harness.container.frozen import Frozen
from harness.container.resources import DeviceRule

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

ACCESS = "rwm"
_NUMBERS = 1 << 31  # of a major or minor: more than any device has, and still a positive immediate of an instruction

Key: TypeAlias = 'tuple[Literal["b", "c"], int | None, int | None]'


class Policy(Frozen):
    """What happens to a device that no exception covers, and the exceptions from that, in the order of the rules."""

    allow: bool
    exceptions: tuple[tuple[Key, str], ...]


def effective(rules: Sequence[DeviceRule]) -> tuple[bool, tuple[DeviceRule, ...]]:
    """Return what holds where no rule fits, and the rules after the last one for all devices.

    Raises ContainerError for a rule that means nothing: no or unknown access, a number out of range, a narrowed "a".
    """
    for number, rule in enumerate(rules):
        _check(rule, f"devices[{number}]")
    last = max((number for number, rule in enumerate(rules) if rule.kind == "a"), default=-1)
    return last >= 0 and rules[last].allow, tuple(rules[last + 1 :])


def _check(rule: DeviceRule, where: str) -> None:
    if not rule.access or set(rule.access) - set(ACCESS):
        raise ContainerError("cgroup", 0, f"{where}.access: {rule.access!r}: not of r, w and m")
    for name, number in (("major", rule.major), ("minor", rule.minor)):
        if number is not None and not 0 <= number < _NUMBERS:
            raise ContainerError("cgroup", 0, f"{where}.{name}: {number}: out of range")
    if rule.kind == "a" and (rule.major is not None or rule.minor is not None or set(rule.access) != set(ACCESS)):
        raise ContainerError("cgroup", 0, f"{where}: a rule of type a is for every device and access; say b or c")


def policy(rules: Sequence[DeviceRule]) -> Policy:
    """Return the rules as cgroup v1 can hold them: exceptions from one default.

    Raises ContainerError for what it cannot: a hole in a wider exception (the kernel ignores such a line silently).
    """
    allow, after = effective(rules)
    found: dict[Key, frozenset[str]] = {}
    for rule in after:
        assert rule.kind != "a"
        key: Key = (rule.kind, rule.major, rule.minor)
        if rule.allow != allow:
            found[key] = found.get(key, frozenset()) | set(rule.access)
        else:
            found = {other: _without(other, had, key, rule) for other, had in found.items()}
    _close(found)
    kept = [(key, "".join(c for c in ACCESS if c in access)) for key, access in found.items() if access]
    return Policy(allow, tuple(kept))


def _without(other: Key, had: frozenset[str], key: Key, rule: DeviceRule) -> frozenset[str]:
    """Return what is left of an exception once a rule took its devices back."""
    if meet(other, key) is None or not had & set(rule.access):
        return had
    if meet(other, key) != other:
        raise ContainerError(
            "cgroup", 0, f"devices: {line(key, rule.access)}: cgroup v1 makes no hole in {line(other)}"
        )
    return had - set(rule.access)


def _close(found: dict[Key, frozenset[str]]) -> None:
    """Let every exception, and every overlap of two, read and write what the wider ones let it.

    The kernel grants O_RDWR only where one exception has both. mknod is asked for alone: another may grant it.
    """
    pending = list(found)
    while pending:
        key = pending.pop()
        overlaps = {both for other in found if (both := meet(key, other)) is not None and both not in found}
        found.update(dict.fromkeys(overlaps, frozenset()))
        pending += overlaps
    wider = {key: [other for other in found if meet(key, other) == key] for key in found}
    found.update({key: found[key].union(*(found[other] - {"m"} for other in others)) for key, others in wider.items()})


def meet(one: Key, two: Key) -> Key | None:
    """Return the devices that are in both, None where there are none."""
    if one[0] != two[0]:
        return None
    numbers = []
    for mine, its in zip(one[1:], two[1:], strict=True):
        if mine is not None and its is not None and mine != its:
            return None
        numbers.append(its if mine is None else mine)
    return one[0], numbers[0], numbers[1]


def line(key: Key, access: str = "") -> str:
    """Return a line of devices.allow, devices.deny and devices.list."""
    kind, major, minor = key
    return f"{kind} {'*' if major is None else major}:{'*' if minor is None else minor} {access}".rstrip()
