"""A shortened filter is held against libseccomp's plain one, both run by the interpreter beside these tests."""

from __future__ import annotations

import errno
import platform
import struct

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from test_container_seccomp import AARCH64, DOCKER_CAPABILITIES, I386, X32_BIT, X86_64, needs_library, run

from harness.container import seccomp
from harness.container.errors import ContainerError
from harness.container.seccomp import Arg, Profile, Rule
from harness.container.seccomp_default import default_profile
from harness.container.seccomp_tree import _NotUnderstood, _rebuild, shorten

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="system call numbers of x86-64")

# The calls whose arguments rules look at below: socket, clone, personality, dup2 of x86-64 and of i386.
WITH_ARGUMENTS = (41, 56, 135, 33, 359, 120, 136, 63)
ABIS = ((X86_64, 0), (X86_64, X32_BIT), (I386, 0), (AARCH64, 0), (0, 0))
EDGES = (X32_BIT - 1, 0x7FFFFFFF, 0x80000000, 0xBFFFFFFF, 0xFFFFFFFF)


def assert_same_answers(plain: bytes, short: bytes) -> None:
    for arch, bit in ABIS:
        for number in (*range(470), *EDGES):
            assert run(plain, number | bit, (), arch) == run(short, number | bit, (), arch), (hex(arch), number | bit)
        for number in WITH_ARGUMENTS:
            for first in (
                1,
                2,
                3,
                11,
                12,
                37,
                38,
                39,
                40,
                41,
                0x20008,
                0x10000000,
                0xFFFFFFFF,
                1 << 32 | 40,
                (1 << 64) - 1,
            ):
                for second in (0, 2):
                    args = (first, second)
                    assert run(plain, number | bit, args, arch) == run(short, number | bit, args, arch)


@needs_library
@pytest.mark.parametrize("capabilities", [DOCKER_CAPABILITIES, [*DOCKER_CAPABILITIES, "sys_admin"], []])
@pytest.mark.parametrize("level", [1, 2])
def test_the_default_profile_is_shortened_and_stays_the_same(capabilities: list[str], level: int) -> None:
    plain = seccomp._made_by_libseccomp(default_profile(capabilities), level).program
    short = shorten(plain)
    assert len(short) < len(plain) / 2
    assert_same_answers(plain, short)


@needs_library
def test_a_compiled_filter_is_a_shortened_one() -> None:
    profile = default_profile(DOCKER_CAPABILITIES)
    made = seccomp.compile_filter(profile).program
    shortened = shorten(seccomp._made_by_libseccomp(profile).program)
    assert made.endswith(shortened)
    assert len(made) - len(shortened) == 6 * seccomp.INSTRUCTION_BYTES  # for calls that nobody knows yet


@needs_library
def test_jumps_reach_as_far_as_they_must() -> None:
    """As many answers as calls: no two stretches can share anything, and the tree is far larger than a jump's reach."""
    names = sorted({name for rule in default_profile(()).rules for name in rule.names} - {"socket", "clone3"})
    rules = tuple(Rule((name,), "SCMP_ACT_ERRNO", 2 + index) for index, name in enumerate(names))
    family = Rule(("socket",), "SCMP_ACT_ALLOW", None, (Arg(0, 40, op="SCMP_CMP_NE"),))
    profile = Profile("SCMP_ACT_ERRNO", architectures=("SCMP_ARCH_X86", "SCMP_ARCH_X32"), rules=(*rules, family))
    plain = seccomp._made_by_libseccomp(profile, 1).program
    assert_same_answers(plain, _rebuild(plain))


args = st.builds(
    Arg,
    index=st.integers(0, 1),
    value=st.sampled_from([0, 1, 2, 40, 0x10000000, 0xFFFFFFFF, 1 << 32 | 40]),
    value_two=st.sampled_from([0, 40]),
    op=st.sampled_from(sorted(seccomp.OPERATORS)),
)
actions = st.sampled_from(
    [("SCMP_ACT_ERRNO", 38), ("SCMP_ACT_ERRNO", 5), ("SCMP_ACT_LOG", None), ("SCMP_ACT_KILL", None)]
)
names = st.sampled_from(
    "read write open close stat poll mmap ioctl dup2 socket clone personality mount ptrace statx clone3 futex_wait ipc "
    "socketcall accept semop time64 clock_gettime64 waitpid arch_prctl openat2".split()
)
plain_rules = st.builds(lambda names, act: Rule(tuple(names), *act), st.lists(names, min_size=1, max_size=8), actions)
arg_rules = st.builds(
    lambda name, act, args: Rule((name,), *act, tuple(args)),
    st.sampled_from(["dup2", "socket", "clone", "personality"]),
    actions,
    st.lists(args, min_size=1, max_size=2),
)
profiles = st.builds(
    Profile,
    default_action=st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"]),
    architectures=st.lists(st.sampled_from(["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"]), unique=True).map(
        tuple
    ),
    rules=st.lists(plain_rules | arg_rules, max_size=6).map(tuple),
)


@needs_library
@settings(max_examples=40)
@given(profile=profiles)
def test_any_profile_stays_the_same(profile: Profile) -> None:
    try:
        plain = seccomp._made_by_libseccomp(profile).program
    except ContainerError as error:
        if error.errno != errno.EEXIST:  # two rules that contradict each other
            raise
        reject()
    assert_same_answers(plain, _rebuild(plain))


def _program(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


@pytest.mark.parametrize("comparison", [0x15, 0x25, 0x35], ids=["equal", "greater", "not-less"])
def test_each_comparison_of_the_number(comparison: int) -> None:
    plain = _program((0x20, 0, 0, 4), (0x15, 1, 0, X86_64), (6, 0, 0, 7),
                     (0x20, 0, 0, 0), (comparison, 0, 1, 5), (6, 0, 0, 1), (6, 0, 0, 2))  # fmt: skip
    short = _rebuild(plain)
    assert [run(short, number) for number in range(10)] == [run(plain, number) for number in range(10)]
    assert len({run(short, number) for number in range(10)}) == 2
    assert run(short, 5, arch=I386) == 7


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param(((0x20, 0, 0, 0), (0x54, 0, 0, 1), (0x15, 0, 1, 1)), id="masked-number"),
        pytest.param(((0x20, 0, 0, 0), (0x45, 0, 1, 1)), id="bits-of-the-number"),
        pytest.param(((0x20, 0, 0, 0), (0x02, 0, 0, 0)), id="memory"),
        pytest.param(((0x20, 0, 0, 4), (0x35, 0, 1, 5)), id="a-range-of-architectures"),
    ],
)
def test_what_is_not_understood_is_left_as_it_is(strange: tuple[tuple[int, int, int, int], ...]) -> None:
    program = _program(*strange, (6, 0, 0, 1), (6, 0, 0, 2))
    with pytest.raises(_NotUnderstood):
        _rebuild(program)
    assert shorten(program) == program


def test_what_would_not_be_shorter_is_left_as_it_is() -> None:
    program = _program((6, 0, 0, 1))
    assert shorten(program) == program
