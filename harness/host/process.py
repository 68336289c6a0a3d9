"""The one door to subprocesses: argv lists, no shell, every command logged, every failure one clear line."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import CapabilityError, CommandError
from harness.model.units import format_ns

log = logging.getLogger(__name__)

# Debian's package of a program, where the two names differ or the program is often missing.
PACKAGES = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "bwrap": "bubblewrap",
    "conmon": "conmon",
    "containerd": "containerd",
    "crun": "crun",
    "ctr": "containerd",
    "debugfs": "e2fsprogs",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "dmsetup": "dmsetup",
    "dpkg-deb": "dpkg",
    "fuse-overlayfs": "fuse-overlayfs",
    "gcc": "gcc",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.erofs": "erofs-utils",
    "mkfs.ext4": "e2fsprogs",
    "mksquashfs": "squashfs-tools",
    "newuidmap": "uidmap",
    "nsenter": "util-linux",
    "podman": "podman",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "runc": "runc",
    "setpriv": "util-linux",
    "skopeo": "skopeo",
    "ssh": "openssh-client",
    "strace": "strace",
    "systemd-nspawn": "systemd-container",
    "thin_ls": "thin-provisioning-tools",
}

_STDERR_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command that ended with 0 wrote."""

    stdout: bytes
    stderr: bytes


def find_program(name: str) -> Path:
    """Return the path of a program; also looks where a user's PATH often does not: /usr/sbin and /sbin.

    Raises: CapabilityError when it is missing, with the package that holds it where we know.
    """
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        package = PACKAGES.get(Path(name).name)
        hint = f"on Debian: apt-get install {package}" if package else f"install the package that holds {name}"
        raise CapabilityError(f"program: {name}: not found", hint=hint)
    return Path(found)


def run(
    argv: Sequence[str],
    *,
    timeout_ns: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: bytes | None = None,
) -> Completed:
    """Run a command to its end and return what it wrote.

    `env` is the whole environment; None takes ours, with LC_ALL=C so that messages can be read by code. The command
    gets a process group of its own, so that at `timeout_ns` (or Ctrl-C) its children end with it. Without `input`,
    its stdin is empty.

    Raises: CommandError unless it ends with 0; CapabilityError when the program is missing.
    """
    program = find_program(argv[0])
    log.debug("+ %s", shlex.join(argv))
    environment = {**os.environ, "LC_ALL": "C"} if env is None else dict(env)
    with subprocess.Popen(
        list(argv), executable=program, env=environment, cwd=cwd, process_group=0,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        try:
            stdout, stderr = child.communicate(input, None if timeout_ns is None else timeout_ns / 1e9)
        except subprocess.TimeoutExpired as error:
            _kill_group(child)
            raise CommandError(argv, -signal.SIGKILL, f"no end after {format_ns(timeout_ns or 0)}") from error
        except BaseException:
            _kill_group(child)
            raise
    if child.returncode:
        raise CommandError(argv, child.returncode, stderr[-_STDERR_TAIL_BYTES:].decode(errors="replace"))
    return Completed(stdout, stderr)


Running = subprocess.Popen[bytes]
"""A program that `start` started: its pid, and whether it has ended."""


def start(argv: Sequence[str], *, keep_fds: Sequence[int] = (), stderr: IO[bytes]) -> Running:
    """Start a program that goes on running, with `keep_fds` under their own numbers; its end is the caller's affair.

    Raises: CapabilityError when the program is missing.
    """
    program = find_program(argv[0])
    log.debug("+ %s &", shlex.join(argv))
    return subprocess.Popen(
        list(argv), executable=program, pass_fds=keep_fds, process_group=0,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
    )  # fmt: skip


def converse(argv: Sequence[str], *, stderr: IO[bytes]) -> Running:
    """Start a program that is talked to by its stdin and stdout; its end is the caller's affair.

    It has a process group of its own, so that Ctrl-C does not end it under the caller's hands.
    Raises: CapabilityError when the program is missing.
    """
    program = find_program(argv[0])
    log.debug("+ %s &", shlex.join(argv))
    return subprocess.Popen(
        list(argv), executable=program, process_group=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
    )  # fmt: skip


def spawn(argv: Sequence[str], log: int, errors: int | None = None) -> int:
    """Return the pid of a program that was started on a timed path: `argv[0]` is its path, `log` gets what it says.

    `errors`: what gets its stderr instead.

    It has a process group of its own, and our environment. By vfork(2), so that it is executed when this returns, and
    the size of this process does not matter. Raises: OSError.
    """
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
    closed = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()]
    actions = (
        null,
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log if errors is None else errors, 2),
        *closed,
    )
    default = (signal.SIGPIPE, signal.SIGXFSZ)  # which Python ignores
    return os.posix_spawn(
        argv[0], list(argv), os.environ, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=default
    )


def _inheritable() -> list[int]:
    """Return the fds above 2 that a program would get from us: whoever started us may have left some open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself is gone
            if int(entry.name) > 2 and os.get_inheritable(int(entry.name)):
                found.append(int(entry.name))
    return found


def await_end(child: Running, timeout_ns: int) -> int:
    """Return the code of a program that ends by itself; one that still runs at `timeout_ns` is killed."""
    try:
        return child.wait(timeout_ns / 1e9)
    except subprocess.TimeoutExpired:
        _kill_group(child)
        return child.wait()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the command with all that it started; the leader is still unreaped, so its group id is still its own."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
