"""A bundle of one's own that attacks, and plans that lack a defence: what the tests of the runtime's security share."""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.container import attach, config_example, launcher, plan
from harness.container.cgroups import detect
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.launcher import Launched
from harness.container.oci import Runtime
from harness.container.step import Step

OCI = str(Path(sys.executable).with_name("harness-oci"))
MIB = 1 << 20
Document = dict[str, Any]
Change = Callable[[list[Step]], list[Step]]


@dataclass
class Box:
    """A bundle with a root of its own, and a directory of states that nobody else uses."""

    bundle: Path
    state: Path
    parent: str = field(default_factory=lambda: f"harness-{secrets.token_hex(4)}")
    """The group that holds those of its containers; the fixture that looks for leftovers knows the name."""

    @property
    def rootfs(self) -> Path:
        return self.bundle / "rootfs"

    @property
    def runtime(self) -> Runtime:
        return Runtime(str(self.state))

    def document(self, script: str = "exec sleep 1000", name: str = "c") -> Document:
        """Return the config.json of a shell with the defaults, which may be changed before `write`."""
        document: Document = config_example.example()
        process: Document = document["process"]
        process.update(terminal=False, args=["/bin/sh", "-c", script])
        document["root"] = {"path": "rootfs", "readonly": False}
        document["linux"]["cgroupsPath"] = f"/{self.parent}/{name}"
        return document

    def write(self, document: Document) -> Box:
        (self.bundle / "config.json").write_text(json.dumps(document))
        return self

    def oci(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; its output is text."""
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": 60, "cwd": self.bundle, "text": True}
        if "stdout" not in options:
            how["capture_output"] = True
        return subprocess.run([OCI, "--root", str(self.state), *words], check=False, **{**how, **options})

    def run(self, script: str, change: Callable[[Document], object] = lambda _: None, **options: Any) -> str:
        """Return what a script in a container prints; the container is gone then."""
        document = self.document(script)
        change(document)
        done = self.write(document).oci("run", "c", **options)
        return str(done.stdout + done.stderr)

    def status(self, container_id: str = "c") -> str:
        return str(json.loads(self.oci("state", container_id).stdout)["status"])

    def pid(self, container_id: str = "c") -> int:
        return self.runtime.state(container_id)[0].pid

    @contextmanager
    def running(
        self,
        script: str = "exec sleep 1000",
        name: str = "c",
        *,
        change: Callable[[Document], object] = lambda _: None,
        **options: Any,
    ) -> Iterator[str]:
        """A container that runs; what it prints goes nowhere unless `stdout` says where."""
        document = self.document(script, name)
        change(document)
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
        with tempfile.TemporaryFile("w+") as errors:  # a pipe would stay open as long as the container
            options["stderr"] = errors
            created = self.write(document).oci("create", name, **options)
            errors.seek(0)
            assert created.returncode == 0, errors.read()
        try:
            assert self.oci("start", name).returncode == 0
            yield name
        finally:
            self.oci("delete", "--force", name)

    def leftovers(self) -> list[str]:
        """Return what is left of all its containers: states, groups, mounts and processes."""
        found = [str(path) for path in self.state.glob("[!.]*")]
        for tree in detect().hierarchies:
            found += [str(path) for path in Path(tree.path).glob(f"{self.parent}*")]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [line for line in mounts if str(self.bundle) in line or str(self.state) in line]
        return found + [f"pid {pid}" for pid in self.processes()]

    def processes(self) -> list[int]:
        """Return the pids of processes that have this bundle's root, or whose command line names its states."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                named = str(self.state).encode() in (entry / "cmdline").read_bytes()
                if named or os.path.samestat((entry / "root").stat(), self.rootfs.stat()):
                    found.append(int(entry.name))
        return found

    def purge(self) -> None:
        """Delete every container by force."""
        for container_id in self.runtime.homes.ids():
            with suppress(ContainerError):
                self.runtime.delete(container_id, force=True)


@contextmanager
def box(tree: Path) -> Iterator[Box]:
    """A bundle with a copy of `tree`; nothing of its containers may be there at the end."""
    with tempfile.TemporaryDirectory(prefix="harness-box-") as directory:
        made = Box(Path(directory, "bundle"), Path(directory, "state"))
        Path(directory).chmod(0o711)  # the root of a user namespace must get through
        made.bundle.mkdir()
        made.state.mkdir()
        shutil.copytree(tree, made.rootfs, symlinks=True)
        try:
            yield made
        finally:
            made.purge()
        end = time.monotonic() + 5
        while (left := made.leftovers()) and time.monotonic() < end:
            time.sleep(0.02)
        assert not left


@functools.cache
def compiled(source: str, *options: str) -> bytes:
    """Return a static program; C of one file."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "a.c").write_text("#define _GNU_SOURCE\n" + source)
        subprocess.run([compiler, "-static", "-Os", "-w", *options, "-o", "a", "a.c"], cwd=directory, check=True)
        return Path(directory, "a").read_bytes()


def install(program: bytes, path: Path, mode: int = 0o755) -> Path:
    path.write_bytes(program)
    path.chmod(mode)
    return path


def until(condition: Callable[[], object], what: str = "did not happen in time", seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def exec_changed(
    box: Box, args: Sequence[str], change: Change, on_sync: launcher.OnSync, *, kept: Sequence[int] = (0, 1, 2)
) -> Launched:
    """As `exec` in the container `c`, with changes to its plan: so a runtime that lacks one of its steps is tried."""
    record, _ = box.runtime.state("c")
    with box.runtime.homes.open("c") as home:
        base = box.runtime.loaded(home, record).container.process
    process = replace(base, args=tuple(args))
    pidfd = os.pidfd_open(record.pid)
    memfd = -1
    try:
        steps = plan.exec_steps(process, plan.Launch(len(kept)), attach.namespaces_apart(record.pid))
        memfd = launcher.plan_memfd(change(list(steps)))
        listeners = launcher.Listeners(on_sync, lambda _: None)
        return launcher.launch(memfd, kept, [pidfd], listeners=listeners)
    finally:
        os.close(pidfd)
        if memfd >= 0:
            os.close(memfd)
