"""Tests of the container runtime, run in a guest that has another kernel and other cgroups than this host.

`suite_tree` makes the guest's root once: the distribution's Python and compiler, this checkout with its tests, the
packages of this environment that they import, and the base image. `run_suites` boots it and says what each test did.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import plugins
from harness.errors import HarnessError, TrialError
from harness.host.paths import cache_dir
from harness.images import debs, initramfs, kernel, kmodules
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, Instance, RunContext
from harness.model.milestones import EXITED
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
from harness.trials import ownership
from tests.vm import _image

TESTS = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("guest") / "container_tests.py"
DISTRIBUTIONS = (
    "pytest",
    "pytest-timeout",
    "click",
    "isal",
    "lz4",
    "psutil",
    "pydantic",
    "rich",
    "ruamel.yaml",
    "zstandard",
)
COMMANDS = {"harness": "harness.cli.main:main", "harness-oci": "harness.container.cli:main"}
MODULES = ("overlay", "fuse", "loop", "tun")
STOP_NS = 30 * 10**9
GUEST = Limits(cpus=2, memory_bytes=2 << 30, pids=4000)
ETC = {
    "passwd": "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n",
    "subuid": "root:100000:65536\nnobody:200000:65536\n",
    "subgid": "root:100000:65536\nnobody:200000:65536\n",
    "hosts": "127.0.0.1 localhost\n",
    "hostname": "guest\n",
    "resolv.conf": "",
}


@dataclass
class Suite:
    """What a guest told: by test its outcome, the reason where it is not "passed", and its seconds.

    `left_out` has the reasons for tests that were collected and not run; `ended` is how each guest's pytest ended.
    """

    mode: str
    kernel: str = ""
    controllers: tuple[str, ...] = ()
    collected: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    log: str = ""

    def add(self, line: dict[str, object]) -> None:
        """Take one line of the guest's."""
        if "about" in line:
            about = line["about"]
            assert isinstance(about, dict)
            self.kernel, self.controllers = str(about["kernel"]), tuple(about["controllers"])
        elif "collected" in line:
            self.collected += tuple(line["collected"])  # type: ignore[arg-type]
        elif "left_out" in line:
            self.left_out |= line["left_out"]  # type: ignore[arg-type]
        else:
            self._add_phase(str(line["test"]), str(line["outcome"]), line)

    def _add_phase(self, test: str, outcome: str, line: dict[str, object]) -> None:
        """A test is what its worst phase was."""
        self.seconds[test] = self.seconds.get(test, 0) + float(str(line["seconds"]))
        order = ["passed", "skipped", "failed"]
        if order.index(outcome) >= order.index(self.outcomes.get(test, "passed")):
            self.outcomes[test] = outcome
            self.reasons[test] = f"{line['when']}: {line['why']}" if outcome == "failed" else str(line["why"])

    def of(self, file: str) -> list[str]:
        """Return the tests of a file that were collected, and the file itself where that failed."""
        every = dict.fromkeys((*self.collected, *self.outcomes))
        return [test for test in every if test.partition("::")[0].endswith(f"/{file}")]


def suite_tree(place: Path) -> RootTree:
    """Return the root of guests that run tests, made in `place`. Skips where compiled packages could not be loaded."""
    root = place / "root"
    shutil.copytree(debs.base_tree(cache_dir(), _image.TEST_PACKAGES), root, symlinks=True)
    if (there := _image.python_version(root)) != sys.version_info[:2]:
        pytest.skip(
            f"the distribution's Python is {there}, this one {sys.version_info[:2]}: packages do not load there"
        )
    _image.add_distributions(root, DISTRIBUTIONS)
    _add_tests(root)
    _add_system(root)
    debs.add_harness(root, SCRIPT)
    return resolve_image(ImageRef("rootfs", str(root)), place, Store(place / "store"))


def _add_tests(root: Path) -> None:
    home = root / "opt" / "tests"
    for file in (*TESTS.glob("*.py"), *TESTS.glob("integration/*.py")):
        target = home / file.relative_to(TESTS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TESTS.parent / "benchmarks", root / "opt" / "benchmarks", ignore=hidden)  # tests import it
    for name in ("pyproject.toml", "hatch_build.py"):
        shutil.copy2(TESTS.parent / name, root / "opt")
    packages = root / "usr" / "lib" / "python3" / "dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "harness.pth").write_text("/opt\n/opt/site\n")
    for name, target in COMMANDS.items():
        _image.add_harness_command(root, name, target)


def _add_system(root: Path) -> None:
    """What a host has that unpacked packages do not bring: accounts, busybox's applets, modules, the base image."""
    for name, text in ETC.items():
        (root / "etc" / name).write_text(text)
    (root / "root").mkdir(mode=0o700, exist_ok=True)
    debs.add_applets(root)
    found = kernel.find(cache_dir())
    assert found is not None
    files = kernel.module_files(found, MODULES)
    for name, file in zip(initramfs.module_paths(files), files, strict=True):
        target = root / "opt" / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(kmodules.module_bytes(file))
    store = Store(root / "opt" / "home" / "data" / "images")
    bootstrap_busybox(store, cache_dir())
    resolve_image(ImageRef("name", "busybox"), root, store)


@contextmanager
def started(mode: str, tree: RootTree, arguments: Sequence[str]) -> Iterator[Instance]:
    """A guest with cgroups of this kind, in which pytest was given these arguments; it is gone at the end."""
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "suite")
    backend = plugins.load("backends", "libvirt")
    argv = ("/usr/bin/python3", f"/opt/{SCRIPT.name}", mode, *arguments)
    # Ready with its first line: what a guest says before it is ready comes to us only when it has ended.
    workload = WorkloadSpec(argv, {"PATH": "/usr/bin:/bin"}, ready=Ready("line", text='"about"'))
    try:
        options = backend.options.model_validate({})
        context = RunContext("suite", token, scratch, cache_dir())
        arm = backend.prepare(ArmSpec("guest", tree, workload, GUEST), options, context)
        try:
            instance = arm.launch(mode)
            try:
                yield instance
            finally:
                with suppress(TrialError):  # of a guest that hangs; it is ended all the same, and `ended` tells
                    instance.stop(time.monotonic_ns() + STOP_NS)
        finally:
            arm.close()
    finally:
        ownership.reap(token, [backend], dry_run=False)


def run_suites(tree: RootTree, guests: Sequence[tuple[str, Sequence[str]]], seconds: float) -> dict[str, Suite]:
    """Return by mode what the guests of that mode told, each a mode and arguments; they ran side by side and are gone.

    `seconds` are for all of them; what a guest has not told then did not happen.
    """
    deadline_ns = time.monotonic_ns() + round(seconds * 10**9)
    suites = {mode: Suite(mode) for mode, _ in guests}
    running = []
    with ExitStack() as stack:
        for mode, arguments in guests:
            running.append((suites[mode], stack.enter_context(started(mode, tree, arguments))))
        for suite, guest in running:
            try:
                suite.ended.append(f"exit code {guest.wait(EXITED, deadline_ns).detail}")
            except HarnessError as error:
                suite.ended.append(f"stopped after {seconds:.0f} s: {error}")
    for suite, guest in running:
        stdout, stderr = guest.output()
        suite.log += stderr.decode(errors="replace")
        for line in stdout.decode().split("\n")[:-1]:  # what follows the last newline was cut off
            suite.add(json.loads(line))
    return suites
