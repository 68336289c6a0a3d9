"""What tests add to a guest's root tree of packages (`harness.images.debs`): an image, commands, this environment."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import site
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

from harness.host.process import run

# What the tests of the container runtime use beyond that: a compiler of static programs, the library that makes
# filters, and programs of which busybox's applets know too few options.
TEST_PACKAGES = ("musl-tools", "libseccomp2", "uidmap", "util-linux", "mount", "procps")


def add_busybox_image(tree: Path) -> None:
    """Put a container's image below /image: busybox, its applets as links, and the directories to mount on."""
    image = tree / "image"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (image / name).mkdir(parents=True)
    program = tree / "bin" / "busybox"
    shutil.copy2(program, image / "bin" / "busybox")
    for applet in run([str(program), "--list"]).stdout.decode().split():
        if applet != "busybox":
            (image / "bin" / applet).symlink_to("busybox")


def add_harness_command(tree: Path, name: str, target: str) -> None:
    """Put a console script of the project into /usr/bin; `target` is MODULE:FUNCTION, as in pyproject.toml."""
    module, function = target.split(":")
    path = tree / "usr" / "bin" / name
    path.write_text(f"#!/usr/bin/python3\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    path.chmod(0o755)


def python_version(tree: Path) -> tuple[int, int]:
    """Return the version of the tree's interpreter: what is compiled for another one does not load there."""
    (directory,) = tree.glob("usr/lib/python3.*")
    major, minor = directory.name.removeprefix("python").split(".")
    return int(major), int(minor)


def add_distributions(tree: Path, names: Iterable[str]) -> None:
    """Put what this environment has installed under these names, and what they need, below /opt/site.

    Raises: PackageNotFoundError for a name that is not installed.
    """
    home = Path(site.getsitepackages()[0])
    for distribution in _closure(names):
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if "__pycache__" in file.parts or ".." in file.parts or not source.is_relative_to(home):
                continue
            target = tree / "opt" / "site" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _closure(names: Iterable[str]) -> list[importlib.metadata.Distribution]:
    found: dict[str, importlib.metadata.Distribution] = {}
    pending = list(names)
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()  # PEP 503
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        requirements = map(Requirement, found[name].requires or ())
        pending += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return list(found.values())
