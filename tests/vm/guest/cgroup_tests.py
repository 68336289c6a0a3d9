"""Runs inside a guest: mount cgroups as one kind of host has them, and run the tests of resources there.

    cgroup_tests.py v2|v1

pytest's own report goes to stdout, and its exit code is this script's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.container import syscalls

ROOT = Path("/sys/fs/cgroup")
V1_TREES = ("memory", "cpu,cpuacct", "cpuset", "pids", "devices", "blkio", "hugetlb", "freezer", "net_cls,net_prio")


def mount_cgroups(mode: str) -> None:
    if mode == "v2":
        syscalls.mount("cgroup2", str(ROOT), "cgroup2", 0)
        return
    syscalls.mount("tmpfs", str(ROOT), "tmpfs", 0, "mode=0755")
    for names in V1_TREES:
        (ROOT / names).mkdir()
        syscalls.mount("cgroup", str(ROOT / names), "cgroup", 0, names)


def main(mode: str) -> None:
    mount_cgroups(mode)
    os.chdir("/tmp")
    arguments = [
        "-c",
        "/dev/null",
        "--rootdir=/tmp",
        "-p",
        "no:cacheprovider",
        "-q",
        "-rA",
        "--tb=short",
        "--noconftest",
    ]
    quiet = ["-W", "ignore::pytest.PytestUnknownMarkWarning"]
    raise SystemExit(pytest.main([*arguments, *quiet, "/opt/test_container_resources.py"]))


if __name__ == "__main__":
    main(sys.argv[1])
