"""A libvirt daemon of one's own, as `qemu:///system` is on a host that has one, without a trace on this host.

It runs in private mount and network namespaces: its /etc and /var are overlays over the host's, its /run/libvirt is a
directory of the test, its sockets lie where the test says. QEMU would run as the user that Debian's and Fedora's
packages take, not as root.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER = "libvirt-qemu"
_START_S = 30
_END_S = 20

# virtlogd and groups for machines would be services and directories of the host.
_QEMU_CONF = f"""\
user = "{USER}"
group = "{USER}"
stdio_handler = "file"
cgroup_controllers = []
"""

# A /dev/kvm that its user cannot open (as on hosts without udev) has libvirt ask QEMU anew again and again.
_SCRIPT = """\
set -eu
for name in etc var; do
    mkdir -p "$1/$name/upper" "$1/$name/work"
    mount -t overlay overlay -o "lowerdir=/$name,upperdir=$1/$name/upper,workdir=$1/$name/work" "/$name"
done
mkdir -p /run/libvirt
mount --bind "$1/run" /run/libvirt
mkdir -p /etc/libvirt
cp "$1/qemu.conf" /etc/libvirt/qemu.conf
if [ -e /dev/kvm ]; then
    mkdir "$1/dev"
    mount -t tmpfs tmpfs "$1/dev"
    mknod -m 0666 "$1/dev/kvm" c 10 232
    mount --bind "$1/dev/kvm" /dev/kvm
fi
getent group "$2" >/dev/null || echo "$2:x:64055:" >>/etc/group
getent passwd "$2" >/dev/null || echo "$2:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin" >>/etc/passwd
exec libvirtd --config "$1/libvirtd.conf" --pid-file "$1/libvirtd.pid"
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running one; `place` is the directory that holds all of it."""

    place: Path

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.place}/libvirt-sock"

    def log_of(self, domain: str) -> str | None:
        """Return what libvirt wrote about one guest, its end with the reason; None for one of somebody else."""
        path = self.place / "var" / "upper" / "log" / "libvirt" / "qemu" / f"{domain}.log"
        return path.read_text() if path.exists() else None


@contextmanager
def running(place: Path) -> Iterator[Daemon]:
    """Start it with everything below `place` (a short path), end it."""
    (place / "run").mkdir()
    (place / "qemu.conf").write_text(_QEMU_CONF)
    (place / "libvirtd.conf").write_text(
        f'unix_sock_dir = "{place}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
        f'log_outputs = "3:file:{place}/libvirtd.log"\n'
    )
    argv = [
        "unshare",
        "--mount",
        "--net",
        "--propagation",
        "private",
        "sh",
        "-c",
        _SCRIPT,
        "libvirtd",
        str(place),
        USER,
    ]
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    with (place / "stderr").open("wb") as stderr:
        daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=environment)
    try:
        _wait_for(place / "libvirt-sock", daemon, place)
        yield Daemon(place)
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(_END_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _wait_for(path: Path, daemon: subprocess.Popen[bytes], place: Path) -> None:
    end_s = time.monotonic() + _START_S
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if path.exists() and probe.connect_ex(str(path)) == 0:
                return
        assert daemon.poll() is None, (place / "stderr").read_text()
        assert time.monotonic() < end_s, "libvirtd does not listen"
        time.sleep(0.05)
