"""The host's side of the agent against a peer that lies, floods, dawdles or dies: bounded, and a TrialError."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from harness.agent import session as session_module
from harness.agent.session import CALIBRATION_MAX, OUTPUT_MAX_BYTES, AgentSession
from harness.errors import AgentError, TrialError, TrialTimeout
from harness.model.milestones import DELETED, EXITED, INIT, READY, REQUESTED, STOPPING

SECOND_NS = 10**9


def deadline(seconds: float = 5) -> int:
    return time.monotonic_ns() + round(seconds * SECOND_NS)


@dataclass
class Peer:
    """The other ends of a session's channels."""

    session: AgentSession
    control: socket.socket
    marks: int
    stdout: int
    stderr: int
    open: set[int] = field(default_factory=set)

    def say(self, fd: int, data: bytes) -> None:
        while data:
            data = data[os.write(fd, data) :]

    def hang_up(self, fd: int) -> None:
        self.open.remove(fd)
        os.close(fd)

    def read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            chunk = self.control.recv(1)
            if not chunk:
                break
            line += chunk
        return line


@pytest.fixture
def peer() -> Iterator[Peer]:
    session = AgentSession()
    ours, theirs = socket.socketpair()
    session.add_control(ours)
    fds = []
    for add in (session.add_marks, session.add_stdout, session.add_stderr):
        reader, writer = os.pipe2(os.O_CLOEXEC)
        add(reader)
        fds.append(writer)
    session.start()
    made = Peer(session, theirs, *fds, {*fds})
    yield made
    session.close()
    theirs.close()
    for fd in made.open:
        os.close(fd)


@contextmanager
def answering(peer: Peer, answer: Callable[[bytes], None]) -> Iterator[None]:
    """Have `answer` called with the next request, in a thread of its own."""

    def serve() -> None:
        try:
            answer(peer.read_line())
        except (BrokenPipeError, ConnectionResetError):  # the session had enough
            return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        peer.session.close()  # whoever still floods gets EPIPE
        thread.join(10)
        assert not thread.is_alive()


def reply(peer: Peer, body: bytes, kind: bytes = b"OK") -> Callable[[bytes], None]:
    return lambda _line: peer.control.sendall(kind + b" %d\n" % len(body) + body)


# -- marks -----------------------------------------------------------------------------------------------------------


def test_only_the_first_mark_of_a_name_counts_and_a_flood_takes_no_memory(peer: Peer) -> None:
    peer.say(peer.marks, b"\x1einit 1\n" + b"\x1einit 2\n" * 100_000 + b"\x1eready 3\n")
    peer.session.wait(READY, deadline())
    assert [(mark.milestone, mark.inside_ns) for mark in peer.session.marks] == [(INIT, 1), (READY, 3)]


def test_marks_that_only_the_host_may_make_are_ignored_from_inside(peer: Peer) -> None:
    forged = b"".join(b"\x1e%s 5\n" % name for name in (b"requested", b"deleted", b"stopping", b"vmm.exec", b"kernel"))
    peer.say(peer.marks, forged + b"\x1eready 6\n")
    peer.session.wait(READY, deadline())
    assert [mark.milestone for mark in peer.session.marks] == [READY]
    assert all(peer.session.find(name) is None for name in (REQUESTED, DELETED, STOPPING))


@pytest.mark.parametrize(
    "number", [b"9" * 5000, b"9" * 21, "²".encode(), b"-1", b"1_0", b"0x10", b""], ids=lambda text: text[:8].decode()
)
def test_a_number_that_is_none_makes_no_mark_and_the_reader_goes_on(peer: Peer, number: bytes) -> None:
    peer.say(peer.marks, b"\x1einit " + number + b"\n\x1eready 7\n")
    assert peer.session.wait(READY, deadline()).inside_ns == 7
    assert peer.session.find(INIT) is None


def test_a_flood_of_samples_is_bounded_and_what_is_no_number_is_left_out(peer: Peer) -> None:
    peer.say(peer.marks, b"\x1etook 1 many\n" + b"\x1ecal 1 0\n" * (CALIBRATION_MAX + 1000) + b"\x1eready 1\n")
    peer.session.wait(READY, deadline(20))
    assert len(peer.session.calibration) == CALIBRATION_MAX
    assert {mark.milestone for mark in peer.session.calibration} == {"cal"}


def test_a_flood_of_console_text_is_bounded(peer: Peer) -> None:
    for _ in range(64):
        peer.say(peer.marks, os.urandom(1 << 16).replace(b"\x1e", b"."))
    peer.say(peer.marks, b"\n\x1eready 1\n")
    peer.session.wait(READY, deadline(20))
    assert len(peer.session.parser.console) == 1 << 20


def test_an_error_of_the_agent_cannot_steer_a_terminal(peer: Peer) -> None:
    peer.say(peer.marks, b"\x1eerror 1 exec: \x1b]0;owned\x07\xc2\x9b31m\n")
    with pytest.raises(AgentError) as caught:
        peer.session.wait(READY, deadline())
    assert caught.value.message.isprintable()


def test_the_hint_cannot_steer_a_terminal(peer: Peer) -> None:
    peer.say(peer.stderr, b"\x1b[2J\x1b]0;owned\x07 broken\n")
    peer.say(peer.marks, b"\x1eexited 1 1\n")
    with pytest.raises(AgentError) as caught:
        peer.session.wait(READY, deadline())
    assert caught.value.hint is None or caught.value.hint.isprintable()


def test_the_end_of_the_marks_is_noticed_at_once(peer: Peer) -> None:
    start = time.monotonic()
    threading.Timer(0.05, peer.hang_up, [peer.marks]).start()
    with pytest.raises(AgentError, match="gone before ready; last: nothing"):
        peer.session.wait(READY, deadline(30))
    assert time.monotonic() - start < 5


# -- control ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [b"", b"\n", b"OK\n", b"OK -5\n", b"OK 99999999999999999999\n", b"OK 4097\n", b"YES 1\nx", b"OK 1 2\n",
     "OK ²\n".encode(), b"\xff\xfe\n", b"O" * 100_000],
    ids=lambda head: repr(head[:12]),
)  # fmt: skip
def test_a_malformed_head_is_an_error_of_the_agent(peer: Peer, head: bytes) -> None:
    def answer(_line: bytes) -> None:
        peer.control.sendall(head)
        peer.control.shutdown(socket.SHUT_WR)

    with answering(peer, answer), pytest.raises(AgentError, match="agent: calibrate 1: "):
        peer.session.request("calibrate 1", deadline())


def test_an_endless_answer_is_refused_before_it_is_kept(peer: Peer) -> None:
    def flood(_line: bytes) -> None:
        peer.control.sendall(b"OK 999999999\n")
        while True:
            peer.control.sendall(b"x" * 65536)

    with answering(peer, flood), pytest.raises(AgentError, match="an answer of 999999999 bytes"):
        peer.session.attest(deadline())


def test_an_answer_that_trickles_ends_at_the_deadline(peer: Peer) -> None:
    def trickle(_line: bytes) -> None:
        peer.control.sendall(b"OK 100000\n")
        while True:
            peer.control.sendall(b"x")
            time.sleep(0.0002)

    start = time.monotonic()
    with answering(peer, trickle):
        with pytest.raises(TrialTimeout, match="no answer to 'inside' in time"):
            peer.session.inside(deadline(0.3))
        assert time.monotonic() - start < 2


def test_after_a_request_without_its_answer_no_other_is_made(peer: Peer) -> None:
    with pytest.raises(TrialTimeout):
        peer.session.request("inside", deadline(0.05))
    peer.control.sendall(b"OK 2\n{}OK 4\n0 0\n")  # too late, and then what looks like the answer to `stop`
    with pytest.raises(AgentError, match="stop: not asked: 'inside' was never answered"):
        peer.session.finish(deadline())


def test_an_error_answer_is_shown_without_control_characters(peer: Peer) -> None:
    with answering(peer, reply(peer, b"no \x1b[31m such", b"ERR")), pytest.raises(AgentError) as caught:
        peer.session.request("inside", deadline())
    assert caught.value.message == "agent: inside: no \N{REPLACEMENT CHARACTER}[31m such"


def test_why_the_agent_ended_is_told_even_when_its_mark_comes_later(peer: Peer) -> None:
    def die(_line: bytes) -> None:
        peer.control.shutdown(socket.SHUT_RDWR)
        time.sleep(0.05)
        peer.say(peer.marks, b"\x1eerror 1 out of memory\n")

    with answering(peer, die), pytest.raises(AgentError, match="agent: inside: out of memory"):
        peer.session.inside(deadline())


GOOD_ATTESTATION = {
    "root_digest": "sha256:0", "exe_sha256": "0", "argv": ["a"], "env": ["A=b=c", "EMPTY="], "cwd": "/", "uid": 0,
    "gid": 0, "cpus": 1, "memory_bytes": 1, "kernel": "6", "boot_id": "x",
}  # fmt: skip


def test_a_good_attestation(peer: Peer) -> None:
    with answering(peer, reply(peer, json.dumps(GOOD_ATTESTATION).encode())):
        attested = peer.session.attest(deadline())
    assert attested.argv == ("a",)
    assert attested.env == {"A": "b=c", "EMPTY": ""}


@pytest.mark.parametrize(
    "changes",
    [{"uid": "0"}, {"uid": True}, {"uid": -1}, {"uid": 1.5}, {"memory_bytes": 1 << 64}, {"argv": "a"}, {"argv": [1]},
     {"env": {"A": "b"}}, {"kernel": None}, {"cwd": "\ud800"}, {"more": 1}],
    ids=str,
)  # fmt: skip
def test_a_malformed_attestation_is_an_error_of_the_agent(peer: Peer, changes: dict[str, object]) -> None:
    body = json.dumps(GOOD_ATTESTATION | changes).encode()
    with answering(peer, reply(peer, body)), pytest.raises(AgentError, match="attest: malformed answer"):
        peer.session.attest(deadline())


GOOD_INSIDE = {
    "subject": "workload", "kernel": "6", "hostname": "h", "boot_id": "b", "namespaces": {"pid": "pid:[1]"},
    "status": {"Uid": "0\t0\t0\t0", "CapEff": "00000000a80425fb", "Seccomp": "0"}, "memory_bytes": {"MemTotal": 1},
    "processes": 2, "devices": {"character": 1, "block": 0, "names": "/dev/null"}, "mounts": 3, "network_interfaces": 1,
}  # fmt: skip


def test_a_good_view_from_inside(peer: Peer) -> None:
    with answering(peer, reply(peer, json.dumps(GOOD_INSIDE).encode())):
        assert peer.session.inside(deadline()) == GOOD_INSIDE


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b"\xff", b"[" * 200_000, b'{"processes":' + b"9" * 5000 + b"}", b'{"processes":NaN}',
     b'{"processes":"2"}', b'{"status":[]}', b'{"status":{"CapEff":"zz"}}', b'{"status":{"Seccomp":"1\\t2\\t3\\t4"}}',
     b'{"status":{"NoNewPrivs":1}}', b'{"memory_bytes":{"MemTotal":-1}}', b'{"devices":{"block":0}}',
     b'{"namespaces":{"pid":1}}', b'{"kernel":"\\ud800"}', b'{"surprise":1}'],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_a_malformed_view_from_inside_is_an_error_of_the_agent(peer: Peer, body: bytes) -> None:
    with answering(peer, reply(peer, body)), pytest.raises(AgentError, match="inside: malformed answer"):
        peer.session.inside(deadline())


@pytest.mark.parametrize("body", [b"", b"0 1 1\n", b"0 1\nxx", b"0 5 5\nxx", b"0 1 -1\n", b"a b c\n", b"0 0 0 0\n"])
def test_a_malformed_result_of_a_command_is_an_error_of_the_agent(peer: Peer, body: bytes) -> None:
    with answering(peer, reply(peer, body)), pytest.raises(AgentError, match="exec: malformed answer"):
        peer.session.exec(["true"], SECOND_NS)


def test_arguments_that_no_kernel_takes_are_refused_here(peer: Peer) -> None:
    for argv in (["a\0b"], ["x" * (9 << 20)]):
        with pytest.raises(AgentError, match="a NUL byte inside, or more than"):
            peer.session.exec(argv, SECOND_NS)


def test_waiting_for_a_control_channel_ends_with_the_instance() -> None:
    session = AgentSession()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    session.add_marks(reader)
    session.start()
    try:
        os.close(writer)
        start = time.monotonic()
        with pytest.raises(AgentError, match="gone before 'stop'"):
            session.finish(deadline(30))
        assert time.monotonic() - start < 5
    finally:
        session.close()


# -- the end ---------------------------------------------------------------------------------------------------------


def test_finish_waits_for_the_last_byte(peer: Peer) -> None:
    def answer(_line: bytes) -> None:
        reply(peer, b"11 3\n")(b"")
        time.sleep(0.1)
        peer.say(peer.stdout, b"hello world")
        peer.say(peer.stderr, b"err")
        assert peer.read_line() == b"bye\n"

    with answering(peer, answer):
        peer.session.finish(deadline())
        assert (bytes(peer.session.stdout), bytes(peer.session.stderr)) == (b"hello world", b"err")


def test_finish_is_exact_when_output_is_cut(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream that is cut must not end the wait for the other one."""
    monkeypatch.setattr(session_module, "OUTPUT_MAX_BYTES", 1000)
    peer.say(peer.stdout, bytes(50_000))

    def answer(_line: bytes) -> None:
        reply(peer, b"50000 5\n")(b"")
        time.sleep(0.1)
        peer.say(peer.stderr, b"last\n")

    with answering(peer, answer):
        peer.session.finish(deadline())
        assert bytes(peer.session.stderr) == b"last\n"
    assert (len(peer.session.stdout), peer.session.stdout_bytes) == (1000, 50_000)


def test_a_flood_of_output_is_counted_and_cut(peer: Peer) -> None:
    chunk = bytes(1 << 20)
    for _ in range(20):
        peer.say(peer.stdout, chunk)
    with answering(peer, reply(peer, b"%d 0\n" % (20 << 20))):
        peer.session.finish(deadline(20))
    assert len(peer.session.stdout) == OUTPUT_MAX_BYTES


@pytest.mark.parametrize(("told", "how"), [(b"9 0\n", "incomplete"), (b"1 0\n", "more than were sent")])
def test_finish_says_when_the_output_is_not_what_was_sent(peer: Peer, told: bytes, how: str) -> None:
    peer.say(peer.stdout, b"abc")
    with answering(peer, reply(peer, told)), pytest.raises(TrialError, match=f"output: {how}"):
        peer.session.finish(deadline(0.3))


@pytest.mark.parametrize("body", [b"", b"1\n", b"1 2 3\n", b"-1 0\n", b"x y\n", b"9" * 30 + b" 0\n"])
def test_a_malformed_end_is_an_error_of_the_agent(peer: Peer, body: bytes) -> None:
    with answering(peer, reply(peer, body)), pytest.raises(AgentError, match="stop: malformed answer"):
        peer.session.finish(deadline())


def test_an_agent_that_goes_before_it_is_let_go_is_an_error_of_the_agent(peer: Peer) -> None:
    def answer(_line: bytes) -> None:
        peer.control.sendall(b"OK 4\n1 0\n")
        peer.control.close()
        peer.hang_up(peer.marks)
        time.sleep(0.05)
        peer.say(peer.stdout, b"x")

    with answering(peer, answer), pytest.raises(AgentError, match="ended before it was let go"):
        peer.session.finish(deadline())


def test_closing_twice_and_without_a_start_leaks_nothing() -> None:
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    threads = threading.enumerate()
    for started in (True, False):
        session = AgentSession()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        session.add_stdout(reader)
        if started:
            session.start()
        ours, theirs = socket.socketpair()
        session.add_control(ours)
        session.close()
        session.close()
        os.close(writer)
        theirs.close()
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert threading.enumerate() == threads


def test_milestones_of_the_host_are_stamped_beside_those_of_the_agent(peer: Peer) -> None:
    peer.session.mark(REQUESTED)
    peer.say(peer.marks, b"\x1eexited 1 0\n")
    peer.session.wait(EXITED, deadline())
    peer.session.mark(STOPPING)
    assert [mark.milestone for mark in peer.session.marks] == [REQUESTED, EXITED, STOPPING]
