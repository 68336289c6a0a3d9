"""Another host, as far as one machine can be one: a real sshd in network, UTS and mount namespaces of its own.

It has its own host name, loopback, /run, home of the harness and host key; kernel, CPUs and cgroups are this host's.
The sockets of runs lie in a directory of the test, where a libvirtd in namespaces of its own sees them, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOSTNAME = "far"
ADDRESS, PORT = "127.0.0.9", 2222
_REGISTRY = Path("/run/harness")
_START_S = 20
_END_S = 20

# Whose runs are alive is written in /run/harness: `harness clean`, on either host, sees the cgroups and guests of both.
# root's account is locked on some machines, and sshd lets nobody in then: this shadow(5) only has no password.
_SCRIPT = """\
set -eu
hostname "$2"
ip link set lo up
mount --bind "$1/shadow" /etc/shadow
mkdir -p /run/harness "$1/registry"
mount --bind /run/harness "$1/registry"
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/harness
mount --bind "$1/registry" /run/harness
exec "$3" -D -e -f "$1/sshd_config"
"""


@dataclass(frozen=True, slots=True)
class Host:
    """It runs, and `pid` is its sshd. `place` holds its files; `home` is what HARNESS_HOME is there."""

    place: Path
    pid: int

    @property
    def home(self) -> Path:
        return self.place / "home"

    def uri(self, path: str, **more: str) -> str:
        """Return libvirt's URI of this host; ssh goes through a script that enters its network first."""
        words = {
            "command": self.place / "ssh", "keyfile": self.place / "key", "known_hosts": self.place / "known_hosts",
            "harness": Path(sys.executable).parent / "harness", **more,
        }  # fmt: skip
        query = "&".join(f"{name}={value}" for name, value in words.items())
        return f"qemu+ssh://root@{ADDRESS}:{PORT}{path}?{query}"

    def left(self) -> list[str]:
        """Return what there is of any run on this host: its directories, and guests that it started."""
        runs = self.place / "run", self.home / "cache" / "runs"
        found = [str(entry) for base in runs if base.is_dir() for entry in base.iterdir() if entry.name[0] != "."]
        listed = [str(entry) for entry in _REGISTRY.iterdir() if entry.is_symlink() and self._is_ours(entry.readlink())]
        return found + listed + self.guests()

    def _is_ours(self, directory: Path) -> bool:
        return directory.is_relative_to(self.place)

    def guests(self) -> list[str]:
        """Return the names of the guests that were started here: harness-TOKEN-TRIAL."""
        words = (_argv(pid).partition(b"guest=")[2].partition(b",")[0] for pid in self._processes())
        return [word.decode() for word in words if word]

    def connections(self) -> list[int]:
        """Return the pids of the harnesses that serve here."""
        return [pid for pid in self._processes() if b"remote-serve" in _argv(pid) and b"python" in _argv(pid)]

    def _processes(self) -> list[int]:
        mine = Path(f"/proc/{self.pid}/ns/uts").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "ns" / "uts").readlink() == mine:
                    found.append(int(entry.name))
        return found


def _argv(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextmanager
def running(place: Path, cache: Path) -> Iterator[Host]:
    """Start it with everything below `place` (a short path), and with the guest kernels of `cache`; end it."""
    _write_files(place, cache)
    sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert sshd is not None
    argv = ["unshare", "--mount", "--net", "--uts", "--propagation", "private",
            "sh", "-c", _SCRIPT, "sshd", str(place), HOSTNAME, sshd]  # fmt: skip
    with (place / "log").open("wb") as log:
        daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        (place / "ssh").write_text(f'#!/bin/sh\nexec nsenter --net=/proc/{daemon.pid}/ns/net ssh "$@"\n')
        (place / "ssh").chmod(0o755)
        _wait_until_it_listens(place, daemon)
        yield Host(place, daemon.pid)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(_END_S)


def _write_files(place: Path, cache: Path) -> None:
    (place / "home").mkdir(mode=0o700)
    (place / "home" / "cache").mkdir()
    for shared in ("kernels", "libvirt"):  # its own runs, and what takes long to make again
        if (cache / shared).is_dir():
            (place / "home" / "cache" / shared).symlink_to(cache / shared)
    for key in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key], check=True)
    (place / "authorized_keys").write_bytes((place / "key.pub").read_bytes())
    (place / "known_hosts").write_text(f"[{ADDRESS}]:{PORT} {(place / 'host_key.pub').read_text()}")
    (place / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n")
    (place / "sshd_config").write_text(
        f"ListenAddress {ADDRESS}:{PORT}\nHostKey {place}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nAuthorizedKeysFile {place}/authorized_keys\n"
        f"SetEnv HARNESS_HOME={place}/home HARNESS_RUNTIME={place}/run\n"
    )


def _wait_until_it_listens(place: Path, daemon: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + _START_S
    while "Server listening" not in (place / "log").read_text():
        assert daemon.poll() is None, (place / "log").read_text()
        assert time.monotonic() < end_s, "sshd does not listen"
        time.sleep(0.02)
