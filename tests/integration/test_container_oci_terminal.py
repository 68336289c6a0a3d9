"""Terminals of OCI containers: sent over a socket, or proxied by a run in the foreground.

| item                 | what is shown here                                                                          |
|----------------------|---------------------------------------------------------------------------------------------|
| --console-socket     | one fd arrives, the other end of the program's terminal; its size; both ways                |
| the program's side   | a tty on 0, 1, 2; /dev/console; controlling terminal, job control, Ctrl-C; its owner        |
| exec --tty           | with a console socket, proxied; with a size                                                 |
| run in a terminal    | raw meanwhile, restored after; its size; the exit code                                      |
| wrong combinations   | terminal without socket, socket without terminal, a socket that nobody listens at           |
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.oci_kit import Document, Oci, bundle, map_ids, new_id, until

pytestmark = pytest.mark.needs("root")
SLEEP = "exec sleep 1000"


@pytest.fixture
def oci() -> Iterator[Oci]:
    with Oci.at() as runtime:
        yield runtime


class Console:
    """A socket that waits for a terminal, and then the terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = b""
        self.fd = -1
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(10)

    def receive(self) -> bytes:
        peer, _ = self._server.accept()
        with peer:
            message, fds, _, _ = socket.recv_fds(peer, 4096, 4)
        assert len(fds) == 1
        self.fd = fds[0]
        return message

    def expect(self, text: str, seconds: float = 10) -> str:
        """Read until a text came; return all since the last one."""
        end_s = time.monotonic() + seconds
        while text.encode() not in self.seen:
            assert time.monotonic() < end_s, f"{text!r} did not come: {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                with suppress(OSError):  # EIO: nobody has the other end
                    self.seen += os.read(self.fd, 4096)
        found, self.seen = self.seen, b""
        return found.decode()

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def close(self) -> None:
        self._server.close()
        if self.fd >= 0:
            os.close(self.fd)


@contextmanager
def _console(directory: Path) -> Iterator[Console]:
    console = Console(directory / f"{new_id()}.sock")
    try:
        yield console
    finally:
        console.close()


def _in_terminal(tree: Path, script: str, **fields: object) -> Path:
    def change(made: Document) -> None:
        made["process"] |= {"terminal": True, **fields}

    return bundle(tree, script, change)


# -- a console socket ------------------------------------------------------------------------------------------------


def test_the_terminal_arrives_and_works_both_ways(oci: Oci, tree: Path, tmp_path: Path) -> None:
    script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; read x; echo got $x"
    with _console(tmp_path) as console:
        path = _in_terminal(tree, script)
        with oci.created(path, "--console-socket", str(console.path)) as container_id:
            message = console.receive()
            assert message  # the name of a multiplexer, as from runc: engines read it before the fd
            assert os.isatty(console.fd)
            oci.ok("start", container_id)
            assert console.expect("all").splitlines()[0].startswith("/dev/")
            console.write("hello\n")
            console.expect("got hello")


def test_its_size(oci: Oci, tree: Path, tmp_path: Path) -> None:
    with _console(tmp_path) as console:
        path = _in_terminal(tree, "stty size; read x; stty size", consoleSize={"height": 31, "width": 97})
        with oci.running(path, "--console-socket", str(console.path)):
            console.receive()
            console.expect("31 97")
            fcntl.ioctl(console.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 20, 0, 0))
            console.write("\n")
            console.expect("10 20")


def test_the_console_is_the_same_terminal(oci: Oci, tree: Path, tmp_path: Path) -> None:
    script = "echo to-console >/dev/console; stat -c '%t:%T' -L /dev/console /proc/self/fd/0"
    with _console(tmp_path) as console:
        path = _in_terminal(tree, script)
        with oci.running(path, "--console-socket", str(console.path)):
            console.receive()
            console.expect("to-console\r\n88:0\r\n88:0\r\n")


def test_job_control_and_interrupts(oci: Oci, tree: Path, tmp_path: Path) -> None:
    script = "echo $$ pgrp; trap 'echo interrupted' INT; echo to-tty >/dev/tty; while :; do sleep 0.05; done"
    with _console(tmp_path) as console:
        path = _in_terminal(tree, script)
        with oci.running(path, "--console-socket", str(console.path)) as container_id:
            console.receive()
            console.expect("to-tty")
            fields = Path(f"/proc/{oci.pid(container_id)}/stat").read_text().rpartition(")")[2].split()
            group, session, terminal, foreground = (int(word) for word in fields[2:6])
            assert group == session == foreground
            assert terminal != 0
            console.write("\x03")
            console.expect("interrupted")


def test_hang_up_is_a_signal_to_the_program(oci: Oci, tree: Path, tmp_path: Path) -> None:
    with _console(tmp_path) as console:
        path = _in_terminal(tree, "trap 'exit 0' HUP; echo up; while :; do sleep 0.05; done")
        with oci.running(path, "--console-socket", str(console.path)) as container_id:
            console.receive()
            console.expect("up")
            os.close(console.fd)
            console.fd = -1
            oci.await_status(container_id, "stopped")


def test_an_ordinary_user_owns_it(oci: Oci, tree: Path, tmp_path: Path) -> None:
    script = "stat -c %u:%g -L /proc/self/fd/0; echo again >/dev/console; echo end"
    with _console(tmp_path) as console:
        path = _in_terminal(tree, script, user={"uid": 1000, "gid": 1000})
        with oci.running(path, "--console-socket", str(console.path)):
            console.receive()
            said = console.expect("end").split()
            assert said == ["1000:5", "again", "end"]


def test_in_a_user_namespace(oci: Oci, tree: Path, tmp_path: Path) -> None:
    def change(made: Document) -> None:
        map_ids(made)
        made["process"]["terminal"] = True

    os.chown(tree, 100000, 100000)
    with _console(tmp_path) as console:
        path = bundle(tree, "stat -c %u:%g -L /proc/self/fd/0; tty; echo end", change)
        with oci.running(path, "--console-socket", str(console.path)):
            console.receive()
            assert console.expect("end").split()[0] == "0:5"


# -- exec ------------------------------------------------------------------------------------------------------------


def test_exec_with_a_console_socket(oci: Oci, tree: Path, tmp_path: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id, _console(tmp_path) as console:
        oci.ok("exec", "--tty", "--detach", "--console-socket", str(console.path), container_id,
               "sh", "-c", "tty; read x; echo got $x >/dev/tty")  # fmt: skip
        console.receive()
        console.expect("/dev/pts/")
        console.write("hello\n")
        console.expect("got hello")


# -- in the foreground -----------------------------------------------------------------------------------------------


@contextmanager
def _in_own_terminal(oci: Oci, *words: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], Console, int]]:
    """Run a command as a shell in a terminal would; yield it, its terminal's other end, and the terminal."""
    console = Console.__new__(Console)
    console.seen = b""
    console.fd, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 66, 0, 0))
    process = oci.popen(*words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    try:
        yield process, console, slave
    finally:
        process.kill()
        process.wait()
        os.close(console.fd)
        os.close(slave)


def test_run_in_a_terminal_passes_it_through(oci: Oci, tree: Path) -> None:
    path = _in_terminal(tree, "stty size; tty; read x; echo got $x; exit 5")
    with _in_own_terminal(oci, "run", "--bundle", path, new_id()) as (process, console, slave):
        before = termios.tcgetattr(slave)
        console.expect("24 66")
        until(lambda: termios.tcgetattr(slave) != before, "raw")
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO)
        console.write("hello\r")
        console.expect("got hello")
        assert process.wait(10) == 5
        assert termios.tcgetattr(slave) == before


def test_a_new_size_is_passed_on(oci: Oci, tree: Path) -> None:
    path = _in_terminal(tree, "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done")
    with _in_own_terminal(oci, "run", "--bundle", path, new_id()) as (process, console, slave):
        console.expect("up")
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 22, 0, 0))
        process.send_signal(28)  # SIGWINCH: the test is not in the terminal's foreground group
        console.expect("11 22")


def test_ctrl_c_is_the_programs(oci: Oci, tree: Path) -> None:
    path = _in_terminal(tree, "trap 'echo interrupted; exit 3' INT; echo up; while :; do sleep 0.05; done")
    with _in_own_terminal(oci, "run", "--bundle", path, new_id()) as (process, console, _):
        console.expect("up")
        console.write("\x03")
        console.expect("interrupted")
        assert process.wait(10) == 3


def test_exec_in_a_terminal(oci: Oci, tree: Path) -> None:
    with (
        oci.running(bundle(tree, SLEEP)) as container_id,
        _in_own_terminal(oci, "exec", "--tty", container_id, "sh", "-c", "stty size; tty; read x; exit 6") as (
            process, console, _,
        ),
    ):  # fmt: skip
        assert console.expect("/dev/pts/").startswith("24 66")
        console.write("\r")
        assert process.wait(10) == 6


def test_a_terminal_without_one_outside(oci: Oci, tree: Path) -> None:
    """A pipe on both sides: its end is told as a terminal tells it."""
    result = oci.run(_in_terminal(tree, "tty; cat; exit 4"), stdin=b"typed\n")
    assert result.code == 4
    assert "/dev/pts/0" in result.out or "/dev/console" in result.out
    assert "typed" in result.out


# -- wrong combinations ----------------------------------------------------------------------------------------------


def test_a_terminal_needs_somewhere_to_go(oci: Oci, tree: Path) -> None:
    assert "--console-socket" in oci.refused(_in_terminal(tree, "true"))
    assert "--console-socket" in oci.error("run", "--detach", "--bundle", _in_terminal(tree, "true"), new_id())


def test_a_socket_without_a_terminal(oci: Oci, tree: Path, tmp_path: Path) -> None:
    with _console(tmp_path) as console:
        said = oci.refused(bundle(tree), "--console-socket", str(console.path))
    assert "process.terminal is not true" in said


@pytest.mark.parametrize("kind", ["missing", "file", "deaf"])
def test_a_socket_at_which_nobody_listens(oci: Oci, tree: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "file":
            path.touch()
        elif kind == "deaf":
            server.bind(str(path))
        said = oci.refused(_in_terminal(tree, "true"), "--console-socket", str(path))
    assert str(path) in said


@pytest.mark.parametrize("size", [{"height": -1, "width": 5}, {"height": 1 << 16, "width": 5}, {"height": 5}])
def test_a_size_that_makes_no_sense_is_refused(oci: Oci, tree: Path, tmp_path: Path, size: Document) -> None:
    with _console(tmp_path) as console:
        said = oci.refused(_in_terminal(tree, "true", consoleSize=size), "--console-socket", str(console.path))
    assert "process.consoleSize" in said
