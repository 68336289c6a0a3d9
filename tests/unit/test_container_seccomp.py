"""Filters are run here, by an interpreter of classic BPF, and not loaded: what they answer is what counts."""

from __future__ import annotations

import functools
import json
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from harness.container import libseccomp, seccomp
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.seccomp import Arg, Profile, Rule
from harness.container.seccomp_default import _BY_CAPABILITY, _traceable, default_profile


def _no_library() -> bool:
    try:
        libseccomp.load(libseccomp.find()[0])
    except ContainerError:
        return True
    return False


needs_library = pytest.mark.skipif(_no_library(), reason="no libseccomp.so.2")
x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="system call numbers of x86-64")

# Source: moby, daemon/pkg/oci/caps/defaults.go.
DOCKER_CAPABILITIES = (
    "chown dac_override fsetid fowner mknod net_raw setgid setuid setfcap setpcap net_bind_service sys_chroot kill "
    "audit_write"
).split()

CONTAINERS_COMMON = Path("/usr/share/containers/seccomp.json")

# AUDIT_ARCH_* of include/uapi/linux/audit.h; __X32_SYSCALL_BIT of asm/unistd.h.
X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
X32_BIT = 0x40000000

KILL, ALLOW = 0x00000000, 0x7FFF0000
EPERM, ENOSYS = 0x00050001, 0x00050026

READ, SOCKET, CLONE, PTRACE, PERSONALITY, CHROOT, MOUNT, REBOOT, KEYCTL = 0, 41, 56, 101, 135, 161, 165, 169, 250
UNSHARE, BPF, IO_URING_SETUP, CLONE3 = 272, 321, 425, 435
NAME_TO_HANDLE_AT, PROCESS_VM_READV, PKEY_ALLOC, CACHESTAT, FCHMODAT2 = 303, 310, 330, 451, 452

SMALL = Profile("SCMP_ACT_ERRNO", rules=(Rule(("read", "write"), "SCMP_ACT_ALLOW"),))


@pytest.fixture(autouse=True)
def _no_memory() -> Iterator[None]:
    seccomp.forget()
    yield
    seccomp.forget()


@functools.cache
def _instructions(program: bytes) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("=HBBI", program))


def run(program: bytes, number: int, args: tuple[int, ...] = (), arch: int = X86_64) -> int:
    """Return the action of a filter for a call (`struct seccomp_data`: number, architecture, address, arguments)."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *args, *([0] * (6 - len(args))))
    code = _instructions(program)
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        match operation:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                assert k % 4 == 0
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= k
            case 0x06:  # BPF_RET | BPF_K
                return k
            case 0x05:  # BPF_JMP | BPF_JA
                at += k
            case 0x15 | 0x25 | 0x35 | 0x45:  # JEQ, JGT, JGE, JSET, each with BPF_K
                holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}
                at += if_true if holds.get(operation, accumulator & k != 0) else if_false
            case _:
                raise AssertionError(f"instruction {at - 1}: {operation:#x}: not expected in a filter of libseccomp")


@functools.cache
def program_for(*capabilities: str) -> bytes:
    return seccomp.compile_profile(default_profile(capabilities))


@pytest.fixture(scope="module")
def docker() -> bytes:
    return program_for(*DOCKER_CAPABILITIES)


# -- the default profile ---------------------------------------------------------------------------------------------


@needs_library
@x86_64_only
@pytest.mark.parametrize(
    ("number", "args", "action"),
    [
        pytest.param(READ, (), ALLOW, id="read"),
        pytest.param(MOUNT, (), EPERM, id="mount"),
        pytest.param(UNSHARE, (0x10000000,), EPERM, id="unshare"),
        pytest.param(KEYCTL, (), EPERM, id="keyctl"),
        pytest.param(BPF, (), EPERM, id="bpf"),
        pytest.param(IO_URING_SETUP, (), EPERM, id="io_uring"),
        pytest.param(PTRACE, (), ALLOW, id="ptrace"),
        pytest.param(CHROOT, (), ALLOW, id="chroot"),
        pytest.param(REBOOT, (), EPERM, id="reboot"),
        pytest.param(CLONE3, (), ENOSYS, id="clone3"),
        pytest.param(PKEY_ALLOC, (), ENOSYS, id="pkey_alloc"),
        pytest.param(CACHESTAT, (), ENOSYS, id="cachestat"),
        pytest.param(FCHMODAT2, (), ENOSYS, id="fchmodat2"),
        pytest.param(PROCESS_VM_READV, (), EPERM, id="process_vm_readv"),
        pytest.param(NAME_TO_HANDLE_AT, (), EPERM, id="name_to_handle_at"),
        pytest.param(CLONE, (0x11,), ALLOW, id="fork"),
        pytest.param(CLONE, (0x3D0F00,), ALLOW, id="thread"),
        pytest.param(CLONE, (0x10000011,), EPERM, id="clone-user"),
        pytest.param(CLONE, (0x00020011,), EPERM, id="clone-mount"),
        pytest.param(CLONE, (0x02000011,), EPERM, id="clone-cgroup"),
        pytest.param(CLONE, (0x1_0000_0011,), ALLOW, id="clone-high-bits"),
        pytest.param(SOCKET, (1,), ALLOW, id="unix"),
        pytest.param(SOCKET, (10,), ALLOW, id="inet6"),
        pytest.param(SOCKET, (16,), ALLOW, id="netlink"),
        pytest.param(SOCKET, (45,), ALLOW, id="mctp"),
        pytest.param(SOCKET, (12,), EPERM, id="decnet"),
        pytest.param(SOCKET, (38,), EPERM, id="alg"),
        pytest.param(SOCKET, (40,), EPERM, id="vsock"),
        pytest.param(SOCKET, (46,), EPERM, id="a-family-to-come"),
        pytest.param(PERSONALITY, (0x20008,), ALLOW, id="personality-linux32"),
        pytest.param(PERSONALITY, (0xFFFFFFFF,), ALLOW, id="personality-query"),
        pytest.param(PERSONALITY, (0x0040000,), EPERM, id="personality-no-randomize"),
    ],
)
def test_dockers_capabilities(docker: bytes, number: int, args: tuple[int, ...], action: int) -> None:
    assert run(docker, number, args) == action


@needs_library
@x86_64_only
@pytest.mark.parametrize("number", [MOUNT, UNSHARE, BPF, CLONE3], ids=["mount", "unshare", "bpf", "clone3"])
def test_sys_admin_allows(number: int) -> None:
    program = program_for(*DOCKER_CAPABILITIES, "sys_admin")
    assert run(program, number) == ALLOW
    assert run(program, CLONE, (0x10000011,)) == ALLOW
    assert run(program, KEYCTL) == EPERM


@needs_library
@x86_64_only
@pytest.mark.parametrize(
    ("capability", "number"),
    [
        ("dac_read_search", 304), ("sys_boot", REBOOT), ("sys_chroot", CHROOT), ("sys_module", 175), ("sys_pacct", 163),
        ("sys_ptrace", 312), ("sys_rawio", 172), ("sys_time", 164), ("sys_tty_config", 153), ("sys_nice", 237),
        ("syslog", 103), ("bpf", BPF), ("perfmon", 298),
    ],
)  # fmt: skip
def test_a_capability_opens_its_calls_and_only_it(capability: str, number: int) -> None:
    everything_else = set(_BY_CAPABILITY) - {capability, "sys_admin"}
    assert run(program_for(capability), number) == ALLOW
    assert run(program_for(*everything_else), number) == EPERM


@needs_library
@x86_64_only
def test_other_abis_follow_the_same_rules(docker: bytes) -> None:
    assert run(docker, 3, arch=I386) == ALLOW  # read
    assert run(docker, 21, arch=I386) == EPERM  # mount
    assert run(docker, 435, arch=I386) == ENOSYS  # clone3
    assert run(docker, 359, (40,), arch=I386) == EPERM  # socket(AF_VSOCK)
    assert run(docker, READ | X32_BIT) == ALLOW
    assert run(docker, MOUNT | X32_BIT) == EPERM
    assert run(docker, 0, arch=AARCH64) == KILL


@needs_library
@x86_64_only
def test_without_sub_architectures_other_abis_are_killed() -> None:
    program = seccomp.compile_profile(SMALL)
    assert run(program, 3, arch=I386) == KILL
    assert run(program, READ | X32_BIT) == KILL
    assert run(program, READ) == ALLOW


def test_the_kernel_must_be_4_8_for_tracing() -> None:
    assert [_traceable(release) for release in ("4.7.10", "4.8", "4.19.0-rc1", "6.1.0-56-amd64", "5")] == [
        False, True, True, True, True,
    ]  # fmt: skip


def test_no_name_is_twice_in_a_rule() -> None:
    for rule in default_profile(_BY_CAPABILITY).rules:
        assert len(set(rule.names)) == len(rule.names)


# -- beside containers-common ----------------------------------------------------------------------------------------

# Calls that one profile allows and the other does not, with Docker's capabilities.
ONLY_THEIRS = {
    "leave it to the kernel to ask for CAP_SYS_ADMIN": (103, 165, 166, 272, 308, 428, 429, 430, 431, 432, 433, 442),
    "leave it to the kernel to ask for CAP_SYS_BOOT or CAP_SYS_NICE": (169, 237, 238, 239),
    "let clone3(2) make namespaces: its flags cannot be seen": (435,),
    "let keyrings be used, pid descriptors be copied, and the root be changed": (250, 438, 155),
    "file handles, memory of others, protection keys: not in Docker 20.10": (
        303,
        310,
        311,
        329,
        330,
        331,
    ),
}
ONLY_OURS = {
    "vmsplice and io_pgetevents: allowed by Docker": (278, 333),
    "newer than their profile: futex_waitv": (449,),
}


def _read_profile(path: Path, capabilities: Collection[str]) -> Profile:
    """Return the rules of a profile in Docker's form, whose rules may depend on architecture and capabilities."""
    held = {f"CAP_{name.upper()}" for name in capabilities}
    document = json.loads(path.read_text())
    rules = []
    for entry in document["syscalls"]:
        wanted, unwanted = entry.get("includes", {}), entry.get("excludes", {})
        included = set(wanted.get("caps", ())) <= held and "amd64" in wanted.get("arches", ["amd64"])
        excluded = held & set(unwanted.get("caps", ())) or "amd64" in unwanted.get("arches", ())
        if included and not excluded:
            args = tuple(
                Arg(arg["index"], arg["value"], arg.get("valueTwo", 0), arg["op"]) for arg in entry.get("args") or ()
            )
            errno = entry.get("errnoRet") if entry["action"] == "SCMP_ACT_ERRNO" else None
            rules.append(Rule(tuple(entry["names"]), entry["action"], errno, args))
    return Profile(
        document["defaultAction"],
        document.get("defaultErrnoRet"),
        ("SCMP_ARCH_X86", "SCMP_ARCH_X32"),
        rules=tuple(rules),
    )


def _allowed(profile: Profile) -> set[int]:
    program = seccomp.compile_profile(profile)
    return {number for number in range(471) if run(program, number) == ALLOW}


@needs_library
@x86_64_only
@pytest.mark.skipif(not CONTAINERS_COMMON.exists(), reason=f"no {CONTAINERS_COMMON} (golang-github-containers-common)")
def test_reach_beside_containers_common() -> None:
    theirs = _allowed(_read_profile(CONTAINERS_COMMON, DOCKER_CAPABILITIES))
    ours = _allowed(default_profile(DOCKER_CAPABILITIES))
    assert theirs - ours == {number for numbers in ONLY_THEIRS.values() for number in numbers}
    assert ours - theirs <= {number for numbers in ONLY_OURS.values() for number in numbers}
    assert len(ours & theirs) > 280


# -- beside Docker ---------------------------------------------------------------------------------------------------


@needs_library
@x86_64_only
@pytest.mark.parametrize("arch", [X86_64, I386], ids=["x86-64 and x32", "i386"])
def test_no_call_is_let_through_that_docker_refuses(docker: bytes, arch: int) -> None:
    """Docker 20.10.24's filter as the kernel held it (Linux 6.18, libseccomp 2.5.4), number by number."""
    theirs = (Path(__file__).parents[1] / "data" / "docker-20.10.24" / "default.bpf").read_bytes()
    numbers = [*range(512), *(number | X32_BIT for number in range(512) if arch == X86_64)]
    wider = [n for n in numbers if run(docker, n, arch=arch) == ALLOW != run(theirs, n, arch=arch)]
    assert wider == []
    narrower = {n & ~X32_BIT for n in numbers if run(docker, n, arch=arch) != ALLOW == run(theirs, n, arch=arch)}
    assert narrower == {425, 426, 427}, "io_uring"
    for family in range(60):
        assert run(docker, SOCKET, (family,)) != ALLOW or run(theirs, SOCKET, (family,)) == ALLOW
    for flag in range(32):
        assert run(docker, CLONE, (1 << flag,)) != ALLOW or run(theirs, CLONE, (1 << flag,)) == ALLOW
        assert run(docker, PERSONALITY, (1 << flag,)) != ALLOW or run(theirs, PERSONALITY, (1 << flag,)) == ALLOW


# -- rules of all kinds ----------------------------------------------------------------------------------------------


def _one(action: str = "SCMP_ACT_ALLOW", errno: int | None = None, *args: Arg, name: str = "personality") -> Profile:
    return Profile("SCMP_ACT_ERRNO", rules=(Rule((name,), action, errno, args),))


@needs_library
@x86_64_only
@pytest.mark.parametrize(
    ("arg", "holds", "fails"),
    [
        (Arg(0, 5, op="SCMP_CMP_NE"), 4, 5),
        (Arg(0, 5, op="SCMP_CMP_LT"), 4, 5),
        (Arg(0, 5, op="SCMP_CMP_LE"), 5, 6),
        (Arg(0, 5, op="SCMP_CMP_EQ"), 5, 1 << 32 | 5),
        (Arg(0, 5, op="SCMP_CMP_GE"), 5, 4),
        (Arg(0, 5, op="SCMP_CMP_GT"), 1 << 40, 5),
        (Arg(0, 0xF0, 0x50, "SCMP_CMP_MASKED_EQ"), 0x5F, 0x6F),
    ],
    ids=lambda value: value.op if isinstance(value, Arg) else None,
)
def test_operators(arg: Arg, holds: int, fails: int) -> None:
    program = seccomp.compile_profile(_one("SCMP_ACT_ALLOW", None, arg))
    assert run(program, PERSONALITY, (holds,)) == ALLOW
    assert run(program, PERSONALITY, (fails,)) == EPERM


@needs_library
@x86_64_only
@pytest.mark.parametrize(
    ("action", "errno", "answer"),
    [
        ("SCMP_ACT_KILL", None, 0x00000000),
        ("SCMP_ACT_KILL_THREAD", None, 0x00000000),
        ("SCMP_ACT_KILL_PROCESS", None, 0x80000000),
        ("SCMP_ACT_TRAP", None, 0x00030000),
        ("SCMP_ACT_ERRNO", 38, ENOSYS),
        ("SCMP_ACT_ERRNO", 0, 0x00050000),
        ("SCMP_ACT_TRACE", None, 0x7FF00001),
        ("SCMP_ACT_TRACE", 7, 0x7FF00007),
        ("SCMP_ACT_LOG", None, 0x7FFC0000),
        ("SCMP_ACT_NOTIFY", None, 0x7FC00000),
    ],
)
def test_actions(action: str, errno: int | None, answer: int) -> None:
    assert run(seccomp.compile_profile(_one(action, errno)), PERSONALITY) == answer


@needs_library
@x86_64_only
def test_a_rule_that_does_what_the_default_does_changes_nothing() -> None:
    program = seccomp.compile_profile(_one("SCMP_ACT_ERRNO", 1))
    assert run(program, PERSONALITY) == EPERM


@needs_library
@x86_64_only
def test_two_conditions_on_one_argument_are_alternatives_and_on_two_are_both_needed() -> None:
    either = seccomp.compile_profile(_one("SCMP_ACT_ALLOW", None, Arg(0, 1), Arg(0, 2)))
    both = seccomp.compile_profile(_one("SCMP_ACT_ALLOW", None, Arg(0, 1), Arg(1, 2), name="dup2"))
    assert [run(either, PERSONALITY, (value,)) for value in (1, 2, 3)] == [ALLOW, ALLOW, EPERM]
    assert [run(both, 33, args) for args in ((1, 2), (1, 3), (2, 2))] == [ALLOW, EPERM, EPERM]


@needs_library
@x86_64_only
def test_unknown_names_are_left_out_and_told() -> None:
    profile = Profile("SCMP_ACT_ERRNO", rules=(Rule(("read", "no_such_call", "nor_this"), "SCMP_ACT_ALLOW"),))
    kept = seccomp.compile_filter(profile)
    assert kept.unknown == ("no_such_call", "nor_this")
    assert run(kept.program, READ) == ALLOW


@needs_library
@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (Profile("SCMP_ACT_SULK"), "linux.seccomp.defaultAction: 'SCMP_ACT_SULK'"),
        (Profile("SCMP_ACT_NOTIFY"), "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY"),
        (Profile("SCMP_ACT_KILL", 1), "linux.seccomp.defaultErrnoRet: 1"),
        (Profile("SCMP_ACT_ERRNO", 4096), "linux.seccomp.defaultErrnoRet: 4096"),
        (replace(SMALL, architectures=("SCMP_ARCH_X86_64", "PDP11")), "linux.seccomp.architectures[1]: 'PDP11'"),
        (_one("SCMP_ACT_SULK"), "linux.seccomp.syscalls[0].action: 'SCMP_ACT_SULK'"),
        (_one("SCMP_ACT_ALLOW", 1), "linux.seccomp.syscalls[0].errnoRet: 1: SCMP_ACT_ALLOW returns no errno"),
        (_one("SCMP_ACT_ERRNO", -1), "linux.seccomp.syscalls[0].errnoRet: -1"),
        (_one("SCMP_ACT_NOTIFY", name="write"), "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY: not for write"),
        (_one("SCMP_ACT_ALLOW", None, Arg(0, 1), Arg(1, 1, op="EQ")), "linux.seccomp.syscalls[0].args[1].op: 'EQ'"),
        (_one("SCMP_ACT_ALLOW", None, Arg(6, 1)), "linux.seccomp.syscalls[0].args[0].index: 6"),
        (_one("SCMP_ACT_ALLOW", None, Arg(0, -1)), "linux.seccomp.syscalls[0].args[0].value: -1"),
        (_one("SCMP_ACT_ALLOW", None, Arg(0, 1, 1 << 64)), "linux.seccomp.syscalls[0].args[0].valueTwo: 1844"),
        (Profile("SCMP_ACT_ALLOW", rules=(Rule((), "SCMP_ACT_LOG"),)), "linux.seccomp.syscalls[0].names: "),
        (_one(name="read\0x"), "linux.seccomp.syscalls[0].names: "),
        (_one(name=""), "linux.seccomp.syscalls[0].names: "),
        (_one(name="no call"), "linux.seccomp.syscalls[0].names: "),
        (_one(name="no\ncall"), "linux.seccomp.syscalls[0].names: "),
        (_one(name="\udc80"), "linux.seccomp.syscalls[0].names: "),
    ],
    ids=lambda value: value.split(" ")[0].removeprefix("linux.seccomp.") if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_by_its_field(profile: Profile, told: str) -> None:
    with pytest.raises(ContainerError) as refused:
        seccomp.compile_filter(profile)
    assert str(refused.value).startswith(f"seccomp: {told}")


@needs_library
@x86_64_only
def test_rules_that_contradict_each_other_are_refused() -> None:
    rules = tuple(Rule(("socket",), "SCMP_ACT_ERRNO", error) for error in (38, 5))
    with pytest.raises(ContainerError, match=r"syscalls\[1\]: socket: an earlier rule says otherwise: File exists"):
        seccomp.compile_filter(Profile("SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_X86",), rules=rules))


@needs_library
@x86_64_only
def test_an_architecture_of_the_other_byte_order_is_refused() -> None:
    with pytest.raises(ContainerError, match="s390x"):
        seccomp.compile_filter(replace(SMALL, architectures=("SCMP_ARCH_S390X",)))


def test_flags() -> None:
    names = ("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW")
    assert seccomp.flags(SMALL) == 0
    assert seccomp.flags(replace(SMALL, flags=names)) == 0b111
    with pytest.raises(ContainerError, match=r"linux\.seccomp\.flags\[1\]: 'WAVE'"):
        seccomp.flags(replace(SMALL, flags=("SECCOMP_FILTER_FLAG_LOG", "WAVE")))
    with pytest.raises(ContainerError, match=r"linux\.seccomp\.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"):
        seccomp.flags(replace(SMALL, flags=("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",)))


def test_a_listener() -> None:
    asked = replace(_one("SCMP_ACT_NOTIFY"), flags=("SECCOMP_FILTER_FLAG_TSYNC",))
    with pytest.raises(ContainerError, match=r"linux\.seccomp\.listenerPath: missing"):
        seccomp.flags(asked)
    assert seccomp.flags(replace(asked, listener_path="/run/listener")) == 0b1000
    assert not seccomp.notifies(SMALL)


def test_no_library_is_told_with_a_hint() -> None:
    path, identity = libseccomp.find(["/nonexistent"])
    assert (path, identity) == ("libseccomp.so.2", "")
    with pytest.raises(ContainerError, match="apt install libseccomp2"):
        libseccomp.load("/nonexistent/libseccomp.so.2")


# -- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A cache that has the filter of SMALL, and which nothing in this process remembers."""
    seccomp.compiled(SMALL, str(tmp_path / "cache"))
    seccomp.forget()
    (file,) = (tmp_path / "cache").iterdir()
    return file


def _mark(file: Path) -> None:
    """Make the kept filter another one, but a sound one, so that it shows who was asked."""
    file.write_bytes(seccomp._encode(seccomp.Filter(b"otherone", ("told",)), file.stem))


@needs_library
def test_a_filter_is_kept_for_its_owner_alone(kept: Path) -> None:
    assert kept.name == f"{seccomp.cache_key(SMALL)}.bpf"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700


@needs_library
def test_a_kept_filter_is_used(kept: Path) -> None:
    _mark(kept)
    assert seccomp.compiled_filter(SMALL, str(kept.parent)) == seccomp.Filter(b"otherone", ("told",))


@needs_library
def test_memory_comes_before_the_disk(kept: Path) -> None:
    first = seccomp.compiled_filter(SMALL, str(kept.parent))
    _mark(kept)
    assert seccomp.compiled_filter(SMALL, str(kept.parent)) is first


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def _ragged(file: Path) -> None:
    file.write_bytes(seccomp._encode(seccomp.Filter(b"otherone+"), file.stem))


def _of_another_key(file: Path) -> None:
    file.write_bytes(seccomp._encode(seccomp.Filter(b"otherone"), "0" * 64))


def _writable(file: Path) -> None:
    _mark(file)
    file.chmod(0o602)


def _link(file: Path) -> None:
    _mark(file)
    file.rename(file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@needs_library
@pytest.mark.parametrize("spoil", [_cut, _flip, _ragged, _of_another_key, _writable, _link, _pipe, _empty])
def test_a_filter_that_cannot_be_trusted_is_made_anew(kept: Path, spoil: Callable[[Path], None]) -> None:
    good = kept.read_bytes()
    spoil(kept)
    assert seccomp.compiled(SMALL, str(kept.parent)) == seccomp.compile_profile(SMALL)
    assert kept.read_bytes() == good
    assert kept.stat().st_mode == 0o100600
    assert not list(kept.parent.glob("*.bpf.*"))


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ContainerError, match="seccomp cache: "):
        seccomp._write(str(tmp_path / "file" / "x.bpf"), "x", seccomp.Filter(b"otherone"))


def test_the_key_holds_what_the_program_depends_on_and_nothing_else() -> None:
    listening = replace(SMALL, flags=("SECCOMP_FILTER_FLAG_LOG",), listener_path="/run/x", listener_metadata="y")
    rule = SMALL.rules[0]
    others = [
        replace(SMALL, default_action="SCMP_ACT_KILL"),
        replace(SMALL, default_errno=1),
        replace(SMALL, architectures=("SCMP_ARCH_X86",)),
        replace(SMALL, rules=(replace(rule, names=("read",)),)),
        replace(SMALL, rules=(replace(rule, names=("read\0write",)),)),
        replace(SMALL, rules=(replace(rule, action="SCMP_ACT_LOG"),)),
        replace(SMALL, rules=(replace(rule, errno=5),)),
        replace(SMALL, rules=(replace(rule, args=(Arg(0, 1),)),)),
        replace(SMALL, rules=(rule, rule)),
    ]
    keys = [seccomp.cache_key(profile) for profile in (SMALL, *others)]
    assert seccomp.cache_key(listening) == keys[0]
    assert len(set(keys)) == len(keys)


@needs_library
def test_a_hit_loads_no_library(kept: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from harness.container.seccomp import Profile, Rule, compiled\n"
        "rules = (Rule(('read', 'write'), 'SCMP_ACT_ALLOW'),)\n"
        "program = compiled(Profile('SCMP_ACT_ERRNO', rules=rules), sys.argv[2])\n"
        "assert program, program\n"
        "print('libseccomp.so' in open('/proc/self/maps').read(), 'json' in sys.modules, 'hashlib' in sys.modules)\n"
    )
    root = Path(seccomp.__file__).parents[2]
    argv = [sys.executable, "-I", "-S", "-c", code, str(root), str(kept.parent)]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split() == ["False"] * 3
    kept.unlink()
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[0] == "True"


@needs_library
@x86_64_only
def test_calls_newer_than_the_profile_do_not_exist_and_older_ones_are_not_permitted(docker: bytes) -> None:
    assert run(docker, 1000) == ENOSYS
    assert run(docker, MOUNT) == EPERM
    assert run(docker, X32_BIT + 5000) == EPERM, "another ABI has numbers of its own"
