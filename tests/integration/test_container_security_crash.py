"""Runtimes killed at any moment, and many at once: nothing is left that `delete --force` does not take."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from harness.backends import _local
from harness.container import mountinfo
from harness.container.errors import ContainerError
from harness.interfaces import RunContext
from tests.container_kit import is_alive
from tests.integration.attack_kit import OCI, Box, Document, box, until

pytestmark = pytest.mark.needs("root", "overlayfs")

ROUNDS = 40
LONGEST_S = 0.035


@pytest.fixture
def bundle(busybox: Path) -> Iterator[Box]:
    with box(busybox) as made:
        yield made


# Runs a method of the runtime in a child for each line `verb id delay expected`, kills the child after the delay, and
# becomes the parent of all that it leaves. Says how many processes remain once those that end by themselves have ended.
KILLER = r"""
import os, signal, sys, time
from contextlib import suppress
from harness.container import syscalls
from harness.container.oci import Runtime
root, bundle = sys.argv[1:]
Runtime(root).create("warm", bundle); Runtime(root).delete("warm", force=True)

def living():
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())

with syscalls.child_subreaper():
    print("ready", flush=True)
    for line in sys.stdin:
        verb, name, delay, expected = line.split()
        if verb != "count":
            child = os.fork()
            if child == 0:
                runtime = Runtime(root)
                try:
                    runtime.create(name, bundle) if verb == "create" else runtime.delete(name, force=True)
                finally:
                    os._exit(0)
            time.sleep(float(delay))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        end = time.monotonic() + 5
        while living() > int(expected) and time.monotonic() < end:
            time.sleep(0.002)
        print(living(), flush=True)
"""


@contextmanager
def killer(bundle: Box) -> Iterator[tuple[IO[str], IO[str]]]:
    argv = [sys.executable, "-c", KILLER, str(bundle.state), str(bundle.bundle)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.stdin, process.stdout
        process.stdin.close()


def _ask(pipes: tuple[IO[str], IO[str]], verb: str, name: str, delay: float, expected: int) -> int:
    print(verb, name, delay, int(expected), file=pipes[0], flush=True)
    return int(pipes[1].readline())


def _user_namespace(document: Document) -> None:
    document["linux"]["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        document["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def _status(bundle: Box, name: str) -> str:
    with suppress(ContainerError):
        return bundle.runtime.state(name)[1]
    return ""


@pytest.mark.parametrize("kind", ["plain", "user namespace"])
def test_create_killed_at_any_moment_leaves_what_delete_takes(kind: str, bundle: Box) -> None:
    """A naive runtime leaves mounts on the host, groups that nobody knows, or a process that waits for ever."""
    document = bundle.document()
    if kind != "plain":
        _user_namespace(document)
    bundle.write(document)
    chance = random.Random(0)
    seen: set[str] = set()
    with killer(bundle) as pipes:
        for number in range(ROUNDS):
            name = f"c{number}"
            _ask(pipes, "create", name, chance.uniform(0, LONGEST_S), 1)
            created = [line for line in mountinfo.below(str(bundle.bundle.parent)) if line]
            assert created == [], "a mount on the host"
            known = name in bundle.runtime.homes.ids()
            status = _status(bundle, name) if known else ""
            living = _ask(pipes, "count", name, 0, status == "created")
            if not living:  # it may have been dying when it was asked first
                status = _status(bundle, name) if known else ""
            assert living == (status == "created"), f"{living} processes, and it is {status!r}"
            if known:
                bundle.runtime.delete(name, force=True)
            seen.add(status if known else "nothing")
            assert _ask(pipes, "count", name, 0, 0) == 0
            assert not _states_and_groups(bundle)
    assert len(seen) >= 2, f"too few different moments were met: {seen}"


def _states_and_groups(bundle: Box) -> list[str]:
    return [text for text in bundle.leftovers() if not text.startswith("pid ")]


def test_delete_killed_at_any_moment_can_be_repeated(bundle: Box) -> None:
    bundle.write(bundle.document())
    chance = random.Random(1)
    with killer(bundle) as pipes:
        for number in range(ROUNDS // 2):
            name = f"d{number}"
            bundle.runtime.create(name, str(bundle.bundle))
            _ask(pipes, "delete", name, chance.uniform(0, LONGEST_S), 1)
            if name in bundle.runtime.homes.ids():
                bundle.runtime.delete(name, force=True)
            until(lambda: not _states_and_groups(bundle) and len(bundle.processes()) == 1)  # that of `killer`


def test_command_killed_at_any_moment_leaves_what_delete_takes(bundle: Box) -> None:
    """The whole command, with Python's own start; what it leaves may end a moment after it."""
    bundle.write(bundle.document())
    chance = random.Random(2)
    for number in range(15):
        name = f"k{number}"
        argv = [OCI, "--root", str(bundle.state), "create", name]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(argv, cwd=bundle.bundle, **streams) as process:  # type: ignore[call-overload]
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.05, 0.4))
            process.kill()
        assert mountinfo.below(str(bundle.bundle.parent)) == ()
        assert bundle.oci("delete", "--force", name).returncode == 0
        until(lambda: not bundle.leftovers())


LIBRARY = """
import sys, time
from pathlib import Path
from harness import plugins
from harness.interfaces import ArmSpec, RunContext
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
tree, scratch, token = sys.argv[1:]
plugin = plugins.load("backends", "builtin")
argv = ("/bin/sh", "-c", "sleep 600 & echo up; sleep 600")
workload = WorkloadSpec(argv, {"PATH": "/bin"}, ready=Ready("line", text="up"))
spec = ArmSpec("arm", RootTree(Path(tree), "", 0), workload, Limits())
print("ready", flush=True)
arm = plugin.prepare(spec, plugin.options(), RunContext("test", token, Path(scratch), Path(scratch)))
for number in range(1000):
    instance = arm.launch(f"t{number}")
    instance.wait("ready", time.monotonic_ns() + 10**10)
    instance.stop(time.monotonic_ns() + 10**10)
"""


def test_harness_killed_at_any_moment_leaves_directories_alone(tree: Path, context: RunContext) -> None:
    """The library in a loop of starts and stops; the kernel ends the container with the harness (PR_SET_PDEATHSIG)."""
    chance = random.Random(3)
    for _ in range(12):
        argv = [sys.executable, "-c", LIBRARY, str(tree), str(context.scratch), context.token]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as harness:
            assert harness.stdout is not None
            assert harness.stdout.readline() == b"ready\n"
            with suppress(subprocess.TimeoutExpired):
                harness.wait(chance.uniform(0, 0.5))
            inside = _descendants(harness.pid)
            harness.kill()
        until(lambda pids=inside: not any(is_alive(pid) for pid in pids))  # type: ignore[misc]
        assert mountinfo.below(str(context.scratch)) == ()
        _local.reap(context.token, dry_run=False)
        assert context.token not in _local.tokens()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


# -- many at once ------------------------------------------------------------------------------------------------------


def _all(bundle: Box, commands: list[tuple[str, ...]]) -> list[tuple[int, str]]:
    """Return exit code and stderr of commands that run at the same time."""
    files = [(bundle.bundle.parent / f"err{number}").open("w+") for number in range(len(commands))]
    processes = [
        subprocess.Popen(
            [OCI, "--root", str(bundle.state), *words],
            cwd=bundle.bundle, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file,
        )
        for words, file in zip(commands, files, strict=True)
    ]  # fmt: skip
    codes = [process.wait(600) for process in processes]
    said = []
    for code, file in zip(codes, files, strict=True):
        file.seek(0)
        said.append((code, file.read()))
        file.close()
    return said


def test_sixty_four_creates_of_one_id_have_one_winner(bundle: Box) -> None:
    bundle.write(bundle.document())
    said = _all(bundle, [("create", "c")] * 64)
    assert sum(code == 0 for code, _ in said) == 1
    assert all(code in {0, 1} and "Traceback" not in text for code, text in said)
    assert all("already exists" in text for code, text in said if code)
    assert bundle.status() == "created"
    assert len(bundle.processes()) == 1
    said = _all(bundle, [("start", "c")] * 12)
    assert sum(code == 0 for code, _ in said) == 1
    assert all("running" in text for code, text in said if code), said
    said = _all(bundle, [("delete", "--force", "c")] * 12)
    assert all(code == 0 for code, _ in said), said
    assert not bundle.leftovers()


def test_all_verbs_at_once_give_clear_errors_and_leave_nothing(bundle: Box) -> None:
    bundle.write(bundle.document())
    verbs: list[tuple[str, ...]] = [
        ("create", "c"), ("start", "c"), ("state", "c"), ("kill", "c", "KILL"), ("exec", "c", "/bin/true"),
        ("delete", "c"), ("delete", "--force", "c"), ("pause", "c"), ("resume", "c"), ("list",), ("ps", "c"),
    ]  # fmt: skip
    chance = random.Random(4)
    for _ in range(3):
        commands = verbs * 4
        chance.shuffle(commands)
        for words, (code, text) in zip(commands, _all(bundle, commands), strict=True):
            assert "Traceback" not in text, (words, text)
            assert code in ({0, 137, 255} if words[0] == "exec" else {0, 1}), (words, code, text)
            assert code == 0 or text.startswith("harness-oci: ") or code == 137, (words, text)
    bundle.oci("delete", "--force", "c")
    until(lambda: not bundle.leftovers())


def test_many_containers_at_once_do_not_meet(bundle: Box) -> None:
    bundle.write({**bundle.document(), "linux": {**bundle.document()["linux"], "cgroupsPath": f"{bundle.parent}"}})
    document = json.loads((bundle.bundle / "config.json").read_text())
    del document["linux"]["cgroupsPath"]  # then each has a group of its own name
    bundle.write(document)
    names = [f"m{os.getpid()}-{number}" for number in range(12)]
    assert all(code == 0 for code, _ in _all(bundle, [("create", name) for name in names]))
    assert len(set(map(bundle.pid, names))) == len(names)
    assert all(code == 0 for code, _ in _all(bundle, [("delete", "--force", name) for name in names]))
