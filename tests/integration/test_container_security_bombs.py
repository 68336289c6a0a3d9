"""Workloads that take all they can get, that do not go, or that leave others behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.container.cgroups import detect
from tests.container_kit import is_alive
from tests.integration.attack_kit import MIB, Box, Document, box, compiled, install, until

pytestmark = pytest.mark.needs("root", "overlayfs")


@pytest.fixture
def bundle(busybox: Path) -> Iterator[Box]:
    with box(busybox) as made:
        yield made


def limited(**resources: object) -> object:
    def change(document: Document) -> None:
        document["linux"]["resources"].update(resources)

    return change


def of_group(bundle: Box, controller: str, file: str, name: str = "c") -> int:
    tree = detect().of(controller)
    assert tree is not None
    text = Path(tree.path, bundle.parent, name, file).read_text()
    return int(text.split()[-1])


@contextmanager
def neighbour(bundle: Box) -> Iterator[Path]:
    """A container that counts; whoever disturbs it stops its count."""
    out = bundle.bundle.parent / "count"
    out.touch()
    with out.open("wb") as file, bundle.running("while :; do echo tick; sleep 0.05; done", "neighbour", stdout=file):
        until(out.read_text)
        yield out


def counts_on(out: Path) -> bool:
    before = out.stat().st_size
    until(lambda: out.stat().st_size > before)
    return True


def test_fork_bomb_is_held_by_the_limit_and_ended_as_a_whole(bundle: Box) -> None:
    """Without the limit, the host's process table is the limit."""
    bomb = "bomb() { bomb | bomb & }; bomb 2>/dev/null; while :; do :& done 2>/dev/null"
    with neighbour(bundle) as out:
        with bundle.running(bomb, change=limited(pids={"limit": 24})):  # type: ignore[arg-type]
            until(lambda: of_group(bundle, "pids", "pids.events") > 0)
            assert of_group(bundle, "pids", "pids.current") <= 24
            assert counts_on(out)
            began = time.monotonic()
            assert bundle.oci("delete", "--force", "c").returncode == 0
            assert time.monotonic() - began < 15
        assert bundle.oci("state", "c").returncode == 1
        assert counts_on(out)


EAT = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(void)
{
	for (size_t mib = 1;; mib++) {
		memset(malloc(1 << 20), 1, 1 << 20);
		dprintf(1, "%zu\n", mib);
	}
}
"""


def test_memory_bomb_is_killed_and_nothing_else(bundle: Box) -> None:
    install(compiled(EAT), bundle.rootfs / "eat")
    limit = limited(memory={"limit": 24 * MIB, "swap": 24 * MIB})
    with neighbour(bundle) as out:
        document = bundle.document("/eat; echo $?; exec /eat")
        limit(document)  # type: ignore[operator]
        done = bundle.write(document).oci("run", "c")
        assert done.returncode == 137, "pid 1 itself went beyond the limit"
        eaten = [int(line) for line in done.stdout.split() if line != "137"]
        assert 8 < max(eaten) < 24
        assert "137" in done.stdout, "first a child did"
        assert counts_on(out)
        assert bundle.status("neighbour") == "running"


STUBBORN = "trap '' TERM HUP INT QUIT USR1; echo ready; while :; do sleep 1; done"


@pytest.mark.parametrize("how", ["kill", "kill --all", "delete"])
def test_container_that_ignores_signals_is_ended(how: str, bundle: Box) -> None:
    """A naive `delete` waits for SIGTERM to work."""
    out = bundle.bundle.parent / "out"
    with out.open("wb") as file, bundle.running(STUBBORN, stdout=file):
        until(lambda: "ready" in out.read_text())
        pid = bundle.pid()
        for word in ("TERM", "INT", "SIGHUP", "15"):
            assert bundle.oci("kill", "c", word).returncode == 0
        time.sleep(0.2)
        assert bundle.status() == "running"
        assert bundle.oci("delete", "c").returncode == 1
        match how:
            case "kill":
                assert bundle.oci("kill", "c", "KILL").returncode == 0
            case "kill --all":
                assert bundle.oci("kill", "--all", "c", "KILL").returncode == 0
            case _:
                assert bundle.oci("delete", "--force", "c").returncode == 0
        until(lambda: not is_alive(pid))
        if how != "delete":
            until(lambda: bundle.status() == "stopped")
            assert bundle.oci("delete", "c").returncode == 0


def test_paused_container_is_ended(bundle: Box) -> None:
    """A frozen process takes no signal, not even the last one, on cgroup v1."""
    with bundle.running():
        assert bundle.oci("pause", "c").returncode == 0
        assert bundle.oci("delete", "--force", "c").returncode == 0


ORPHANS = r"""
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	int left = 5;
	while (left--)
		if (fork() == 0) { /* a daemon of a daemon, in a session of its own */
			setsid();
			if (fork())
				_exit(0);
			setsid();
			execl("/bin/sleep", "sleep", "1000", (char *)0);
		}
	usleep(300000);
	dprintf(1, "leaving\n");
	return 0;
}
"""


def _without_pid_namespace(document: Document) -> None:
    spaces = document["linux"]["namespaces"]
    document["linux"]["namespaces"] = [space for space in spaces if space["type"] != "pid"]


@pytest.mark.parametrize("own", [True, False])
def test_orphans_of_pid_1_end_with_it_or_with_delete(own: bool, bundle: Box) -> None:
    """With a pid namespace of its own the kernel ends them; without one only the cgroup knows them."""
    install(compiled(ORPHANS), bundle.rootfs / "orphans")
    out = bundle.bundle.parent / "out"
    change = (lambda _: None) if own else _without_pid_namespace
    with out.open("wb") as file, bundle.running("exec /orphans", change=change, stdout=file):
        until(lambda: "leaving" in out.read_text())
        until(lambda: bundle.status() == "stopped")
        if own:
            until(lambda: not bundle.processes())
        else:
            assert len(bundle.processes()) == 5, "a naive runtime has forgotten these"
        assert bundle.oci("delete", "c").returncode == 0
        assert not bundle.processes()


def test_orphans_end_with_kill_of_all(bundle: Box) -> None:
    install(compiled(ORPHANS), bundle.rootfs / "orphans")
    with bundle.running("/orphans; exec sleep 1000", change=_without_pid_namespace):
        until(lambda: len(bundle.processes()) >= 6)
        assert bundle.oci("kill", "--all", "c", str(int(signal.SIGKILL))).returncode == 0
        until(lambda: not bundle.processes())
