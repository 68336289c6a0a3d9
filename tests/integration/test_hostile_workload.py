"""Workloads and images that misbehave: they do not reach the host, and the trial ends in time with a clear reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import plugins
from harness.agent.session import OUTPUT_MAX_BYTES
from harness.errors import AgentError, TrialError, TrialTimeout
from harness.images.tree import root_digest
from harness.interfaces import ArmSpec, Instance, RunContext
from harness.model.spec import Ready, RootTree, WorkloadSpec
from tests.container_kit import (
    BOTH,
    LIMITS,
    SECOND_NS,
    SLEEPER,
    children,
    deadline,
    is_alive,
    open_fds,
    output_of,
    running,
    shell,
    until,
)

pytestmark = pytest.mark.needs("root", "overlayfs")

UP = Ready("line", text="up")


HOSTILE = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
/* ARGS: port, then for each connection (the last serves all that follow): seconds of silence, text, us after each byte.
 * '@' is a body of 200 kB in pieces: SIGPIPE ends us where the client is gone. Silence for ever: "-". */
static int serve(int argc, char **argv)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 64))
		return 3;
	for (int i = 0;; i++) {
		int at = 3 + 3 * i < argc ? 3 + 3 * i : argc - 3;
		int peer = accept(listener, NULL, NULL);
		char request[512];
		if (argv[at][0] == '-')
			continue;
		read(peer, request, sizeof request);
		usleep((unsigned)(atof(argv[at]) * 1e6));
		for (char *text = argv[at + 1]; *text; text++) {
			for (int n = 0; *text == '@' && n < 20; n++)
				write(peer, calloc(10000, 1), 10000), usleep(3000);
			if (*text != '@')
				write(peer, text, 1);
			usleep((unsigned)atoi(argv[at + 2]));
		}
		dprintf(1, "served\n");
		close(peer);
	}
}
/* What crossed execve, one a line. */
static int inherited(void)
{
	sigset_t blocked;
	sigprocmask(SIG_BLOCK, NULL, &blocked);
	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			dprintf(1, "fd %d\n", fd);
	for (int number = 1; number < 32; number++) {
		struct sigaction action;
		sigaction(number, NULL, &action);
		if (action.sa_handler != SIG_DFL || sigismember(&blocked, number))
			dprintf(1, "signal %d\n", number);
	}
	return 0;
}
/* Whether root inside can take fds of pid 1 or attach to it, as a guest's root can. */
static int steal(void)
{
	int agent = syscall(SYS_pidfd_open, 1, 0);
	for (int fd = 0; fd < 16; fd++)
		if (syscall(SYS_pidfd_getfd, agent, fd, 0) >= 0)
			dprintf(1, "took fd %d\n", fd);
	if (ptrace(PTRACE_SEIZE, 1, 0, 0) == 0)
		dprintf(1, "attached\n");
	return dprintf(1, "pidfd %d\n", agent >= 0) < 0;
}
int main(int argc, char **argv)
{
	if (strcmp(argv[1], "steal") == 0)
		return steal();
	if (strcmp(argv[1], "inherited") == 0)
		return inherited();
	if (strcmp(argv[1], "serve") == 0)
		return serve(argc, argv);
	if (strcmp(argv[1], "ids") == 0)
		return dprintf(1, "%d %d\n", getuid(), geteuid()) < 0;
	for (pid_t pid; (pid = fork()) >= 0;) /* bomb */
		if (pid == 0)
			pause();
	dprintf(1, "up\n");
	pause();
}
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("hostile") / "hostile"
    program.with_suffix(".c").write_text(HOSTILE)
    subprocess.run([compiler, "-static", "-w", "-o", str(program), str(program.with_suffix(".c"))], check=True)
    return program


def add_script(tree: Path, name: str, text: str, mode: int = 0o755) -> None:
    (tree / name).write_text(text)
    (tree / name).chmod(mode)


# -- what it could reach ---------------------------------------------------------------------------------------------


@BOTH
def test_stdin_is_no_inode_of_the_host(backend: str, tree: Path, context: RunContext) -> None:
    """Root inside may change mode and owner of what it has open: it must be its own null device."""
    host = Path("/dev/null").stat()
    (line,) = output_of(backend, tree, context, "stat -L -c '%d %i %t:%T' /proc/self/fd/0")
    device, inode, number = line.split()
    assert number == "1:3"
    assert (int(device), int(inode)) != (host.st_dev, host.st_ino)


def test_the_agents_fds_memory_and_program_cannot_be_opened(tree: Path, context: RunContext) -> None:
    script = (
        "for f in fd/3 fd/4 fd/5 fd/6 exe root/bin cwd/bin; do [ -e /proc/1/$f ] && echo REACHED $f; "
        "readlink /proc/1/$f && echo NAMED $f; done; for f in mem environ fd/1 fd/4 fd/5 exe; do "
        "cat /proc/1/$f > /dev/null && echo READ $f; echo x >> /proc/1/$f && echo WRITTEN $f; done; echo done"
    )
    lines = output_of("builtin", tree, context, script)
    assert "done" in lines
    assert not [line for line in lines if line.startswith(("REACHED", "NAMED", "READ", "WRITTEN"))]


def test_the_agents_fds_cannot_be_taken_through_a_pidfd(tree: Path, hostile: Path, context: RunContext) -> None:
    shutil.copy(hostile, tree / "hostile")
    with running("builtin", tree, context, WorkloadSpec(("/hostile", "steal"))) as instance:
        instance.wait("exited", deadline())
    assert instance.output()[0] == b"pidfd 1\n"


@BOTH
def test_the_workload_has_only_its_three_fds_and_no_ignored_signal(
    backend: str, tree: Path, hostile: Path, context: RunContext
) -> None:
    """What a caller ignores (nohup, a background job, Python itself) must not differ between the sides."""
    shutil.copy(hostile, tree / "hostile")
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT)
    }
    try:
        workload = WorkloadSpec(("/hostile", "inherited"))
        with running(backend, tree, context, workload) as instance:
            instance.wait("exited", deadline())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert instance.output()[0] == b"fd 0\nfd 1\nfd 2\n"


@BOTH
@pytest.mark.parametrize("number", range(3, 12))
def test_a_working_directory_behind_an_fd_of_the_agent_is_refused(
    backend: str, number: int, tree: Path, context: RunContext
) -> None:
    workload = shell("ls -la . ..; pwd", cwd=f"/proc/self/fd/{number}")
    with running(backend, tree, context, workload) as instance, pytest.raises(AgentError, match="exec: /proc/self/fd"):
        instance.wait("ready", deadline())
    assert instance.output() == (b"", b"")


def test_pid_1_cannot_be_stopped_or_killed_from_inside(tree: Path, context: RunContext) -> None:
    script = "for s in STOP TERM KILL HUP ABRT; do kill -$s 1; done; kill -9 -1; echo up; exec sleep 600"
    with running("builtin", tree, context, shell(script, ready=UP)) as instance:
        instance.wait("ready", deadline())
        assert instance.exec(["echo", "alive"], SECOND_NS).stdout == b"alive\n"


@BOTH
def test_marks_on_stdout_are_output(backend: str, tree: Path, context: RunContext) -> None:
    script = r"printf '\036ready 1\n\036exited 1 0\n\036error 1 fooled\n'; exec sleep 600"
    with running(backend, tree, context, shell(script, ready=UP)) as instance:
        until(lambda: instance.output()[0].endswith(b"fooled\n"))
        with pytest.raises(TrialTimeout, match=r"last: (exec|returned)$"):  # these two are in either order
            instance.wait("ready", deadline(0.3))
    assert instance.output()[0] == b"\x1eready 1\n\x1eexited 1 0\n\x1eerror 1 fooled\n"


def test_few_capabilities_are_enough_for_a_workload_that_stays_root(tree: Path, context: RunContext) -> None:
    lines = output_of("builtin", tree, context, "id -u; id -G; grep CapEff /proc/self/status", capabilities=["kill"])
    assert lines == ["0", "0", f"CapEff:\t{1 << 5:016x}"]


# -- what it is asked to run -----------------------------------------------------------------------------------------


def make_directory(tree: Path) -> None:
    (tree / "app").mkdir()


def make_fifo(tree: Path) -> None:
    os.mkfifo(tree / "app")
    (tree / "app").chmod(0o755)


def make_device(tree: Path) -> None:
    os.mknod(tree / "app", 0o755 | 0o020000, os.makedev(1, 5))
    (tree / "app").chmod(0o755)


def make_dangling(tree: Path) -> None:
    (tree / "app").symlink_to("/no/where")


def make_loop(tree: Path) -> None:
    (tree / "app").symlink_to("app")


def make_uninterpreted(tree: Path) -> None:
    add_script(tree, "app", "#!/no/such/interpreter\n")


def make_not_executable(tree: Path) -> None:
    add_script(tree, "app", "#!/bin/sh\n", 0o644)


def make_garbage(tree: Path) -> None:
    add_script(tree, "app", "\x7fELF nonsense")


def make_empty(tree: Path) -> None:
    add_script(tree, "app", "")


@BOTH
@pytest.mark.parametrize("argv", [("/app",), ("app",)], ids=["path", "name"])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_directory, "Permission denied"),
        (make_fifo, "Permission denied"),
        (make_device, "Permission denied"),
        (make_dangling, "No such file"),
        (make_loop, "ymbolic"),
        (make_uninterpreted, "No such file"),
        (make_not_executable, "Permission denied"),
        (make_garbage, "Exec format error"),
        (make_empty, "Exec format error"),
    ],
)
def test_what_cannot_be_executed_is_named_with_its_reason(
    backend: str, make: Callable[[Path], None], why: str, argv: tuple[str, ...], tree: Path, context: RunContext
) -> None:
    make(tree)
    workload = WorkloadSpec(argv, {"PATH": "/"})
    start = time.monotonic()
    with (
        running(backend, tree, context, workload) as instance,
        pytest.raises(AgentError, match=f"exec: .*app: .*{why}"),
    ):
        instance.wait("ready", deadline())
    assert time.monotonic() - start < 5


@BOTH
def test_the_reason_is_told_however_long_the_path_is(backend: str, tree: Path, context: RunContext) -> None:
    below = "/".join(["d" * 250] * 8)
    (tree / below).mkdir(parents=True)
    add_script(tree, f"{below}/app", "no program")
    failure = pytest.raises(AgentError, match=r"exec: /d+: Exec format error")
    with running(backend, tree, context, WorkloadSpec((f"/{below}/app",))) as instance, failure:
        instance.wait("ready", deadline())


@BOTH
def test_a_directory_earlier_in_the_path_does_not_hide_a_program(backend: str, tree: Path, context: RunContext) -> None:
    (tree / "first" / "program").mkdir(parents=True)
    (tree / "second").mkdir()
    add_script(tree, "second/program", "#!/bin/sh\necho found\n")
    workload = WorkloadSpec(("program",), {"PATH": "/none:first::/second"}, cwd="/")
    with running(backend, tree, context, workload) as instance:
        instance.wait("exited", deadline())
    assert instance.output()[0] == b"found\n"


def test_the_runtime_cannot_be_executed_again_as_an_interpreter(tree: Path, context: RunContext) -> None:
    add_script(tree, "app", "#!/proc/self/exe\n")
    with running("builtin", tree, context, WorkloadSpec(("/app",))) as instance:
        assert instance.wait("exited", deadline()).detail != "0"


def test_a_setuid_program_gives_nothing(tree: Path, hostile: Path, context: RunContext) -> None:
    shutil.copy(hostile, tree / "hostile")
    (tree / "hostile").chmod(0o4755)
    workload = WorkloadSpec(("/hostile", "ids"), uid=1234, gid=1234)
    with running("builtin", tree, context, workload) as instance:
        instance.wait("exited", deadline())
    assert instance.output()[0] == b"1234 1234\n"


@BOTH
def test_arguments_up_to_the_kernels_limit_arrive_and_are_attested(
    backend: str, tree: Path, context: RunContext
) -> None:
    long = ["x" * 120_000] * 8
    env = {"PATH": "/bin", **{f"V{i}": "v" * 100_000 for i in range(8)}}
    workload = WorkloadSpec(("/bin/sh", "-c", "echo $# ${#1} ${#V0}", "sh", *long), env)
    with running(backend, tree, context, workload) as instance:
        instance.wait("exited", deadline())
        attested = instance.attest(deadline())
        assert instance.exec(["sh", "-c", "echo $#", "sh", *long], 5 * SECOND_NS).stdout == b"8\n"
    assert instance.output()[0] == b"8 120000 100000\n"
    assert attested.argv == workload.argv
    assert attested.env == workload.env


@BOTH
@pytest.mark.parametrize(
    "argv", [("/bin/true", "x" * 140_000), ("/bin/true", *["x" * 1000] * 3000)], ids=["one", "all"]
)
def test_more_arguments_than_the_kernel_takes_are_an_error_of_the_trial(
    backend: str, argv: tuple[str, ...], tree: Path, context: RunContext
) -> None:
    failure = pytest.raises(AgentError, match=r"exec: /bin/true: Arg(ument)? list too long")
    with running(backend, tree, context, WorkloadSpec(argv)) as instance, failure:
        instance.wait("ready", deadline())


@BOTH
def test_a_path_longer_than_the_kernels_is_an_error_of_the_trial(backend: str, tree: Path, context: RunContext) -> None:
    for argv in (("/" + "a/" * 3000,), ("a" * 5000,)):
        failure = pytest.raises(AgentError, match=r"exec: /?a.*: .*too long")
        with running(backend, tree, context, WorkloadSpec(argv, {"PATH": "/bin"})) as instance, failure:
            instance.wait("ready", deadline())


# -- what it does ----------------------------------------------------------------------------------------------------


@BOTH
def test_a_flood_of_output_does_not_get_in_the_way(backend: str, tree: Path, context: RunContext) -> None:
    script = "echo up; yes flood >&2 & exec yes flood"
    with running(backend, tree, context, shell(script, ready=UP)) as instance:
        instance.wait("ready", deadline())
        assert instance.inside()["subject"] == "workload"
        assert instance.exec(["echo", "through"], 5 * SECOND_NS).stdout == b"through\n"
        assert len([mark for mark in instance.calibrate(3) if mark.milestone == "cal"]) == 3
    assert all(len(stream) <= OUTPUT_MAX_BYTES for stream in instance.output())


@BOTH
def test_megabytes_without_a_line_end_before_the_awaited_line(backend: str, tree: Path, context: RunContext) -> None:
    script = "head -c 6000000 /dev/zero | tr '\\0' x; echo; echo ready to serve; exec sleep 600"
    with running(backend, tree, context, shell(script, ready=Ready("line", text="to serve"))) as instance:
        instance.wait("ready", deadline())
    assert len(instance.output()[0]) == 6_000_000 + len("\nready to serve\n")


DAEMON = "(setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > /pid; while :; do sleep 1; done' &) ; "


@BOTH
def test_daemons_in_sessions_of_their_own_end_and_do_not_delay_the_end(
    backend: str, tree: Path, context: RunContext
) -> None:
    script = DAEMON + "while ! [ -s /pid ]; do :; done; echo up; sleep 600"
    with running(backend, tree, context, shell(script, ready=UP)) as instance:
        instance.wait("ready", deadline())
        until(lambda: len(instance.pids()) >= 3)
        pids = instance.pids()
        start = time.monotonic()
        instance.stop(deadline())
        assert time.monotonic() - start < 1.5  # a daemon that holds the pipe would take the agent's whole 2 s
    assert not any(is_alive(pid) for pid in pids)
    assert "exited" not in [mark.milestone for mark in instance.marks]


@BOTH
def test_a_workload_that_closed_its_streams_or_stopped_itself_ends_when_asked(
    backend: str, tree: Path, context: RunContext
) -> None:
    for script in ("echo up; exec sleep 600 >&- 2>&- <&-", "echo up; kill -STOP $$"):
        with running(backend, tree, context, shell(script, ready=UP)) as instance:
            instance.wait("ready", deadline())
            start = time.monotonic()
            instance.stop(deadline())
            assert time.monotonic() - start < 1.5


@BOTH
def test_a_command_that_cannot_be_forked_does_not_end_the_agent(
    backend: str, tree: Path, hostile: Path, context: RunContext
) -> None:
    shutil.copy(hostile, tree / "hostile")
    with running(backend, tree, context, WorkloadSpec(("/hostile", "bomb"), ready=UP)) as instance:
        instance.wait("ready", deadline())
        assert len(instance.pids()) == LIMITS.pids
        result = instance.exec(["true"], SECOND_NS)
        assert (result.returncode, result.stderr) == (127, b"fork: Resource temporarily unavailable")
        assert instance.inside()["subject"] == "workload"


@BOTH
def test_memory_eaten_until_the_oom_killer_comes_leaves_an_ending_that_can_be_told(
    backend: str, tree: Path, context: RunContext
) -> None:
    eaters = "echo up; for i in 1 2 3 4; do (while :; do x=$x$x$x.; done) & done; wait; echo survived; exec sleep 600"
    with running(backend, tree, context, shell(eaters, ready=UP)) as instance:
        instance.wait("ready", deadline())
        until(lambda: b"survived" in instance.output()[0])
        assert instance.exec(["echo", "alive"], 5 * SECOND_NS).stdout == b"alive\n"


@BOTH
def test_a_full_disk_inside_does_not_get_in_the_way(backend: str, tree: Path, context: RunContext) -> None:
    script = "mkdir -p /tmp; dd if=/dev/zero of=/tmp/fill bs=1M count=500; echo x > /dev/shm/x; echo up; exec sleep 600"
    with running(backend, tree, context, shell(script, ready=UP)) as instance:
        instance.wait("ready", deadline())
        assert instance.exec(["echo", "alive"], 5 * SECOND_NS).stdout == b"alive\n"
    assert b"No space left" in instance.output()[1]


@BOTH
def test_removed_devices_and_a_replaced_shell_do_not_get_in_the_way(
    backend: str, tree: Path, context: RunContext
) -> None:
    digest = root_digest(tree)
    trees = {"builtin": "/dev/* /proc/* /sys/*", "process": "/dev/*"}[backend]
    script = (
        f"rm -rf {trees} 2> /dev/null; rm -f /bin/sh; echo '#!/bin/busybox cat' > /bin/sh; chmod +x /bin/sh; "
        "echo up; while :; do sleep 1; done"
    )
    with running(backend, tree, context, shell(script, ready=UP)) as instance:
        instance.wait("ready", deadline())
        assert instance.exec(["sh"], 5 * SECOND_NS).stdout == b"#!/bin/busybox cat\n"
        attested = instance.attest(deadline())
        assert attested.root_digest == digest
        assert attested.exe_sha256 == attested_sha256(tree)
        assert instance.inside()["subject"] == "workload"


def attested_sha256(tree: Path) -> str:
    argv = ["sha256sum", str((tree / "bin" / "busybox").resolve())]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[0]


# -- servers that answer strangely -----------------------------------------------------------------------------------

PORT = 18941


def serving(tree: Path, hostile: Path, *connections: str) -> WorkloadSpec:
    shutil.copy(hostile, tree / "hostile")
    return WorkloadSpec(("/hostile", "serve", str(PORT), *connections), ready=Ready("http", port=PORT, path="/"))


@pytest.mark.parametrize("answer", ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 302 Found\r\nLocation: http://x/\r\n\r\n",
                                    "HTTP/1.1 404 No\r\n\r\n"])  # fmt: skip
@BOTH
def test_any_status_below_500_is_ready_and_a_redirect_is_not_followed(
    backend: str, answer: str, tree: Path, hostile: Path, context: RunContext
) -> None:
    with running(backend, tree, context, serving(tree, hostile, "0", answer, "0")) as instance:
        instance.wait("ready", deadline())


@pytest.mark.parametrize(
    "answer",
    ["HTTP/1.1 503 Wait\r\n\r\n", "HTTP/1.1", "", "220 smtp.example ESMTP\r\n", "x" * 100, "HTTP/1.1 9999999\r\n"],
)
def test_garbage_is_not_ready_and_the_next_answer_counts(
    answer: str, tree: Path, hostile: Path, context: RunContext
) -> None:
    good = "HTTP/1.1 200 OK\r\n\r\n"
    workload = serving(tree, hostile, "0", answer, "0", "0", answer, "0", "0", good, "0")
    with running("builtin", tree, context, workload) as instance:
        instance.wait("ready", deadline())
        until(lambda: instance.output()[0] == b"served\n" * 3)


def test_a_connection_that_is_never_answered_is_given_up_for_another(
    tree: Path, hostile: Path, context: RunContext
) -> None:
    workload = serving(tree, hostile, "-", "", "0", "0", "HTTP/1.1 200 OK\r\n\r\n", "0")
    with running("builtin", tree, context, workload) as instance:
        assert instance.wait("ready", deadline(20)).at_ns - instance.wait("exec", 0).at_ns > 9 * SECOND_NS


def test_an_answer_that_trickles_is_ready_when_its_status_is_there(
    tree: Path, hostile: Path, context: RunContext
) -> None:
    workload = serving(tree, hostile, "0", "HTTP/1.1 200 OK\r\n\r\n", "30000")
    with running("builtin", tree, context, workload) as instance:
        instance.wait("ready", deadline(10))


@BOTH
def test_a_server_may_finish_its_answer(backend: str, tree: Path, hostile: Path, context: RunContext) -> None:
    """One that does not ignore SIGPIPE would die if its first client left in the middle of the body."""
    with running(backend, tree, context, serving(tree, hostile, "0", "HTTP/1.1 200 OK\r\n\r\n@", "0")) as instance:
        instance.wait("ready", deadline())
        until(lambda: instance.output()[0] == b"served\n")


def test_an_endless_body_ends_with_the_client(tree: Path, hostile: Path, context: RunContext) -> None:
    workload = serving(tree, hostile, "0", "HTTP/1.1 200 OK\r\n\r\n" + "@" * 40, "0")
    with running("builtin", tree, context, workload) as instance:
        instance.wait("ready", deadline())
        assert instance.wait("exited", deadline()).detail == str(128 + signal.SIGPIPE)


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_server_of_the_host_on_the_port_is_not_taken_for_the_workload(
    kind: str, tree: Path, context: RunContext
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        workload = shell("exec sleep 600", ready=Ready(kind, port=port))  # type: ignore[arg-type]
        failure = pytest.raises(AgentError, match=f"ready: port {port}: something listens on it already")
        with running("process", tree, context, workload) as instance, failure:
            instance.wait("ready", deadline())


# -- how it ends -----------------------------------------------------------------------------------------------------


@BOTH
def test_an_agent_that_was_stopped_is_killed_at_the_deadline(backend: str, tree: Path, context: RunContext) -> None:
    with running(backend, tree, context, SLEEPER) as instance:
        instance.wait("ready", deadline())
        pids = instance.pids()
        os.kill(min(pids), signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(TrialTimeout, match="no answer to 'stop' in time"):
            instance.stop(deadline(0.5))
        assert time.monotonic() - start < 2
        assert not any(is_alive(pid) for pid in pids)


@BOTH
def test_an_agent_that_was_killed_is_an_error_at_once(backend: str, tree: Path, context: RunContext) -> None:
    with running(backend, tree, context, SLEEPER) as instance:
        instance.wait("ready", deadline())
        pids = instance.pids()
        os.kill(min(pids), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(AgentError):
            instance.inside()
        with pytest.raises(AgentError):
            instance.stop(deadline(30))
        assert time.monotonic() - start < 3
        assert not any(is_alive(pid) for pid in pids)


HARNESS = """
import json, os, sys, time
from pathlib import Path
from harness import plugins
from harness.interfaces import ArmSpec, RunContext
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
backend, tree, scratch, token, script = sys.argv[1:]
plugin = plugins.load("backends", backend)
workload = WorkloadSpec(("/bin/sh", "-c", script), {"PATH": "/bin"}, ready=Ready("line", text="up"))
spec = ArmSpec("arm", RootTree(Path(tree), "", 0), workload, Limits())
arm = plugin.prepare(spec, plugin.options(), RunContext("test", token, Path(scratch), Path(scratch)))
instance = arm.launch("t0")
instance.wait("ready", time.monotonic_ns() + 10**10)
print(json.dumps(instance.pids()), flush=True)
instance.exec(["sleep", "600"], 600 * 10**9)  # the agent is busy when the harness dies
"""


@BOTH
def test_kill_9_of_the_harness_ends_all_that_the_workload_started(
    backend: str, tree: Path, context: RunContext
) -> None:
    script = DAEMON + "while ! [ -s /pid ]; do :; done; sleep 600 & (sleep 600 & sleep 600) & echo up; wait"
    argv = [sys.executable, "-c", HARNESS, backend, str(tree), str(context.scratch), context.token, script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        pids = json.loads(harness.stdout.readline())
        harness.kill()
    try:
        assert len(pids) >= 6
        until(lambda: not any(is_alive(pid) for pid in pids))
    finally:
        plugins.load("backends", backend).reap(context.token, dry_run=False)


@pytest.mark.parametrize("backend", ["builtin", "process"])
def test_fifty_launches_leave_no_fd_no_thread_and_no_child(backend: str, tree: Path, context: RunContext) -> None:
    plugin = plugins.load("backends", backend)
    workload = shell("echo some output; echo up; exec sleep 600", ready=UP)
    arm = plugin.prepare(ArmSpec("arm", RootTree(tree, "", 0), workload, LIMITS), plugin.options(), context)
    try:
        _launch_and_end(arm.launch("first"), 0)
        fds, threads, before = open_fds(), threading.active_count(), children()
        for number in range(50):
            _launch_and_end(arm.launch(f"t{number}"), number)
        assert open_fds() == fds
        assert threading.active_count() == threads
        assert children() == before
    finally:
        arm.close()


def _launch_and_end(instance: Instance, number: int) -> None:
    """Every third one goes wrong: its agent is killed."""
    instance.wait("ready", deadline())
    if number % 3 == 2:
        os.kill(min(instance.pids()), signal.SIGKILL)
        with pytest.raises(TrialError):
            instance.stop(deadline())
    else:
        instance.stop(deadline())
