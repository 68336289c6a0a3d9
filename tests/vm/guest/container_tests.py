"""Runs inside a guest: mount cgroups as one kind of host has them, and run tests of the container runtime there.

    container_tests.py v2|v1 CHOICE FILE...

CHOICE is JSON: `left_out` has reasons by the beginnings of tests' names; of each file but those in `whole` run at most
`most` test functions, evenly spaced and with their first parameters (null: all of all files); none may take longer than
`limit_s`. stdout is one JSON object a line: what this host is, what was chosen, then each phase of each test. stderr is
what pytest says to people; the exit code is pytest's.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any, TextIO

import pytest

from harness.container import syscalls

ROOT = Path("/sys/fs/cgroup")
V1_TREES = ("memory", "cpu,cpuacct", "cpuset", "pids", "devices", "blkio", "hugetlb", "freezer", "net_cls,net_prio")
MODULES = Path("/opt/modules")
HOME = Path("/tmp/home")
QUIET = ("-q", "--tb=short", "--no-header", "--no-summary")
OWN = (
    "-p", "no:cacheprovider", "--basetemp=/tmp/pytest", "--continue-on-collection-errors",
    "-o", "addopts=", "-o", "tmp_path_retention_policy=none",
)  # fmt: skip
SYS_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}


def load_modules() -> None:
    """Load the kernel modules of the tree in the order of their names, which is that of their dependencies."""
    libc = ctypes.CDLL(None, use_errno=True)
    for path in sorted(MODULES.iterdir()):
        with path.open("rb") as file:
            number = SYS_FINIT_MODULE[os.uname().machine]
            if libc.syscall(number, file.fileno(), b"", 0) != 0 and ctypes.get_errno() != errno.EEXIST:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


def mount_cgroups(mode: str) -> None:
    if mode == "v2":
        syscalls.mount("cgroup2", str(ROOT), "cgroup2", 0)
        return
    syscalls.mount("tmpfs", str(ROOT), "tmpfs", 0, "mode=0755")
    for names in V1_TREES:
        (ROOT / names).mkdir()
        syscalls.mount("cgroup", str(ROOT / names), "cgroup", 0, names)


def prepare(mode: str) -> None:
    """What a host's init does: modules, cgroups, a /tmp in memory; and an image store that may be written to."""
    load_modules()
    mount_cgroups(mode)
    syscalls.mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777")
    shutil.copytree("/opt/home", HOME, symlinks=True)
    os.environ.update(HARNESS_HOME=str(HOME), HOME="/root", PATH=os.defpath + ":/usr/sbin:/sbin")


class Report:
    """Choose tests, and write a line for each phase as soon as it is over: a guest that hangs has told the rest."""

    def __init__(self, out: TextIO, left_out: dict[str, str], whole: list[str], most: int | None) -> None:
        self._out = out
        self._left_out = left_out
        self._whole = whole
        self._most = most

    def say(self, **line: Any) -> None:
        print(json.dumps(line), file=self._out, flush=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        seconds = round(report.duration, 3)
        self.say(test=report.nodeid, when=report.when, outcome=report.outcome, why=str(why), seconds=seconds)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self.say(test=report.nodeid, when="collect", outcome=report.outcome, why=report.longreprtext, seconds=0)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self.say(collected=[item.nodeid for item in items])
        reasons: dict[str, str] = {}
        for _, group in itertools.groupby(items, key=lambda item: item.path):
            reasons.update(self._reasons(list(group)))
        self.say(left_out=reasons)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in reasons])
        items[:] = [item for item in items if item.nodeid not in reasons]

    def _reasons(self, items: list[pytest.Item]) -> dict[str, str]:
        """Return why tests of one file are left out."""
        reasons = {}
        for item in items:
            why = next((why for name, why in self._left_out.items() if item.nodeid.startswith(name)), None)
            if why:
                reasons[item.nodeid] = why
        if self._most is None or items[0].path.name in self._whole:
            return reasons
        functions: dict[str, str] = {}
        for item in items:
            if item.nodeid not in reasons:
                functions.setdefault(item.nodeid.partition("[")[0], item.nodeid)
        step = max(1, math.ceil(len(functions) / self._most))
        kept = {*list(functions.values())[::step]}
        why = f"every {step}. test function of the file runs, with its first parameters"
        return {item.nodeid: why for item in items if item.nodeid not in kept} | reasons


def main(mode: str, choice: str, *files: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepare(mode)
    chosen = json.loads(choice)
    limit_s = chosen.pop("limit_s")
    report = Report(out, **chosen)
    controllers = (ROOT / "cgroup.controllers").read_text().split() if mode == "v2" else list(V1_TREES)
    report.say(about={"kernel": os.uname().release, "controllers": controllers})
    os.chdir("/opt")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    raise SystemExit(pytest.main([*QUIET, *OWN, f"--timeout={limit_s}", *files], [report]))


if __name__ == "__main__":
    main(*sys.argv[1:])
