"""What goes wrong with other runtimes is the failure of one trial, or of one runtime, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.errors import AgentError, BackendError
from harness.host.paths import cache_dir
from harness.images.tree import root_digest
from harness.interfaces import Arm, ArmSpec, RunContext
from harness.model.milestones import EXEC, READY
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
from harness.trials import ownership

pytestmark = pytest.mark.needs("root", "overlayfs")
SLEEP = WorkloadSpec(("/bin/sleep", "600"), {"PATH": "/bin"}, ready=Ready("line", text="never"))


def deadline(seconds: float = 30) -> int:
    return time.monotonic_ns() + round(seconds * 1e9)


@contextmanager
def arm(backend: str, tree: RootTree, **options: Any) -> Iterator[Arm]:
    """Yield an arm; nothing of its run is left afterwards."""
    plugin, token = plugins.load("backends", backend), secrets.token_hex(4)
    context = RunContext("peers", token, ownership.claim(token, "peers"), cache_dir())
    made = plugin.prepare(ArmSpec("peer", tree, SLEEP, Limits(pids=64)), plugin.options(**options), context)
    try:
        yield made
    finally:
        made.close()
        left = plugin.reap(token, dry_run=True)
        ownership.reap(token, [plugin], dry_run=False)
    assert left == []


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> RootTree:
    root = tmp_path_factory.mktemp("tree")
    (root / "bin").mkdir()
    (root / "bin" / "sleep").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin" / "sleep").chmod(0o755)
    return RootTree(root, root_digest(root), 0)


@pytest.mark.needs("runc")
def test_a_container_that_is_killed_in_the_middle_fails_its_trial_and_the_next_one_starts(tree: RootTree) -> None:
    with arm("runc", tree) as made:
        instance = made.launch("t0")
        instance.wait(EXEC, deadline())
        os.kill(instance.pid, signal.SIGKILL)
        with pytest.raises(AgentError, match="gone before ready; last: "):
            instance.wait(READY, deadline())
        with pytest.raises(AgentError):
            instance.stop(deadline())
        after = made.launch("t1")
        after.wait(EXEC, deadline())
        after.stop(deadline())


def _open_files(pid: int) -> list[Path]:
    """Return what a process has open; what it closes meanwhile is left out."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(fd.readlink())
    return found


@pytest.mark.needs("bwrap")
def test_what_whoever_started_us_left_open_does_not_reach_a_container(tree: RootTree) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # as a shell's descriptors are; bwrap hands everything down
    ours = Path(f"/proc/self/fd/{writer}").readlink()
    with arm("bwrap", tree) as made:
        instance = made.launch("t0")
        instance.wait(EXEC, deadline())
        links = [link for pid in instance.pids() for link in _open_files(pid)]
        instance.stop(deadline())
    os.close(reader)
    os.close(writer)
    assert links
    assert ours not in links


def test_what_a_runtime_says_when_it_refuses_is_the_reason(tree: RootTree, tmp_path: Path) -> None:
    program = tmp_path / "refuses"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "error: no such luck" >&2; exit 3\n')
    program.chmod(0o755)
    with arm("oci", tree, path=str(program)) as made:
        instance = made.launch("t0")
        with pytest.raises(BackendError, match="peer: refuses: error: no such luck"):
            instance.wait(READY, deadline())
        with pytest.raises(AgentError, match="ended with code 3"):
            instance.stop(deadline())


def test_an_engine_that_is_not_there_is_told_by_each_trial_and_not_before(tree: RootTree) -> None:
    with (
        arm("docker", tree, engine="/nowhere/docker.sock") as made,
        pytest.raises(BackendError, match=r"/nowhere/docker.sock: .*No such file"),
    ):
        made.launch("t0")
