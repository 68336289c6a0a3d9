"""Starts that fail half way, what crosses execve, and a harness that is killed: nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.backends import _local, builtin
from harness.container import cgroups, launcher, mountinfo, plan, plan_control
from harness.container.errors import ContainerError
from harness.container.runtime import Container
from harness.container.spec import Mount, Overlay
from harness.errors import AgentError, BackendError
from harness.interfaces import ArmSpec, RunContext
from harness.model.spec import RootTree
from tests.container_kit import (
    BOTH,
    LIMITS,
    MIB,
    SECOND_NS,
    SLEEPER,
    children,
    deadline,
    is_alive,
    open_fds,
    output_of,
    run_plan,
    running,
    shell,
    until,
)

pytestmark = pytest.mark.needs("root", "overlayfs")


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"root": Overlay(("/no/such/layer",))}, "lower"),
        ({"workspace": "/no/such/directory"}, "mount"),
        ({"attested": "/no/such/tree"}, "tree"),
        ({"mounts": (Mount("/v", source="/no/such/volume", bind=True),)}, "bind"),
        ({"hostname": "x" * 100}, "sethostname"),
    ],
)
def test_start_that_fails_half_way_names_the_step_and_leaves_nothing(
    changes: dict[str, object], step: str, tree: Path, context: RunContext
) -> None:
    launcher.program_fd()  # kept from the first start on
    before, fds = children(), open_fds()
    with pytest.raises(BackendError, match=rf"arm: step \d+ \({step}\)"):
        run_plan(tree, context, "true", **changes)
    assert children() == before
    assert open_fds() == fds


def test_container_that_dies_by_itself_is_an_error_of_the_trial(tree: Path, context: RunContext) -> None:
    failure = pytest.raises(AgentError, match=r"ended with code 137 before it was asked")
    with failure, running("builtin", tree, context, SLEEPER) as instance:
        instance.wait("ready", deadline())
        pid = instance.pid  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid))


def test_repeated_starts_leak_no_fd_and_no_child(tree: Path, context: RunContext) -> None:
    output_of("builtin", tree, context, "true")
    before, fds = children(), open_fds()
    for backend in ("builtin", "process", "builtin"):
        output_of(backend, tree, context, "true")
    assert children() == before
    assert open_fds() == fds


SPY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>
extern char **environ;
int main(int argc, char **argv)
{
	int death = 0, count = 0;
	sigset_t blocked;
	dprintf(1, "fds");
	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			dprintf(1, " %d", fd);
	prctl(PR_GET_PDEATHSIG, &death);
	sigprocmask(SIG_SETMASK, NULL, &blocked);
	for (int signal = 1; signal < 32; signal++) {
		struct sigaction old;
		count += sigismember(&blocked, signal) == 1;
		count += sigaction(signal, NULL, &old) == 0 && old.sa_handler == SIG_IGN;
	}
	char cwd[100];
	dprintf(1, "\ndeath %d\nsignals %d\nargv %d %s\nenv %d\ncwd %s\numask %o\n", death, count, argc, argv[0],
		environ[0] != NULL, getcwd(cwd, sizeof cwd), umask(0));
	dprintf(1, "tree %d\n", mknodat(6, "x", S_IFREG | 0600, 0) < 0 && faccessat(6, "bin/sh", F_OK, 0) == 0);
	return 0;
}
"""


@pytest.fixture(scope="module")
def spy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that says what it was given."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    directory = tmp_path_factory.mktemp("spy")
    (directory / "spy.c").write_text(SPY)
    subprocess.run([compiler, "-static", "-o", str(directory / "spy"), str(directory / "spy.c")], check=True)
    return directory / "spy"


@BOTH
def test_agent_gets_fds_0_to_6_and_nothing_else(backend: str, spy: Path, tree: Path, context: RunContext) -> None:
    kit = _local.Kit(ArmSpec("arm", RootTree(tree, "", 0), shell(""), LIMITS), "container", context)
    arm = ArmSpec("arm", RootTree(tree, "", 0), shell(""), LIMITS)
    steps = (
        plan.container_steps(builtin.container_spec(arm, builtin.Options(), str(context.scratch)), kit.launch())
        if backend == "builtin"
        else plan_control.process_steps(plan_control.ProcessSpec(str(tree), str(tree)), kit.launch())
    )
    leak = os.open("/", os.O_RDONLY)  # an fd that somebody left inheritable
    os.set_inheritable(leak, True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    memfd, program = launcher.plan_memfd(steps), os.open(spy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        group = cgroups.Group(kit.layout, f"{kit.parent}/spy")
        kept = [kit.stdin, writer, *[writer] * 4, memfd]
        container = Container.start(memfd, kept, group, kit.limits, program=program)
        ended = container.wait(10 * SECOND_NS)
        container.delete()
        os.close(writer)
        text = os.read(reader, 65536).decode()
    finally:
        for fd in (leak, reader, memfd, program):
            os.close(fd)
        kit.close()
    assert ended is not None
    assert ended.returncode == 0
    assert text.startswith("\x1eruntime.exec ")
    assert text.split("\n", 1)[1].splitlines() == [
        "fds 0 1 2 3 4 5 6", "death 9", "signals 0", "argv 1 harness-agent", "env 0", "cwd /", "umask 22", "tree 1",
    ]  # fmt: skip


CHILD = """
import json, os, sys, time
from pathlib import Path
from harness import plugins
from harness.interfaces import ArmSpec, RunContext
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
backend, tree, scratch, token = sys.argv[1:]
plugin = plugins.load("backends", backend)
argv = ("/bin/sh", "-c", "sleep 600 & echo up; sleep 600")
workload = WorkloadSpec(argv, {"PATH": "/bin"}, ready=Ready("line", text="up"))
spec = ArmSpec("arm", RootTree(Path(tree), "", 0), workload, Limits())
arm = plugin.prepare(spec, plugin.options(), RunContext("test", token, Path(scratch), Path(scratch)))
instance = arm.launch("t0")
instance.wait("ready", time.monotonic_ns() + 10**10)
print(json.dumps(instance.pids()), flush=True)
time.sleep(600)
"""


@BOTH
def test_kill_9_leaves_no_process_and_reaping_removes_the_rest(backend: str, tree: Path, context: RunContext) -> None:
    argv = [sys.executable, "-c", CHILD, backend, str(tree), str(context.scratch), context.token]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        pids = json.loads(harness.stdout.readline())
        harness.kill()
    assert len(pids) >= 3
    if backend == "builtin":  # the whole pid namespace dies with the agent, and all mounts with the last process
        until(lambda: not any(is_alive(pid) for pid in pids))
        assert mountinfo.below(str(context.scratch)) == ()
    else:
        until(lambda: not is_alive(min(pids)))
    assert context.token in _local.tokens()
    wanted = {"builtin": {"cgroup"}, "process": {"cgroup", "mount"}}[backend]
    told = _local.reap(context.token, dry_run=True)
    assert {line.partition(":")[0] for line in told} - {"process"} == wanted
    assert context.token in _local.tokens()
    _local.reap(context.token, dry_run=False)
    assert context.token not in _local.tokens()
    assert mountinfo.below(str(context.scratch)) == ()
    assert not any(is_alive(pid) for pid in pids)


def test_group_that_exists_already_is_never_taken_over(tree: Path, context: RunContext) -> None:
    layout, name = cgroups.detect(), f"harness-{context.token}"
    cgroups.prepare_parent(layout, name)
    group = cgroups.Group(layout, f"{name}/t0")
    limits = cgroups.Limits(MIB, 1, 1)
    group.create(limits)
    try:
        with pytest.raises(ContainerError, match="File exists"):
            group.create(limits)
        assert all(Path(directory).is_dir() for directory in group.directories)
    finally:
        cgroups.remove_group(layout, name, deadline())
