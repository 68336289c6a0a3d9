"""The launcher with the address and undefined-behaviour sanitizers: real plans, garbage, and its plan reader."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.container import attach, config, launcher
from harness.container.create import CreateOptions, Streams
from harness.container.errors import ContainerError
from harness.interfaces import RunContext
from tests.container_kit import BOTH, output_of
from tests.integration.attack_kit import Box, Document, box

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = CSRC / "launch"
FLAGS = ["-std=gnu17", "-g", "-O1", "-Wall", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
FUZZ_S = 5
PLANS = 250


def _compile(compiler: str, *words: str | Path) -> None:
    subprocess.run([compiler, *FLAGS, f"-I{SOURCES}", *map(str, words)], check=True)


@pytest.mark.needs("clang")
def test_plan_reader_never_leaves_its_plan(tmp_path: Path) -> None:
    """libFuzzer looks for bytes with which it does."""
    fuzzer = tmp_path / "fuzzer"
    _compile("clang", "-fsanitize=fuzzer,address,undefined", "-o", fuzzer, HERE / "plan_fuzz.c", SOURCES / "plan.c")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(
        (b"exec\x000\0", b"call\x002\0umask\x00022\0", b"x\x004097\0", b"a\0-1\0", b"a\0 1\0")
    ):
        (corpus / str(number)).write_bytes(seed)
    argv = [fuzzer, f"-max_total_time={FUZZ_S}", "-max_len=8192", "-print_final_stats=1", corpus]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr


# -- the whole launcher ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sanitized() -> Iterator[Path]:
    """A launcher beside which `reports` gets what its sanitizers find; whoever runs it can reach it."""
    compiler = shutil.which("clang") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler that has sanitizers")
    with tempfile.TemporaryDirectory(prefix="harness-sanitized-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        reports = place / "reports"
        reports.touch(0o666)
        reports.chmod(0o666)
        common = ["-fsanitize=address,undefined", f'-DSANITIZER_REPORTS="{reports}"', HERE / "launcher_sanitizers.c"]
        sources = sorted(path for part in ("launch", "shared") for path in (CSRC / part).glob("*.c"))
        _compile(compiler, *common, "-o", place / "launcher", *sources)
        _prove_that_reports_come(compiler, common, place, reports)
        yield place / "launcher"


def _prove_that_reports_come(compiler: str, common: list[str | Path], place: Path, reports: Path) -> None:
    source = place / "bad.c"
    source.write_text(
        "#include <string.h>\nint main(int n, char **v) { char a[4]; memset(a, n, 4); return a[n + 3]; }\n"
    )
    _compile(compiler, *common, "-o", place / "bad", source)
    assert subprocess.run([place / "bad"], check=False).returncode != 0
    assert "stack" in reports.read_text() or "out of bounds" in reports.read_text()
    reports.write_text("")


@pytest.fixture
def program(sanitized: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every start of this process is one of the launcher with sanitizers, and none of them reports anything."""
    fd = os.open(sanitized, os.O_RDONLY | os.O_CLOEXEC)
    monkeypatch.setattr(launcher, "_program", [fd])
    yield sanitized
    os.close(fd)
    found = (sanitized.parent / "reports").read_text()
    (sanitized.parent / "reports").write_text("")
    assert not found, found


@pytest.fixture
def bundle(busybox: Path) -> Iterator[Box]:
    with box(busybox) as made:
        yield made


def _users(document: Document) -> None:
    document["linux"]["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        document["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def _much(document: Document) -> None:
    """Something of every kind of step."""
    (spaces := document["linux"]["namespaces"]).append({"type": "time"})
    assert spaces
    document["linux"].update(
        timeOffsets={"monotonic": {"secs": 5, "nanosecs": 0}},
        sysctl={"net.ipv4.ip_forward": "1"},
        rootfsPropagation="private",
        personality={"domain": "LINUX"},
        seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]},
        devices=[{"path": "/dev/x/y", "type": "p"}, {"path": "/dev/f", "type": "c", "major": 10, "minor": 229}],
    )
    document["domainname"] = "example.org"
    document["hooks"] = {
        point: [{"path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null"], "timeout": 9}]
        for point in ("createRuntime", "createContainer", "poststop")
    }
    document["process"].update(
        oomScoreAdj=100, cwd="/made/for/it", ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 4},
        scheduler={"policy": "SCHED_BATCH", "nice": 3}, user={"uid": 7, "gid": 8, "additionalGids": [9], "umask": 23},
    )  # fmt: skip
    document["mounts"] += [
        {"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "mode=755"]},
        {"destination": "/a/b", "type": "bind", "source": "/usr", "options": ["rbind", "rro", "rslave"]},
        {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": [f"mpol={'x' * 300}"][:0]},
    ]


CHANGES = {"plain": lambda _: None, "user namespace": _users, "much": _much}
pytestmark = pytest.mark.needs("root", "overlayfs")


@pytest.mark.parametrize("what", sorted(CHANGES))
def test_life_of_a_container_gives_no_report(what: str, bundle: Box, program: Path) -> None:
    assert program
    document = bundle.document()
    CHANGES[what](document)
    bundle.write(document)
    runtime = bundle.runtime
    runtime.create("c", str(bundle.bundle))
    runtime.start("c")
    process = config.read(document, str(bundle.bundle), "/tmp").container.process
    for more in (process, attach.replace(process, args=("no-such-program",)), attach.replace(process, cwd="/nowhere")):
        if more is process:
            os.waitpid(attach.execute(runtime, "c", attach.replace(more, args=("true",)), Streams()).pid, 0)
            continue
        with pytest.raises(ContainerError, match=r"step \d+ \((find|directory)\)"):
            attach.execute(runtime, "c", more, Streams())
    runtime.delete("c", force=True)


def test_terminals_give_no_report(bundle: Box, program: Path) -> None:
    assert program
    document = bundle.document()
    document["process"].update(terminal=True, consoleSize={"height": 25, "width": 80})
    bundle.write(document)
    runtime = bundle.runtime
    launched = runtime.create("c", str(bundle.bundle), options=CreateOptions(proxied=True))
    os.close(launched.fds.pop("terminal"))
    runtime.delete("c", force=True)


FAILURES: dict[str, object] = {
    "mount": {"destination": "/x", "type": "no-such-type", "source": "x"},
    "bind": {"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]},
    "long options": {"destination": "/x", "type": "tmpfs", "source": "x", "options": ["o" * 3000, "p" * 3000]},
    "long option": {"destination": "/x", "type": "tmpfs", "source": "x", "options": ["o" * 600]},
    "long name": {"destination": "/" + "y" * 300, "type": "tmpfs", "source": "x"},
    "long path": {"destination": "/" + "y/" * 3000, "type": "tmpfs", "source": "x"},
    "bad option": {"destination": "/x", "type": "tmpfs", "source": "x", "options": ["size=nonsense"]},
}


@pytest.mark.parametrize("what", sorted(FAILURES))
def test_steps_that_fail_give_no_report(what: str, bundle: Box, program: Path) -> None:
    assert program
    document = bundle.document()
    document["mounts"].append(FAILURES[what])
    bundle.write(document)
    with pytest.raises(ContainerError, match=r"step \d+ \((mount|bind|source)\)|config.json"):
        bundle.runtime.create("c", str(bundle.bundle))


@BOTH
def test_agents_start_without_report(backend: str, tree: Path, context: RunContext, program: Path) -> None:
    assert program
    assert output_of(backend, tree, context, "echo ran") == ["ran"]


# -- garbage -----------------------------------------------------------------------------------------------------------

# ARGS: launcher, seed, how many. In namespaces of its own, as a user that owns nothing on the host (100000), so that no
# step can do any harm; pid 1 of the namespace, so that nothing survives it.
GARBAGE = r"""
import os, random, re, signal, socket, sys, time
from harness.container import syscalls
program, header, seed, count = sys.argv[1:]
steps = [(n, int(a), 8 if b == "ARGS_MAX" else int(b)) for n, a, b in
         re.findall(r'X\("([a-z-]+)", (\d+), (\w+),', open(header).read())]
words = (
    " 0 1 2 3 -1 9 255 0x20000 0x10000000 18446744073709551615 99999999999999999999 #0 #1 #-1 #999 / /tmp /proc"
    " /proc/self /dev/null /bin/true /no/such a a/b/c .. ../.. %s%n%d tmpfs proc devpts overlay sysfs mode=755 size=1m"
    " root upper work recursive own copy c b p node bind host console umask prctl setsid sethostname personality"
    " PATH= true"
).split(" ")
words += ["x" * 300, "y/" * 3000, "k=v" * 100, "PATH=/bin:" + "z" * 5000]
chance = random.Random(int(seed))
first, told = os.pipe()
go, gone = os.pipe()
child = os.fork()
if child:
    os.read(first, 1)
    for name in ("gid_map", "uid_map"):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write("0 100000 65536")
    os.write(gone, b"x")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
syscalls.unshare(syscalls.CLONE_NEWUSER)
os.write(told, b"x")
os.read(go, 1)
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC
                 | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP)
inner = os.fork()
if inner:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 255)
syscalls.mount("none", "/", None, syscalls.MS_PRIVATE | syscalls.MS_REC)
syscalls.mount("proc", "/proc", "proc", 0)
syscalls.mount("tmpfs", "/tmp", "tmpfs", 0) if not program.startswith("/tmp/") else None
signal.signal(signal.SIGALRM, lambda *_: None)

def plan():
    text = []
    for _ in range(chance.randrange(1, 12)):
        name, least, most = chance.choice(steps)
        args = [chance.choice(words) for _ in range(chance.randint(least, max(least, min(most, least + 4))))]
        if name == "await":
            args = ["2"]
        text += [name, str(len(args) if chance.random() < 0.98 else chance.randrange(5000)), *args]
    data = bytearray(b"".join(word.encode() + b"\0" for word in text))
    if chance.random() < 0.1:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)

def run(data):
    memfd = os.memfd_create("plan", 0)
    os.write(memfd, data)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for _ in range(6):
        ours.send(b"{}")
    null = os.open("/dev/null", os.O_RDWR)
    fds = [null, memfd, theirs.fileno(), memfd]
    actions = [(os.POSIX_SPAWN_DUP2, fd, 100 + i) for i, fd in enumerate(fds)]
    actions += [(os.POSIX_SPAWN_DUP2, 100 + i, i) for i in range(4)]
    actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in range(4, 110)]
    pid = os.posix_spawn(program, ["harness-launch", "1"], {}, file_actions=actions)
    theirs.close()
    end = time.monotonic() + 5
    ours.settimeout(5)
    said = []
    try:
        while record := ours.recv(1 << 16):
            said.append(record)
    except OSError:
        os.kill(-1, signal.SIGKILL)  # all but pid 1, which is us
    ours.close()
    os.close(memfd)
    os.close(null)
    while True:
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if found == 0:
            if time.monotonic() > end:
                os.kill(-1, signal.SIGKILL)
            time.sleep(0.001)
        elif os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT):
            print("crashed", os.WTERMSIG(status), data)
    return said

ends = {}
for _ in range(int(count)):
    said = run(plan())
    failed = said and said[-1].startswith(b"error")
    kind = said[-1].split()[2].decode("utf-8", "replace") if failed else "executed or silent"
    ends[kind] = ends.get(kind, 0) + 1
print(len(ends), "kinds of ends", ends)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_plans_of_garbage_give_no_report(seed: int, program: Path) -> None:
    argv = [sys.executable, "-c", GARBAGE, str(program), str(SOURCES / "launch.h"), str(seed), str(PLANS)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "crashed" not in done.stdout, done.stdout[-2000:]
    assert int(done.stdout.split()[0]) > 15, done.stdout
