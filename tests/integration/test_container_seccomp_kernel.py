"""What the kernel makes of the compiled filters, tried in children of this process."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.container import seccomp
from harness.container.frozen import replace
from harness.container.seccomp import Profile, Rule
from harness.container.seccomp_default import default_profile

pytestmark = [
    pytest.mark.needs("root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="system call numbers of x86-64"),
]

# Source: moby, daemon/pkg/oci/caps/defaults.go.
DOCKER_CAPABILITIES = (
    "chown dac_override fsetid fowner mknod net_raw setgid setuid setfcap setpcap net_bind_service sys_chroot kill "
    "audit_write"
).split()

SYS_SOCKET, SYS_PTRACE, SYS_MOUNT, SYS_UNSHARE, SYS_KEYCTL, SYS_SECCOMP, SYS_CLONE3 = 41, 101, 165, 272, 250, 317, 435
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _call(number: int, *args: int | bytes) -> int:
    """Make a system call; return its errno, 0 if it went well."""
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    words += [ctypes.c_long(0)] * (6 - len(words))
    return 0 if _libc.syscall(ctypes.c_long(number), *words) >= 0 else ctypes.get_errno()


def _attach(profile: Profile) -> None:
    program = seccomp.compile_profile(profile)
    about = _Program(len(program) // seccomp.INSTRUCTION_BYTES, program)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    mode, flags = ctypes.c_long(SECCOMP_SET_MODE_FILTER), ctypes.c_long(seccomp.flags(profile))
    if _libc.syscall(ctypes.c_long(SYS_SECCOMP), mode, flags, ctypes.byref(about)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _in_child(act: Callable[[], int]) -> int:
    """Return what `act` returned in a child (a number below 200), or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            status = act()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _under(profile: Profile, number: int, *args: int | bytes) -> int:
    def act() -> int:
        _attach(profile)
        return _call(number, *args)

    return _in_child(act)


@pytest.mark.parametrize(
    ("number", "args", "error"),
    [
        pytest.param(SYS_MOUNT, (b"none", b"/nonexistent", b"tmpfs"), errno.EPERM, id="mount"),
        pytest.param(SYS_UNSHARE, (0,), errno.EPERM, id="unshare-nothing"),
        pytest.param(SYS_KEYCTL, (), errno.EPERM, id="keyctl"),
        pytest.param(SYS_CLONE3, (0, 0), errno.ENOSYS, id="clone3"),
        pytest.param(SYS_SOCKET, (40, 1, 0), errno.EPERM, id="vsock"),
        pytest.param(SYS_SOCKET, (1, 1, 0), 0, id="unix-socket"),
        pytest.param(SYS_PTRACE, (9999,), errno.ESRCH, id="ptrace-reaches-the-kernel"),
    ],
)
def test_the_kernel_enforces_the_default_profile(number: int, args: tuple[int | bytes, ...], error: int) -> None:
    assert _under(default_profile(DOCKER_CAPABILITIES), number, *args) == error


def test_without_the_filter_the_same_calls_get_further() -> None:
    assert _in_child(lambda: _call(SYS_MOUNT, b"none", b"/nonexistent", b"tmpfs")) == errno.ENOENT
    assert _in_child(lambda: _call(SYS_UNSHARE, 0)) == 0


def test_sys_admin_opens_mount() -> None:
    profile = default_profile([*DOCKER_CAPABILITIES, "sys_admin"])
    assert _under(profile, SYS_MOUNT, b"none", b"/nonexistent", b"tmpfs") == errno.ENOENT


def test_a_program_runs_under_the_default_profile() -> None:
    def act() -> int:
        _attach(default_profile(DOCKER_CAPABILITIES))
        os.execv("/bin/sh", ["sh", "-c", "echo a | grep -q a && exit 7"])

    assert _in_child(act) == 7


@pytest.mark.parametrize(("action", "signal"), [("SCMP_ACT_KILL_PROCESS", 31), ("SCMP_ACT_TRAP", 31)])
def test_actions_that_end_the_process(action: str, signal: int) -> None:
    profile = Profile("SCMP_ACT_ALLOW", rules=(Rule(("keyctl",), action),))
    assert _under(profile, SYS_KEYCTL) == -signal


def test_the_kernel_takes_all_flags_and_a_listener() -> None:
    flags = ("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW")
    profile = Profile("SCMP_ACT_ALLOW", flags=flags, rules=(Rule(("keyctl",), "SCMP_ACT_ERRNO", errno.EDOM),))
    assert _under(profile, SYS_KEYCTL) == errno.EDOM

    def listen() -> int:
        asked = replace(profile, rules=(Rule(("keyctl",), "SCMP_ACT_NOTIFY"),), listener_path="/run/listener")
        program = seccomp.compile_profile(asked)
        about = _Program(len(program) // seccomp.INSTRUCTION_BYTES, program)
        _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        mode, value = ctypes.c_long(SECCOMP_SET_MODE_FILTER), ctypes.c_long(seccomp.flags(asked))
        fd = _libc.syscall(ctypes.c_long(SYS_SECCOMP), mode, value, ctypes.byref(about))
        return 1 if fd > 2 and str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:seccomp notify" else 2

    assert _in_child(listen) == 1
