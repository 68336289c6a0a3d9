"""Compile the static programs of the package: the agent (pid 1 on both sides), the container launcher, the load client.

The first two run inside images that may hold nothing else, so they are static and know only the kernel; musl keeps
them small, glibc's static library is accepted where musl-gcc is missing. $CC overrides the choice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, outside a build
    BuildHookInterface = object  # type: ignore[assignment,misc]

SOURCES = "csrc"
SHARED = "shared"  # is part of each
PROGRAMS = {
    "harness/agent/harness-agent": "agent",
    "harness/container/harness-launch": "launch",
    "harness/loading/harness-load": "load",
}
PARTS = {"agent": ("probe",)}  # what else a program is made of
FLAGS = [
    "-std=gnu17",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Werror",
    "-static",
    "-s",
    "-fno-strict-aliasing",
]


def compiler() -> str:
    """Return the C compiler to use. Raises RuntimeError with the hint that helps."""
    for name in (os.environ.get("CC"), "musl-gcc", "gcc", "cc"):
        if name and shutil.which(name.split()[0]):
            return name
    raise RuntimeError("no C compiler: install musl-tools (Debian, Ubuntu) or set CC")


def build(root: Path) -> None:
    """Compile every program whose sources are newer than its binary."""
    for target, own in PROGRAMS.items():
        binary = root / target
        parts = (own, *PARTS.get(own, ()), SHARED)
        files = sorted(path for part in parts for path in (root / SOURCES / part).glob("*.[ch]"))
        newest = max(path.stat().st_mtime for path in files)
        if binary.exists() and binary.stat().st_mtime >= newest:
            continue
        partial = binary.with_name(binary.name + ".partial")
        units = [str(path) for path in files if path.suffix == ".c"]
        subprocess.run([*compiler().split(), *FLAGS, "-o", str(partial), *units], check=True)
        partial.replace(binary)


class AgentBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build(Path(self.root))


if __name__ == "__main__":
    build(Path(__file__).parent)
