"""An image that attacks: the runtime's program and fds, working directories, links in place of what is mounted."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from harness.container import launcher, plan
from harness.container.step import Step
from tests.integration.attack_kit import OCI, Box, Document, box, compiled, exec_changed, install, until

pytestmark = pytest.mark.needs("root", "overlayfs")


@pytest.fixture
def bundle(busybox: Path) -> Iterator[Box]:
    with box(busybox) as made:
        yield made


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# -- /proc/self/exe ----------------------------------------------------------------------------------------------------

# Watches for a process whose program is the launcher, keeps its file open, and writes to that once nobody executes it.
OVERWRITE = r"""
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
static int is_launcher(int fd)
{
	struct stat st;
	if (fstat(fd, &st) || !st.st_size)
		return 0;
	char *all = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	int found = all != MAP_FAILED && memmem(all, st.st_size, "the launcher knows no such step", 31) != NULL;
	munmap(all, st.st_size);
	return found;
}
int main(void)
{
	int refused = 0, handle = -1;
	char path[64];
	struct dirent *entry;
	dprintf(1, "watching\n");
	for (int round = 0; handle < 0 && access("/stop", F_OK); round++) {
		DIR *proc = opendir("/proc");
		while (handle < 0 && (entry = readdir(proc))) {
			int pid = atoi(entry->d_name);
			if (pid <= 0 || pid == getpid())
				continue;
			snprintf(path, sizeof path, "/proc/%d/exe", pid);
			int fd = open(path, O_RDONLY);
			if (fd < 0) {
				refused += errno == EACCES || errno == EPERM;
				continue;
			}
			if (is_launcher(fd))
				handle = fd;
			else
				close(fd);
		}
		closedir(proc);
	}
	dprintf(1, "refused %s\n", refused ? "yes" : "no");
	dprintf(1, "handle %s\n", handle >= 0 ? "yes" : "no");
	snprintf(path, sizeof path, "/proc/self/fd/%d", handle);
	int out = -1;
	for (int i = 0; handle >= 0 && out < 0 && i < 1000; i++, usleep(5000))
		if ((out = open(path, O_WRONLY)) < 0 && errno != ETXTBSY)
			break;
	dprintf(1, "%s\n", out >= 0 && pwrite(out, "pwned", 5, 0) == 5 ? "overwritten" : "not overwritten");
	dprintf(1, "end\n");
	pause();
}
"""


def _paused(steps: list[Step]) -> list[Step]:
    """It stands still right before execve, with the container's own capabilities: what races try to meet."""
    return [*steps[:-1], Step("sync", ("pause",)), steps[-1]]


def _dumpable(steps: list[Step]) -> list[Step]:
    return [step for step in _paused(steps) if step != plan.UNDUMPABLE]


@pytest.mark.parametrize("variant", ["ours", "dumpable", "naive"])
def test_program_of_the_runtime_cannot_be_overwritten_through_proc_exe(
    variant: str, bundle: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2019-5736: a process in the container opens /proc/PID/exe of a runtime that joins it, and writes to it later.

    Ours may not be looked into, and executes a sealed memfd. `dumpable` lacks the first: the handle is had, and cannot
    be written to. The naive one executes its file (a copy here): it is overwritten.
    """
    copy = install(Path(launcher.PROGRAM).read_bytes(), tmp_path / "launcher")
    before = sha256(launcher.PROGRAM), sha256(copy)
    install(compiled(OVERWRITE), bundle.rootfs / "overwrite")
    out = tmp_path / "out"
    with out.open("wb") as file, bundle.running("exec /overwrite", stdout=file):
        until(lambda: "watching" in out.read_text())
        if variant == "naive":
            naive = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
            monkeypatch.setattr(launcher, "_program", [naive])

        def on_sync(_name: str, _pid: int) -> bytes:
            if variant == "ours":
                (bundle.rootfs / "stop").touch()
            until(lambda: "handle" in out.read_text())
            return b"go on"

        launched = exec_changed(bundle, ["/bin/true"], _paused if variant == "ours" else _dumpable, on_sync)
        os.waitpid(launched.pid, 0)
        until(lambda: "end" in out.read_text())
    said = out.read_text()
    assert ("handle yes" in said) == (variant != "ours")
    assert ("\noverwritten" in said) == (variant == "naive")
    assert (sha256(copy) != before[1]) == (variant == "naive")
    assert sha256(launcher.PROGRAM) == before[0]


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_program_of_the_runtime_as_an_interpreter_gains_nothing(verb: str, bundle: Box) -> None:
    """`#!/proc/self/exe`: a runtime in Python starts the host's interpreter inside, with libraries of the image.

    Ours executes the launcher again, as the container, with the container's own stdin as a plan; it has none.
    """
    install(b"#!/proc/self/exe\n", bundle.rootfs / "evil")
    before = sha256(launcher.PROGRAM)
    if verb == "run":
        document = bundle.document()
        document["process"]["args"] = ["/evil"]
        done = bundle.write(document).oci("run", "c")
    else:
        with bundle.running():
            done = bundle.oci("exec", "c", "/evil")
    assert done.returncode != 0
    assert "Python" not in done.stdout + done.stderr
    assert sha256(launcher.PROGRAM) == before


# -- fds and working directories ---------------------------------------------------------------------------------------

SPY = r"""
#include <fcntl.h>
#include <stdio.h>
int main(void)
{
	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			dprintf(1, "%d ", fd);
	return 0;
}
"""


@pytest.fixture
def leaked(tmp_path: Path) -> Iterator[list[int]]:
    """Directories of the host that a careless caller of the runtime left open and inheritable."""
    (tmp_path / "secret").write_text("of the host")
    fds = [os.open(tmp_path, os.O_RDONLY) for _ in range(12)]
    for fd in fds:
        os.set_inheritable(fd, True)
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_fds_of_the_caller_do_not_get_in(verb: str, bundle: Box, leaked: list[int]) -> None:
    """CVE-2024-21626: a runtime that does not close what it was given, or opened, hands the host to the container."""
    spy = install(compiled(SPY), bundle.rootfs / "spy")
    naive = subprocess.run([spy], pass_fds=leaked, capture_output=True, text=True, check=True)
    assert {*map(str, leaked)} < {*naive.stdout.split()}
    if verb == "run":
        assert bundle.run("exec /spy", pass_fds=leaked).split() == ["0", "1", "2"]
    else:
        with bundle.running():
            assert bundle.oci("exec", "c", "/spy", pass_fds=leaked).stdout.split() == ["0", "1", "2"]


def test_fd_that_is_asked_for_is_given_and_no_other(bundle: Box, leaked: list[int]) -> None:
    install(compiled(SPY), bundle.rootfs / "spy")
    bundle.write(bundle.document("exec /spy"))
    command = ["sh", "-c", 'exec "$0" "$@" 3</ 4</', OCI, "--root", str(bundle.state)]
    done = subprocess.run(
        [*command, "run", "--preserve-fds", "1", "c"],
        cwd=bundle.bundle, pass_fds=leaked, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "1", "2", "3"], done


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_working_directory_behind_an_fd_does_not_lead_out(verb: str, bundle: Box, leaked: list[int]) -> None:
    """CVE-2024-21626: process.cwd is /proc/self/fd/N; a naive runtime has an fd of the host there, and stays in it."""
    look = "pwd -P; cat secret ../secret /proc/self/cwd/secret 2>/dev/null"
    with bundle.running() if verb == "exec" else nullcontext():
        for number in range(21):
            cwd = f"/proc/self/fd/{number}"
            if verb == "run":
                said = bundle.run(look, lambda document, cwd=cwd: document["process"].update(cwd=cwd), pass_fds=leaked)
            else:
                said = bundle.oci("exec", "--cwd", cwd, "c", "/bin/sh", "-c", look, pass_fds=leaked).stderr
            assert "of the host" not in said
            assert cwd in said, "it is an error, which names the path"


def test_working_directory_outside_is_noticed_even_when_an_fd_of_it_is_there(bundle: Box, leaked: list[int]) -> None:
    """What the test above would see with such an fd: given on purpose it leads out; as cwd it is refused."""
    with bundle.running():
        kept = (0, 1, 2, leaked[0])
        reader, writer = os.pipe()
        leave = ["/bin/sh", "-c", "cd /proc/self/fd/3 && cat secret"]
        launched = exec_changed(bundle, leave, lambda steps: steps, lambda _n, _p: b"", kept=(0, writer, 2, leaked[0]))
        os.waitpid(launched.pid, 0)
        os.close(writer)
        assert os.read(reader, 100) == b"of the host"
        os.close(reader)

        def astray(steps: list[Step]) -> list[Step]:
            return [Step("directory", ("/proc/self/fd/3",)) if step.name == "directory" else step for step in steps]

        with pytest.raises(launcher.ContainerError, match=r"\(directory\): /proc/self/fd/3: (outside|No such)"):
            exec_changed(bundle, ["/bin/true"], astray, lambda _n, _p: b"", kept=kept)


# -- links in the image ------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(bundle: Box) -> Iterator[Path]:
    """A directory of the host beside the bundle, which no container may change."""
    place = bundle.bundle.parent / "outside"
    place.mkdir()
    (place / "victim").write_text("untouched")
    before = place.stat()
    yield place
    assert sorted(path.name for path in place.iterdir()) == ["victim"]
    assert (place / "victim").read_text() == "untouched"
    assert (place.stat().st_mode, place.stat().st_uid) == (before.st_mode, before.st_uid)


def _trap(bundle: Box, outside: Path, kind: str) -> None:
    """`/trap` leads to the host's directory in a runtime that puts paths together by string."""
    up = "../" * 30
    (bundle.rootfs / "trap").symlink_to({"absolute": str(outside), "dots": up + str(outside)[1:]}[kind])
    assert (bundle.rootfs / "trap").resolve() == outside


ASTRAY = {
    "tmpfs": lambda d: d["mounts"].append({"destination": "/trap/m", "type": "tmpfs", "source": "tmpfs"}),
    "tmpfs over it": lambda d: d["mounts"].append({"destination": "/trap", "type": "tmpfs", "source": "tmpfs"}),
    "bind": lambda d: d["mounts"].append(
        {"destination": "/trap/b", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
    ),
    "bind of a file": lambda d: d["mounts"].append(
        {"destination": "/trap/victim", "type": "bind", "source": "/etc/hostname", "options": ["bind", "ro"]}
    ),
    "device": lambda d: d["linux"].update(devices=[{"path": "/trap/n", "type": "c", "major": 1, "minor": 3}]),
    "cwd": lambda d: d["process"].update(cwd="/trap/cwd"),
    "masked": lambda d: d["linux"]["maskedPaths"].append("/trap/victim"),
    "readonly": lambda d: d["linux"]["readonlyPaths"].append("/trap"),
    "root": lambda d: d["root"].update(path="rootfs/bin/../../rootfs"),
}


@pytest.mark.parametrize("kind", ["absolute", "dots"])
@pytest.mark.parametrize("what", sorted(ASTRAY))
def test_links_of_the_image_lead_nowhere_but_inside(what: str, kind: str, bundle: Box, outside: Path) -> None:
    """The container may start or not, as what it asks for is there inside or not; the host's directory stays."""
    _trap(bundle, outside, kind)
    script = f"echo new > {outside}/victim; rm -r {outside}/*; chmod 700 {outside}; touch {outside}/x; echo ran"
    said = bundle.run(script, ASTRAY[what])
    assert "ran" in said or "step" in said


@pytest.mark.parametrize("path", ["/../../etc", "/a/../../b", "..", "/proc/../../x"])
def test_dots_in_a_destination_are_refused(path: str, bundle: Box) -> None:
    document = bundle.document()
    document["mounts"].append({"destination": path, "type": "tmpfs", "source": "tmpfs"})
    done = bundle.write(document).oci("create", "c")
    assert done.returncode == 1
    assert "mounts[7].destination" in done.stderr
    assert "'..'" in done.stderr


# -- what the kernel's file systems and devices are mounted on ---------------------------------------------------------


def _without(document: Document, *destinations: str) -> None:
    document["mounts"] = [mount for mount in document["mounts"] if mount["destination"] not in destinations]


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_link_in_place_of_proc_or_sys_is_refused(name: str, bundle: Box, outside: Path) -> None:
    """CVE-2019-19921, CVE-2023-27561: with a false /proc, label writes of the runtime go where the image likes."""
    for path in (bundle.rootfs / name, bundle.rootfs / "decoy"):
        with suppress(FileNotFoundError):
            path.rmdir()
    (bundle.rootfs / "decoy").mkdir()
    (bundle.rootfs / name).symlink_to("/decoy")
    done = bundle.write(bundle.document()).oci("create", "c")
    assert done.returncode == 1
    assert f"/{name}: not a directory of its own" in done.stderr


def test_label_is_written_to_the_hosts_proc_whatever_lies_over_the_containers(bundle: Box, outside: Path) -> None:
    """CVE-2019-16884, CVE-2025-52881: a volume over /proc takes the label; a naive runtime believes that it is set.

    Ours writes through an fd of the host's /proc: a kernel that has no such label says so, and the volume gets nothing.
    """
    volume = bundle.bundle / "volume"
    for attr in ("self/attr/apparmor", "thread-self/attr/apparmor", "1/attr"):
        (volume / attr).mkdir(parents=True)
        (volume / attr / "exec").write_text("")
    document = bundle.document()
    mount = {"destination": "/proc", "type": "bind", "source": str(volume), "options": ["rbind"]}
    document["mounts"] = [mount if entry["destination"] == "/proc" else entry for entry in document["mounts"]]
    document["linux"].update(maskedPaths=[], readonlyPaths=[])
    document["process"]["apparmorProfile"] = "no-such-profile"
    done = bundle.write(document).oci("create", "c")
    assert done.returncode == 1
    assert "(write): thread-self/attr/apparmor/exec: exec no-such-profile" in done.stderr
    assert all(path.read_text() == "" for path in volume.rglob("exec"))


@pytest.mark.parametrize("thing", ["link", "file", "other device", "directory"])
def test_null_device_of_the_image_is_not_taken_for_one(thing: str, bundle: Box, outside: Path) -> None:
    """CVE-2025-31133: a naive runtime binds the container's /dev/null over what it masks: a link to anything."""
    node = bundle.rootfs / "dev" / "null"
    node.unlink(missing_ok=True)
    match thing:
        case "link":
            node.symlink_to(outside / "victim")
        case "file":
            node.write_text("")
        case "other device":
            os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        case _:
            node.mkdir()
    document = bundle.document("cat /etc/masked; stat -c %t:%T /etc/masked; echo gone > /dev/null")
    (bundle.rootfs / "etc" / "masked").write_text("hidden")
    document["linux"]["maskedPaths"] = ["/etc/masked"]
    assert bundle.write(document).oci("run", "c").stdout.split() == ["1:3"]  # a /dev of the container's own
    _without(document, "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
    done = bundle.write(document).oci("run", "c")
    assert done.returncode == 1
    assert "(device): /dev/null" in done.stderr


def test_mask_is_no_device_of_the_configuration(bundle: Box) -> None:
    """A node called `null` that is another device (here zero) is not what masks are made of."""
    document = bundle.document("head -c 3 /etc/masked | wc -c; stat -c %t:%T /etc/masked /dev/x/null")
    (bundle.rootfs / "etc" / "masked").write_text("hidden")
    document["linux"]["maskedPaths"] = ["/etc/masked"]
    document["linux"]["devices"] = [{"path": "/dev/x/null", "type": "c", "major": 1, "minor": 5}]
    for mount in document["mounts"]:
        if mount["destination"] == "/dev":
            mount["options"].append("nodev")
    assert bundle.write(document).oci("run", "c").stdout.split() == ["0", "1:3", "1:5"]


# -- terminals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["console", "pts", "no devpts"])
def test_terminal_comes_from_no_path_of_the_image(what: str, bundle: Box, outside: Path) -> None:
    """CVE-2025-52565 and crun's CVE-2026-47766: links in place of /dev/console or /dev/pts with a /dev of the image.

    Without a devpts in the container a naive runtime takes the host's.
    """
    dev = bundle.rootfs / "dev"
    document = bundle.document("tty")
    document["process"]["terminal"] = True
    _without(document, "/dev", "/dev/shm", "/dev/mqueue", *(["/dev/pts"] if what != "console" else []))
    if what == "console":
        (dev / "console").unlink(missing_ok=True)
        (dev / "console").symlink_to(outside / "victim")
    elif what == "pts":
        (dev / "pts").exists() and (dev / "pts").rmdir()
        (dev / "pts").symlink_to("/dev/pts")
    done = bundle.write(document).oci("run", "c")
    assert done.returncode == 1
    assert "(terminal): /dev/" in done.stderr, done


# -- read-only binds ---------------------------------------------------------------------------------------------------


def test_read_only_binds_cannot_be_written_whatever_is_tried(bundle: Box, tmp_path: Path) -> None:
    """With a mount below the source: `rro` covers it; `ro` alone, as the specification has it, does not."""
    (tmp_path / "below").mkdir()
    (tmp_path / "file").write_text("old")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "below"], check=True)
    try:
        tries = (
            "echo new > {0}/file; echo new > {0}/below/file; mount -o remount,rw {0}; umount {0}; "
            "mount -o bind,remount,rw {0}; chmod 777 {0}/file; ln {0}/file {0}/link; echo new > {0}/file; "
        )
        script = tries.format("/all") + tries.format("/top") + "echo done"

        def binds(document: Document) -> None:
            for name, options in (("/all", ["rbind", "rro"]), ("/top", ["rbind", "ro"])):
                document["mounts"].append(
                    {"destination": name, "type": "bind", "source": str(tmp_path), "options": options}
                )

        assert "done" in bundle.run(script, binds)
        assert (tmp_path / "file").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir() if path.name == "link"] == []
        assert (tmp_path / "below" / "file").exists(), "through /top: what `ro` does not cover is written"
        (tmp_path / "below" / "file").unlink()
        bundle.run(tries.format("/all"), binds)
        assert not (tmp_path / "below" / "file").exists()
    finally:
        subprocess.run(["umount", tmp_path / "below"], check=True)
