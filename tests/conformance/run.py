"""Run the programs of the validation suites against OCI runtimes, each in a sandbox of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.verdicts import Verdict, judge, judge_each

HERE = Path(__file__).parent
TIME_LIMIT_S = 180  # the longest that passes takes 35 s on two busy cores, and more beside other tests
LONG_LIMIT_S = 240  # for the files of bats
GRACE_S = 45  # for the sandbox to come and go
TIMED_OUT = (124, 137)  # what timeout(1) ends with
SKIPPED_FILES = {"tests_utils.py", "test_checkpoint_restore.py"}  # no tests, and what needs CRIU
_NUMBERS = itertools.count()

# crun's tests call `RUNTIME --cgroup-manager M --root R COMMAND --config F ...`; other runtimes read config.json of the
# bundle, which is the working directory.
PLAIN_OPTIONS = """
for word; do
    shift
    case $drop$word in
        --cgroup-manager | --config) drop=skip: ;;
        skip:*) drop= ;;
        *) set -- "$@" "$word" ;;
    esac
done
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime under test."""

    name: str
    path: Path
    version: str
    knows_cgroup_manager: bool


def find_runtime(text: str) -> Runtime | None:
    """Return the runtime with this path, or with this name in PATH; None where there is none."""
    found = shutil.which(text, path=os.environ["PATH"] + ":/usr/sbin")
    if found is None:
        return None
    path = Path(found).absolute()

    def says(option: str) -> str:
        return subprocess.run([path, option], capture_output=True, text=True, check=False).stdout

    version = (says("--version").splitlines() or ["unknown version"])[0]
    return Runtime(path.name, path, version, "--cgroup-manager" in says("--help"))


def hierarchies() -> list[Path]:
    """Return the mount points of the cgroup hierarchies."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(words[1]) for words in lines if words[2] in ("cgroup", "cgroup2")]


def _end_all(path: Path) -> None:
    """End the processes of a cgroup that we made and of those below it: the sandbox did not come to its own end."""
    for file in path.rglob("freezer.state"):
        file.write_text("THAWED")
    for file in path.rglob("cgroup.procs"):
        for pid in file.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _remove_cgroup(path: Path) -> None:
    """Remove a cgroup with those below it; processes of an ended pid namespace leave theirs a moment later."""
    deadline_s = time.monotonic() + 10
    while path.exists():
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(directory)  # noqa: PTH106
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)


@contextmanager
def _cgroup() -> Iterator[str]:
    """Give the name of an empty cgroup in every hierarchy, and remove it with all that was made in it."""
    name = f"conformance-{os.getpid()}-{next(_NUMBERS)}"
    made = [root / name for root in hierarchies()]
    try:
        for path in made:
            path.mkdir()
            for setting in ("cpuset.cpus", "cpuset.mems"):  # without them a v1 cpuset takes no process
                if (path / setting).exists() and (path.parent / "cpuset.cpus").exists():
                    (path / setting).write_text((path.parent / setting).read_text())
        yield name
    finally:
        for path in made:
            _end_all(path)
        for path in made:
            _remove_cgroup(path)


def _wrapper(runtime: Runtime, place: Path) -> Path:
    """Return a script that calls the runtime with a state directory of its own."""
    script = place / runtime.name
    options = "" if runtime.knows_cgroup_manager else f"drop=\n{PLAIN_OPTIONS}"
    script.write_text(f'#!/bin/sh\n{options}exec {runtime.path} --root {place}/state "$@"\n')
    script.chmod(0o755)
    return script


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its output and exit code (None: the time limit), and how long it took."""

    output: str
    complaint: str
    code: int | None
    seconds: float


def run_sandboxed(
    runtime: Runtime, argv: list[str], cwd: Path, env: dict[str, str], limit_s: int = TIME_LIMIT_S
) -> Ended:
    """Run a program with $RUNTIME, $OCI_RUNTIME and $TMPDIR set, and return how it ended."""
    with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as name, _cgroup() as cgroup:
        place = Path(name)
        place.chmod(0o755)  # tests in user namespaces go through it
        wrapper = str(_wrapper(runtime, place))
        (place / "tmp").mkdir(mode=0o755)
        environment = os.environ | env | {"RUNTIME": wrapper, "OCI_RUNTIME": wrapper, "TMPDIR": f"{place}/tmp",
                                          "LANG": "C", "LC_ALL": "C"}  # fmt: skip
        if runtime.version.startswith("crun"):
            environment["HIDE_UNIFIED"] = "yes"
        command = ["sh", str(HERE / "sandbox.sh"), "enter", cgroup, str(limit_s), *argv]
        started_s = time.monotonic()
        with (place / "out").open("w+b") as out, (place / "err").open("w+b") as err:
            # Files and not pipes: a forgotten process that holds one open must not hold us up.
            try:
                code = subprocess.run(
                    command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False,
                    timeout=limit_s + GRACE_S, start_new_session=True,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                code = TIMED_OUT[0]
        seconds = time.monotonic() - started_s
        output, complaint = ((place / kind).read_text(errors="replace") for kind in ("out", "err"))
        return Ended(output, complaint, None if code in TIMED_OUT else code, seconds)


class RuntimeTools:
    """The validation programs of opencontainers/runtime-tools: one verdict for each program."""

    name = "runtime-tools"

    def __init__(self, built: Path) -> None:
        self._place = built / "runtime-tools"

    def programs(self) -> list[str]:
        """Return the names of the programs."""
        return sorted(path.name for path in (self._place / "programs").iterdir())

    def run(self, program: str, runtime: Runtime) -> tuple[dict[str, Verdict], Ended]:
        """Return the verdict on one program."""
        ended = run_sandboxed(runtime, [str(self._place / "programs" / program)], self._place, {})
        return {program: judge(ended.output, ended.code, ended.complaint)}, ended


class CrunTests:
    """The tests of crun that are written in Python: one verdict for each test of each file."""

    name = "crun"

    def __init__(self, built: Path) -> None:
        self._place = built / "crun"

    def programs(self) -> list[str]:
        """Return the names of the files."""
        return sorted(path.stem for path in self._place.glob("test_*.py") if path.name not in SKIPPED_FILES)

    def run(self, program: str, runtime: Runtime) -> tuple[dict[str, Verdict], Ended]:
        """Return the verdict on each test of one file."""
        with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as name:
            Path(name).chmod(0o755)
            Path(name, "tests").symlink_to(self._place / "tests")
            argv = ["python3", "-W", "ignore", str(self._place / f"{program}.py")]
            if program == "test_tty":  # which skips all without a terminal
                argv = ["script", "--quiet", "--return", "--command", shlex.join(argv), "/dev/null"]
            ended = run_sandboxed(runtime, argv, Path(name), {"INIT": str(self._place / "tests" / "init")})
        found = judge_each(ended.output, ended.code, ended.complaint)
        return {f"{program}: {test}": verdict for test, verdict in found.items()}, ended


class RuncTests:
    """The tests of runc that are written for bats: one verdict for each test of each file."""

    name = "runc"
    # What needs CRIU, sshfs, a seccomp agent, systemd, or another user is left out.
    files = """create cwd debug delete dev events exec help hooks kill list mask mounts mounts_recursive no_pivot pause
    ps root run seccomp spec start start_detached start_hello state tty umask update userns version cgroups""".split()

    def __init__(self, built: Path) -> None:
        self._place = built / "runc" / "tests" / "integration"

    def programs(self) -> list[str]:
        """Return the names of the files."""
        return [f"{name}.bats" for name in self.files]

    def run(self, program: str, runtime: Runtime) -> tuple[dict[str, Verdict], Ended]:
        """Return the verdict on each test of one file."""
        command = f'RUNC="$RUNTIME" bats --formatter tap {shlex.quote(str(self._place / program))}'
        argv = ["script", "--quiet", "--return", "--command", command, "/dev/null"]  # it wants a terminal to control it
        ended = run_sandboxed(runtime, argv, self._place, {}, LONG_LIMIT_S)
        found = judge_each(ended.output, ended.code, ended.complaint)
        return {f"{program}: {test}": verdict for test, verdict in found.items()}, ended


Suite = RuntimeTools | CrunTests | RuncTests
SUITES: dict[str, Callable[[Path], Suite]] = {"runtime-tools": RuntimeTools, "crun": CrunTests, "runc": RuncTests}
Job = tuple[Suite, str, Runtime]
Results = dict[str, dict[str, dict[str, Verdict]]]  # suite, test, runtime


def run_all(jobs: list[Job], logs: Path | None, workers: int) -> Results:
    """Return suite, test, runtime -> verdict for all jobs, most of which wait more than they work."""
    results: Results = {}

    def one(job: Job) -> None:
        suite, program, runtime = job
        verdicts, ended = suite.run(program, runtime)
        for test, verdict in verdicts.items():
            results.setdefault(suite.name, {}).setdefault(test, {})[runtime.name] = verdict
        if logs is not None:
            place = logs / suite.name / runtime.name
            place.mkdir(parents=True, exist_ok=True)
            text = f"{ended.output}\n--- stderr\n{ended.complaint}\n--- exit code {ended.code}, {ended.seconds:.1f} s\n"
            (place / program).write_text(text)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, jobs))
    return results
