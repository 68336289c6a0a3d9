"""What a process in a container may become, whom it may look into, and names that are paths."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.container import defaults, plan
from harness.container.step import Step
from tests.integration.attack_kit import Box, Document, box, compiled, exec_changed, install, until

pytestmark = pytest.mark.needs("root", "overlayfs")


@pytest.fixture
def bundle(busybox: Path) -> Iterator[Box]:
    with box(busybox) as made:
        yield made


# -- set-user-id and file capabilities -------------------------------------------------------------------------------

WHO = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(void)
{
	char line[256];
	FILE *status = fopen("/proc/self/status", "r");
	dprintf(1, "euid %d\n", geteuid());
	while (fgets(line, sizeof line, status))
		if (!strncmp(line, "Cap", 3) || !strncmp(line, "NoNewPrivs", 10))
			dprintf(1, "%s", line);
	return 0;
}
"""
# vfs_cap_data of include/uapi/linux/capability.h: revision 2, effective; CAP_NET_RAW is bit 13.
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.mark.parametrize("no_new_privs", [True, False])
@pytest.mark.parametrize("kind", ["setuid", "file capability"])
def test_no_privilege_is_gained_by_a_file_with_no_new_privs(no_new_privs: bool, kind: str, bundle: Box) -> None:
    """A naive runtime leaves the bit out: what happens then is the second row of each kind."""
    who = install(compiled(WHO), bundle.rootfs / "who", 0o4755 if kind == "setuid" else 0o755)
    if kind != "setuid":
        os.setxattr(who, "security.capability", NET_RAW)

    def change(document: Document) -> None:
        document["process"].update(user={"uid": 1000, "gid": 1000}, noNewPrivileges=no_new_privs)

    said = bundle.run("exec /who", change)
    assert f"NoNewPrivs:\t{int(no_new_privs)}" in said
    gained = {"setuid": "euid 0", "file capability": "CapEff:\t0000000000002000"}[kind]
    assert (gained in said) != no_new_privs, said


def test_no_new_privs_holds_for_exec_as_well(bundle: Box) -> None:
    install(compiled(WHO), bundle.rootfs / "who", 0o4755)
    with bundle.running():
        said = bundle.oci("exec", "--user", "1000:1000", "c", "/who").stdout
    assert "NoNewPrivs:\t1" in said
    assert "euid 1000" in said


@pytest.mark.parametrize("words", [(), ("--cap", "CAP_NET_ADMIN"), ("--user", "1000:1000")])
def test_inheritable_capabilities_are_none(words: tuple[str, ...], bundle: Box) -> None:
    """CVE-2022-27650, CVE-2022-29162: those that are left set come back with any file that has them as inheritable."""
    install(compiled(WHO), bundle.rootfs / "who")
    assert "CapInh:\t0000000000000000" in bundle.run("exec /who")
    with bundle.running():
        said = bundle.oci("exec", *words, "c", "/who").stdout
    assert "CapInh:\t0000000000000000" in said
    assert "CapAmb:\t0000000000000000" in said


def test_capabilities_that_are_not_given_cannot_be_used(bundle: Box) -> None:
    """The same script as root with all of them, to see that it can succeed."""
    script = "mount -t tmpfs t /tmp && echo mounted; hostname x && echo renamed; chroot / true && echo chrooted"
    assert bundle.run(script).split() == [] or "mounted" not in bundle.run(script)
    everything = [f"CAP_{name.upper()}" for name in defaults.CAPABILITIES if name != "sys_resource"]

    def change(document: Document) -> None:
        document["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), everything)

    said = bundle.run(script, change).split()
    assert {"mounted", "renamed", "chrooted"} <= {*said}


# -- who looks into whom -----------------------------------------------------------------------------------------------

# ARGS: a pid of the host. Tries to attach to every process, and to take its fds: the host's /proc is one of them.
WATCH = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static const char *of_the_host = "no pid";
/* Said after the deed: before it, the name might be that of a program which execve replaced meanwhile. */
static void tell(int pid, const char *what)
{
	char path[64], name[32] = "";
	snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
	int fd = open(path, O_RDONLY);
	if (fd >= 0 && read(fd, name, 31) > 0 && strcmp(name, "/watch") != 0)
		dprintf(1, "%s %s\n", what, name);
	close(fd);
}
static void look(int pid)
{
	char path[64];
	for (int i = 3; i < 24; i++) {
		snprintf(path, sizeof path, "/proc/%d/fd/%d/%s/comm", pid, i, of_the_host);
		int fd = open(path, O_RDONLY);
		if (fd >= 0)
			tell(pid, "reached the host through");
		close(fd);
	}
	int pidfd = syscall(SYS_pidfd_open, pid, 0), taken = syscall(SYS_pidfd_getfd, pidfd, 0, 0);
	if (taken >= 0)
		tell(pid, "took an fd of");
	close(taken);
	close(pidfd);
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
		ptrace(PTRACE_INTERRUPT, pid, 0, 0);
		waitpid(pid, NULL, __WALL);
		tell(pid, "attached to");
		ptrace(PTRACE_DETACH, pid, 0, 0);
	}
}
int main(int argc, char **argv)
{
	dprintf(1, "watching\n");
	if (argc > 1)
		of_the_host = argv[1];
	for (int round = 0; access("/stop", F_OK); round++) {
		DIR *proc = opendir("/proc");
		for (struct dirent *entry; (entry = readdir(proc));)
			if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != getpid())
				look(atoi(entry->d_name));
		closedir(proc);
	}
	dprintf(1, "end\n");
	return 0;
}
"""


@pytest.mark.parametrize("naive", [False, True])
def test_process_that_joins_cannot_be_looked_into(naive: bool, bundle: Box, tmp_path: Path) -> None:
    """CVE-2016-9962: until execve, the process that joins holds fds of the host; here it waits at its very last step.

    The naive variant leaves PR_SET_DUMPABLE as it is.
    """
    install(compiled(WATCH), bundle.rootfs / "watch")
    out = tmp_path / "out"
    seen: list[str] = []

    def paused(steps: list[Step]) -> list[Step]:
        kept = [step for step in steps if not (naive and step == plan.UNDUMPABLE)]
        return [*kept[:-1], Step("sync", ("pause",)), kept[-1]]

    def on_sync(_name: str, _pid: int) -> bytes:
        (bundle.rootfs / "stop").unlink(missing_ok=True)
        with out.open("wb") as file:
            child = bundle.oci("exec", "--detach", "c", "/watch", str(os.getpid()), stdout=file)
        assert child.returncode == 0
        until(lambda: out.read_text().count("\n") >= (3 if naive else 1))
        time.sleep(0.5)
        (bundle.rootfs / "stop").touch()
        until(lambda: "end" in out.read_text())
        seen.append(out.read_text())
        return b"go on"

    with bundle.running():
        launched = exec_changed(bundle, ["/bin/true"], paused, on_sync)
        os.waitpid(launched.pid, 0)
    assert ("attached to harness-launch" in seen[0]) == naive, seen
    assert ("took an fd of harness-launch" in seen[0]) == naive, seen
    assert ("reached the host through harness-launch" in seen[0]) == naive, seen


def test_many_processes_that_join_are_never_caught(bundle: Box, tmp_path: Path) -> None:
    """The same as a race, against the whole command: from the first moment inside to execve."""
    install(compiled(WATCH), bundle.rootfs / "watch")
    shutil.copy(bundle.rootfs / "bin" / "busybox", bundle.rootfs / "joined")
    out = tmp_path / "out"
    with out.open("wb") as file, bundle.running(f"/watch {os.getpid()} & exec sleep 1000", stdout=file):
        until(lambda: "watching" in out.read_text())
        for _ in range(40):
            launched = exec_changed(bundle, ["/bin/true"], lambda steps: steps, lambda _n, _p: b"")
            os.waitpid(launched.pid, 0)
        assert bundle.oci("exec", "c", "/bin/true").returncode == 0
        (bundle.rootfs / "stop").touch()
        until(lambda: "end" in out.read_text())
    said = out.read_text()
    assert "sleep" in said, "it can look into a process of its own kind"
    assert "harness-launch" not in said
    assert "reached" not in said


@pytest.mark.parametrize("joined", [False, True])
def test_process_of_a_container_cannot_trace_its_init(joined: bool, bundle: Box) -> None:
    """A pid 1 of its own kind may be traced by its children; one with more rights may not."""
    install(compiled(WATCH.replace('access("/stop", F_OK)', "round < 50")), bundle.rootfs / "watch")
    with bundle.running("exec sleep 1000"):
        words = ("--user", "1000:1000") if joined else ()
        said = bundle.oci("exec", *words, "c", "/watch").stdout
    assert ("attached to sleep" in said) != joined


# -- device nodes ------------------------------------------------------------------------------------------------------


def test_disk_of_the_host_cannot_be_opened_by_a_node_of_ones_own(bundle: Box) -> None:
    """CAP_MKNOD is among the defaults: only the device rules stand between a container and the host's disks."""
    disks = [path for path in Path("/sys/class/block").glob("*") if (path / "dev").exists()]
    if not disks:
        pytest.skip("no block device here")
    major, minor = (disks[0] / "dev").read_text().strip().split(":")
    script = f"mknod /disk b {major} {minor} && echo made; head -c 1 /disk >/dev/null && echo read"
    said = bundle.run(script)
    assert "made" in said
    assert "read" not in said
    os.mknod(bundle.rootfs / "disk2", stat.S_IFBLK | 0o666, os.makedev(int(major), int(minor)))
    assert "read" not in bundle.run("head -c 1 /disk2 >/dev/null && echo read")  # nor one that the image brings


# -- names that are paths, numbers that are none -----------------------------------------------------------------------

IDS = ["", ".", "..", "../x", "a/b", "/etc", "a\nb", "a b", "é", "x" * 300, "-x\t", ".hidden", "a%2fb;", "$(id)"]


@pytest.mark.parametrize("verb", ["create", "state", "delete", "kill"])
def test_id_that_is_no_plain_name_is_refused(verb: str, bundle: Box) -> None:
    bundle.write(bundle.document())
    for container_id in IDS:
        done = bundle.oci(verb, "--", container_id)
        assert done.returncode == 1, container_id
        assert "harness-oci: id: " in done.stderr
        assert not bundle.leftovers()
    assert sorted(path.name for path in bundle.state.parent.iterdir()) == ["bundle", "state"]


@pytest.mark.parametrize("path", ["/../../../x", "a/../../b", "..", "/harness-x/../../y", "./..", "/"])
def test_cgroups_path_with_dots_is_refused(path: str, bundle: Box) -> None:
    document = bundle.document()
    document["linux"]["cgroupsPath"] = path
    done = bundle.write(document).oci("create", "c")
    assert done.returncode == 1
    assert "cgroup" in done.stderr
    assert not bundle.leftovers()


JUNK = (
    "0x0", "-1", "4294967296", "4294967295", "0:4294967295", "1:", ":1", ":", "root", "1:2:3", " 1", "1 ",
    "\uff11", "1_0", "+1", "1e0", "0:x", "9" * 5000,
)  # fmt: skip


def test_exec_as_a_user_that_is_no_number_is_refused(bundle: Box) -> None:
    """CVE-2026-30892: what does not parse becomes root in a naive runtime, and so does 4294967295, which is no user."""
    with bundle.running():
        for user in JUNK:
            done = bundle.oci("exec", f"--user={user}", "c", "/bin/id")
            assert done.returncode == 255, done
            assert "--user" in done.stderr
            assert "uid=" not in done.stdout
        assert bundle.oci("exec", "--user=4294967294:3", "c", "/bin/id").stdout.startswith("uid=4294967294 gid=3")


@pytest.mark.parametrize("where", ["setns fd", "state file"])
def test_state_of_another_boot_or_process_is_not_believed(where: str, bundle: Box) -> None:
    """A pid that another process has by now is neither joined nor killed."""
    with bundle.running():
        path = bundle.state / "c" / "state.json"
        good = path.read_text()
        document = json.loads(good)
        document["start_ticks"] += 1
        if where == "setns fd":
            document["pid"] = os.getpid()
        path.write_text(json.dumps(document))
        for words in (("exec", "c", "/bin/true"), ("kill", "c", "KILL")):
            done = bundle.oci(*words)
            assert done.returncode == (255 if words[0] == "exec" else 1)
            assert "stopped" in done.stderr or "not running" in done.stderr
        path.write_text(good)
        assert bundle.status() == "running"
