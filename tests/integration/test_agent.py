"""The real agent, started directly on this host: its protocol end to end, without any backend."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.agent.marks import delivery_ns
from harness.agent.program import agent_memfd, encode_spec, sealed_memfd
from harness.agent.session import AgentSession
from harness.errors import AgentError, TrialTimeout
from harness.images.tree import root_digest
from harness.model.spec import Ready, WorkloadSpec

pytestmark = pytest.mark.needs("root")

SECOND_NS = 10**9


def deadline(seconds: float = 5) -> int:
    return time.monotonic_ns() + round(seconds * SECOND_NS)


@contextmanager
def running(workload: WorkloadSpec, tree: Path) -> Iterator[AgentSession]:
    session = AgentSession()
    ours, theirs = socket.socketpair()
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    spec, program = sealed_memfd("spec", encode_spec(workload)), agent_memfd()
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    # Targets above 6 first, so that no dup2 overwrites a source that is still needed.
    sources = [pipes[0][1], pipes[1][1], spec, pipes[2][1], theirs.fileno(), root]
    actions = [(os.POSIX_SPAWN_DUP2, fd, 100 + i) for i, fd in enumerate(sources)]
    actions += [(os.POSIX_SPAWN_DUP2, 100 + i, 1 + i) for i in range(6)]
    session.add_stdout(pipes[0][0])
    session.add_stderr(pipes[1][0])
    session.add_marks(pipes[2][0])
    session.add_control(ours)
    session.start()
    pid = os.posix_spawn(f"/proc/self/fd/{program}", ["harness-agent"], {}, file_actions=actions)
    for fd in (pipes[0][1], pipes[1][1], pipes[2][1], spec, program, root):
        os.close(fd)
    theirs.close()
    try:
        yield session
    finally:
        session.close()
        os.waitpid(pid, 0)


def shell(script: str, **changes: object) -> WorkloadSpec:
    return WorkloadSpec(argv=("sh", "-c", script), env={"PATH": "/usr/bin:/bin"}, **changes)  # type: ignore[arg-type]


def test_marks_come_in_the_order_of_the_ladder(tmp_path: Path) -> None:
    with running(shell("exit 0"), tmp_path) as session:
        session.wait("exited", deadline())
        names = [mark.milestone for mark in session.marks]
    assert names == ["init", "exec", "ready", "exited"]


def test_a_workload_that_fails_is_never_ready_and_its_stderr_is_the_hint(tmp_path: Path) -> None:
    with running(shell("echo broken >&2; exit 3"), tmp_path) as session:
        with pytest.raises(AgentError, match="ended with code 3 before it was ready"):
            session.wait("ready", deadline())
        session.finish(deadline())
    assert bytes(session.stderr) == b"broken\n"
    assert session.tail() == "stderr: broken"


def test_missing_executable_names_it(tmp_path: Path) -> None:
    with (
        running(WorkloadSpec(argv=("/no/such/program",)), tmp_path) as session,
        pytest.raises(AgentError, match=r"exec: /no/such/program: No such file"),
    ):
        session.wait("exec", deadline())


def test_a_signal_counts_as_128_plus_its_number(tmp_path: Path) -> None:
    with running(shell("kill -9 $$"), tmp_path) as session:
        assert session.wait("exited", deadline()).detail == "137"


def test_ready_by_a_line_of_stdout(tmp_path: Path) -> None:
    workload = shell(
        "echo starting; sleep 0.05; echo server listening; sleep 60", ready=Ready("line", text="listening")
    )
    with running(workload, tmp_path) as session:
        session.wait("ready", deadline())
        session.finish(deadline())
    assert bytes(session.stdout) == b"starting\nserver listening\n"


def test_ready_by_tcp_and_by_http(tmp_path: Path) -> None:
    program = (
        "import sys, time, http.server as h; time.sleep(0.1); "
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler).serve_forever()"
    )
    for kind, port in (("tcp", 18931), ("http", 18932)):
        workload = WorkloadSpec(
            argv=("/usr/bin/python3", "-c", program, str(port)),
            cwd=str(tmp_path),
            ready=Ready(kind, port=port),  # type: ignore[arg-type]
        )
        with running(workload, tmp_path) as session:
            session.wait("ready", deadline(20))
            session.attest(deadline(20))  # what was marked before has arrived then
            names = {mark.milestone for mark in session.marks}
            assert ("answer" in names) == (kind == "http")
            session.finish(deadline())


def test_what_never_gets_ready_times_out_and_says_what_came_last(tmp_path: Path) -> None:
    with (
        running(shell("sleep 60", ready=Ready("tcp", port=18933)), tmp_path) as session,
        pytest.raises(TrialTimeout, match="ready: not reached in time; last: exec"),
    ):
        session.wait("ready", deadline(0.3))


def test_environment_directory_and_user_reach_the_workload(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    workload = WorkloadSpec(
        argv=("/bin/sh", "-c", 'pwd; id -u; id -g; echo "$A B"'),
        env={"A": "a b", "PATH": "/usr/bin:/bin"},
        cwd="/usr",
        uid=1234,
        gid=4321,
    )
    with running(workload, tmp_path) as session:
        session.wait("exited", deadline())
        session.finish(deadline())
    assert bytes(session.stdout) == b"/usr\n1234\n4321\na b B\n"


def test_all_output_arrives(tmp_path: Path) -> None:
    with running(shell("head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2"), tmp_path) as session:
        session.wait("exited", deadline(20))
        session.finish(deadline(20))
    assert (len(session.stdout), len(session.stderr)) == (3_000_000, 1_000_000)


def test_attestation_tells_the_tree_the_program_and_the_host_computes_the_same(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir(mode=0o700)
    (tmp_path / "b" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "a-link").symlink_to("b/file")
    (tmp_path / "odd\xe9\n name").write_text("y")
    os.mkfifo(tmp_path / "b" / "pipe")
    os.mknod(tmp_path / "null", 0o600 | 0o020000, os.makedev(1, 3))
    with running(shell("exit 0"), tmp_path) as session:
        session.wait("exited", deadline())
        attested = session.attest(deadline())
    assert attested.root_digest == root_digest(tmp_path)
    assert attested.argv == ("sh", "-c", "exit 0")
    assert attested.env == {"PATH": "/usr/bin:/bin"}
    assert attested.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert attested.kernel == os.uname().release
    assert attested.exe_sha256 == hashlib.sha256(Path("/bin/sh").read_bytes()).hexdigest()


def test_inside_reports_what_proc_says(tmp_path: Path) -> None:
    with running(shell("sleep 60", ready=Ready("line", text="never")), tmp_path) as session:
        session.wait("exec", deadline())
        seen = session.inside(deadline())
    assert seen["namespaces"]["pid"] == str(Path("/proc/self/ns/pid").readlink())
    assert int(seen["status"]["CapEff"], 16) > 0
    assert seen["memory_bytes"]["MemTotal"] > 2**20
    assert seen["devices"]["character"] > 3


def test_exec_returns_code_and_both_streams_and_is_bounded_in_time(tmp_path: Path) -> None:
    with running(shell("sleep 60", ready=Ready("line", text="never")), tmp_path) as session:
        session.wait("exec", deadline())
        assert session.exec(["sh", "-c", "echo out; echo err >&2; exit 7"], SECOND_NS) == (7, b"out\n", b"err\n")
        assert session.exec(["/no/such"], SECOND_NS)[0] == 127
        start = time.monotonic()
        assert session.exec(["sleep", "30"], SECOND_NS // 5)[0] == 124
        assert time.monotonic() - start < 3


def test_calibration_marks_carry_the_same_clock_here(tmp_path: Path) -> None:
    with running(shell("sleep 60", ready=Ready("line", text="never")), tmp_path) as session:
        session.wait("exec", deadline())
        marks = [mark for mark in session.calibrate(20, deadline()) if mark.milestone == "cal"]
    delays = delivery_ns(marks, same_clock=True)
    assert len(delays) == 20
    assert all(0 < delay < SECOND_NS for delay in delays)


def test_the_agent_ends_when_the_harness_closes_the_control_channel(tmp_path: Path) -> None:
    with running(shell("sleep 60", ready=Ready("line", text="never")), tmp_path) as session:
        session.wait("exec", deadline())
    # `running` waits for the agent's end after closing: reaching this line is the proof.
