"""Device rules: the program of cgroup v2 and the list of v1 decide as the rules say, whatever the rules."""

import operator
import struct
from collections.abc import Callable

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from harness.container import device_rules, devices_bpf
from harness.container.errors import ContainerError
from harness.container.resources import DEFAULT_DEVICE_RULES, DeviceRule

BITS = {"m": 1, "r": 2, "w": 4}
KINDS = {"b": 1, "c": 2}
MASK = (1 << 32) - 1


ARITHMETIC: dict[int, Callable[[int, int, int], int]] = {  # of target, source and immediate
    0xB4: lambda _target, _source, immediate: immediate,
    0xBC: lambda _target, source, _immediate: source,
    0x54: lambda target, _source, immediate: target & immediate,
    0x74: lambda target, _source, immediate: (target & MASK) >> immediate,
}
JUMPS: dict[int, Callable[[int, int], bool]] = {0x15: operator.eq, 0x55: operator.ne}
LOAD, EXIT = 0x61, 0x95


def run(code: bytes, kind: str, major: int, minor: int, access: str) -> int:
    """Run the few instructions that a program has, as the kernel's instruction-set.rst describes them."""
    context = struct.pack("=III", sum(BITS[letter] for letter in access) << 16 | KINDS[kind], major, minor)
    registers = [0] * 11
    at = 0
    while True:  # every jump goes forward
        operation, both, offset, immediate = struct.unpack_from("=BBhi", code, at * 8)
        target, source = both & 15, both >> 4
        at += 1
        if operation == EXIT:
            return registers[0]
        if operation == LOAD:
            registers[target] = struct.unpack_from("=I", context, offset)[0]
        elif operation in JUMPS:
            assert offset >= 0
            at += offset if JUMPS[operation](registers[target], immediate) else 0
        else:
            registers[target] = ARITHMETIC[operation](registers[target], registers[source], immediate) & MASK


def fits(rule: DeviceRule, kind: str, major: int, minor: int) -> bool:
    return rule.kind in {"a", kind} and rule.major in {None, major} and rule.minor in {None, minor}


def decide(rules: tuple[DeviceRule, ...], kind: str, major: int, minor: int, access: str) -> bool:
    """Each access is decided by the last rule that names it for the device; without one it is refused."""
    answers = []
    for letter in access:
        fitting = [rule.allow for rule in rules if fits(rule, kind, major, minor) and letter in rule.access]
        answers.append(bool(fitting) and fitting[-1])
    return all(answers)


def decide_v1(policy: device_rules.Policy, kind: str, major: int, minor: int, access: str) -> bool:
    """As the kernel does (security/device_cgroup.c, devcgroup_legacy_check_permission): by single exceptions."""
    hits = [
        set(letters)
        for (its, ma, mi), letters in policy.exceptions
        if its == kind and ma in {None, major} and mi in {None, minor}
    ]
    if policy.allow:
        return not any(set(access) & letters for letters in hits)
    return any(set(access) <= letters for letters in hits)


NUMBERS = st.integers(0, 3)
ACCESS = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda letters: "".join(sorted(letters)))
RULES = st.lists(
    st.one_of(
        st.builds(DeviceRule, allow=st.booleans()),
        st.builds(
            DeviceRule, allow=st.booleans(), kind=st.sampled_from("bc"), major=st.none() | NUMBERS,
            minor=st.none() | NUMBERS, access=ACCESS,
        ),
    ),
    max_size=8,
).map(tuple)  # fmt: skip
DEVICE = {"kind": st.sampled_from("bc"), "major": NUMBERS, "minor": NUMBERS, "access": ACCESS}


@given(rules=RULES, **DEVICE)
def test_program_decides_as_the_rules_say(
    rules: tuple[DeviceRule, ...], kind: str, major: int, minor: int, access: str
) -> None:
    assert run(devices_bpf.program(rules), kind, major, minor, access) == decide(rules, kind, major, minor, access)


@given(rules=RULES, **DEVICE)
def test_list_of_v1_decides_as_the_rules_say_or_is_refused(
    rules: tuple[DeviceRule, ...], kind: str, major: int, minor: int, access: str
) -> None:
    try:
        policy = device_rules.policy(rules)
    except ContainerError:
        event("refused")
    else:
        event("decided")
        assert decide_v1(policy, kind, major, minor, access) == decide(rules, kind, major, minor, access)


@pytest.mark.parametrize(
    ("device", "allowed"),
    [
        (("c", 1, 3, "rw"), True), (("c", 1, 5, "rwm"), True), (("c", 136, 7, "rw"), True), (("c", 5, 2, "rw"), True),
        (("c", 10, 200, "rw"), True), (("b", 8, 0, "m"), True), (("c", 1, 1, "m"), True),
        (("b", 8, 0, "r"), False), (("c", 1, 1, "rw"), False), (("c", 5, 1, "w"), False), (("c", 10, 229, "rw"), False),
    ],
)  # fmt: skip
def test_default_rules(device: tuple[str, int, int, str], *, allowed: bool) -> None:
    assert run(devices_bpf.program(DEFAULT_DEVICE_RULES), *device) == allowed
    assert decide_v1(device_rules.policy(DEFAULT_DEVICE_RULES), *device) == allowed


def test_no_rules_refuse_everything() -> None:
    assert run(devices_bpf.program(()), "c", 1, 3, "r") == 0


def test_both_rules_that_overlap_count_on_v1() -> None:
    """O_RDWR needs one exception with both accesses, so that of the overlap is made."""
    reads, writes = (
        DeviceRule(allow=True, kind="c", major=1, access="r"),
        DeviceRule(allow=True, kind="c", minor=2, access="w"),
    )
    assert (("c", 1, 2), "rw") in device_rules.policy((reads, writes)).exceptions
