"""A root tree for guests that run Python: the distribution's own packages, unpacked and nothing more.

No package is configured and no maintainer script runs: an interpreter, its libraries and a static busybox are all that
a script wants. apt resolves and downloads as it does for the host, against an empty list of installed packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness.host.process import run

PACKAGES = ("python3", "busybox-static")
_RECIPE = "2"  # to be counted up when what is made of the packages changes
_TIMEOUT_NS = 150 * 10**9
_MERGED = ("bin", "sbin", "lib", "lib64")
_UNUSED = (
    "usr/share", "var", "usr/lib/python3*/test", "usr/lib/python3*/idlelib", "usr/lib/python3*/lib2to3",
    "usr/lib/gcc/*/*/lto1", "usr/bin/*lto-dump*", "usr/bin/*-ld.gold", "usr/bin/*-dwp", "usr/lib/*/gconv",
    "usr/lib/gcc/*/*/lib*san*", "usr/lib/*/lib*san.so*", "usr/lib/*/libgprofng*",
)  # fmt: skip
_SOURCES = Path(__file__).parents[1]


def base_tree(cache: Path, more: tuple[str, ...] = ()) -> Path:
    """Return a directory with the unpacked packages, made once for each distribution; nobody may change it.

    `more` are packages beyond PACKAGES. Raises: CommandError when apt cannot bring them.
    """
    packages = (*PACKAGES, *more)
    key = hashlib.sha256("\n".join([_RECIPE, *packages, _distribution()]).encode()).hexdigest()[:16]
    home = cache / "guest-trees"
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / key).exists():
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                _unpack(_download(Path(scratch), packages), Path(scratch) / "tree")
                (Path(scratch) / "tree").rename(home / key)
    return home / key


def _distribution() -> str:
    lines = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return " ".join(lines.get(name, "") for name in ("ID", "VERSION_ID", "VERSION_CODENAME"))


def _download(scratch: Path, packages: Iterable[str]) -> list[Path]:
    archives = scratch / "archives"
    (archives / "partial").mkdir(parents=True)
    (scratch / "status").touch()
    argv = ["apt-get", "--quiet=2", "--yes", "--download-only", "--no-install-recommends",
            "-o", f"Dir::State::status={scratch}/status", "-o", f"Dir::Cache::archives={archives}",
            "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "install", *packages]  # fmt: skip
    run(argv, timeout_ns=_TIMEOUT_NS)
    return sorted(archives.glob("*.deb"))


def _unpack(packages: list[Path], tree: Path) -> None:
    for package in packages:
        run(["dpkg-deb", "-x", str(package), str(tree)], timeout_ns=_TIMEOUT_NS)
    for pattern in _UNUSED:
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in _MERGED:  # newer distributions ship files below /usr alone, and base-files has the links
        if not (tree / name).exists():
            (tree / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc", "run", "sys", "tmp"):
        (tree / name).mkdir(exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    compile_python(tree, "usr/lib/python3.*")


def compile_python(tree: Path, pattern: str) -> None:
    """Make bytecode that no time stamp can outdate (the disk has none): an emulated CPU compiles for seconds."""
    (directory,) = tree.glob(pattern)
    argv = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", f"/{directory.relative_to(tree)}"]
    run(["chroot", str(tree), "/usr/bin/python3", *argv], timeout_ns=_TIMEOUT_NS, env={"PATH": os.defpath})


def add_applets(tree: Path) -> None:
    """Link the programs that busybox has and the packages did not bring into the tree's own /bin."""
    present = {path.name for name in ("bin", "sbin", "usr/bin", "usr/sbin") for path in (tree / name).glob("*")}
    for applet in run([str(tree / "bin" / "busybox"), "--list"]).stdout.decode().split():
        if applet not in present:
            (tree / "bin" / applet).symlink_to("busybox")


def add_harness(tree: Path, *scripts: Path) -> None:
    """Put this installation's harness and the given scripts below /opt."""
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_SOURCES, tree / "opt" / "harness", ignore=hidden)
    for script in scripts:
        shutil.copy2(script, tree / "opt" / script.name)
    compile_python(tree, "opt")
