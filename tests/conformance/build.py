"""Fetch the sources of the validation suites from Debian, and build them once into the cache directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
RECIPE = (Path(__file__), HERE / "tap.go", HERE / "libmount.py")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
RUNTIME_TOOLS, CRUN, RUNC = "golang-github-opencontainers-runtime-tools", "crun", "runc"
# Debian 12's own copy of runtime-tools is older, and mirrors no longer serve it whole; the tests of crun and runc are
# those of the versions that Debian 12 installs.
RELEASES = {RUNTIME_TOOLS: "trixie", CRUN: "bookworm", RUNC: "bookworm"}
PACKAGES = """
bats bc busybox-static gawk gcc golang-github-blang-semver-dev golang-github-containerd-console-dev
golang-github-cyphar-filepath-securejoin-dev golang-github-google-uuid-dev golang-github-hashicorp-go-multierror-dev
golang-github-mrunalp-fileutils-dev golang-github-opencontainers-selinux-dev golang-github-opencontainers-specs-dev
golang-github-sirupsen-logrus-dev golang-github-urfave-cli-dev golang-github-xeipuuv-gojsonschema-dev
golang-gocapability-dev golang-golang-x-sys-dev golang-go jq libc6-dev libseccomp-dev util-linux xz-utils
""".split()
PROJECTS = Path("src/github.com/opencontainers")


class Missing(Exception):
    """Something that the suites need is not here; the message says what and why."""


def cache_dir() -> Path:
    """Return the directory of the built suites; another recipe has another directory."""
    recipe = hashlib.sha256(b"".join(file.read_bytes() for file in RECIPE)).hexdigest()[:12]
    home, xdg = os.environ.get("HARNESS_HOME"), os.environ.get("XDG_CACHE_HOME")
    base = Path(home) / "cache" if home else Path(xdg or Path.home() / ".cache") / "harness"
    return base.absolute() / "conformance" / recipe


def is_built() -> bool:
    """Return whether the suites are in the cache."""
    return (cache_dir() / "built").exists()


def _run(argv: list[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run a command; raises Missing with the end of what it said when it fails."""
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"{' '.join(argv[:4])} ...: exit code {done.returncode}: {(done.stderr or done.stdout)[-800:]}")


def _install(programs: list[str], *, allowed: bool) -> None:
    """Install the packages that are missing, or raise Missing where that is not allowed."""
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n", *PACKAGES, *programs],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    there = {line.split()[1] for line in shown.stdout.splitlines() if line.startswith("installed ")}
    wanted = sorted({*PACKAGES, *programs} - there)
    if wanted and not allowed:
        raise Missing(f"packages: {' '.join(wanted)}: not installed, and --no-install was given")
    if wanted:
        _run(["apt-get", "install", "--yes", "--no-install-recommends", *wanted])


def _fetch(package: str, place: Path) -> Path:
    """Return a directory with the upstream sources of a Debian package; the host's apt configuration stays as it is.

    Only the tarball is fetched, which apt checks against the signed index: Debian's patches are about packaging.
    """
    for folder in ("lists/partial", "parts", "cache/archives/partial", package):
        (place / folder).mkdir(parents=True, exist_ok=True)
    line = f"deb-src [signed-by={KEYRING}] http://deb.debian.org/debian {RELEASES[package]} main\n"
    (place / "sources.list").write_text(line)
    options = {"Dir::Etc::sourcelist": place / "sources.list", "Dir::Etc::sourceparts": place / "parts",
               "Dir::State::lists": place / "lists", "Dir::Cache": place / "cache",
               "APT::Sandbox::User": "root"}  # fmt: skip
    apt = ["apt-get", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run([*apt, "update"])
    target = place / package
    _run([*apt, "--tar-only", "--download-only", "source", package], cwd=target)
    tarballs = list(target.glob("*.orig.tar.xz"))
    if len(tarballs) != 1:
        raise Missing(f"{package}: {len(tarballs)} tarballs where one was expected")
    _run(["tar", "--extract", "--file", str(tarballs[0]), "--strip-components=1"], cwd=target)
    return target


def _project(source: Path, place: Path, name: str) -> Path:
    """Return where a Go project lies after it was moved to where its own imports look for it."""
    project = place / "go" / PROJECTS / name
    project.parent.mkdir(parents=True, exist_ok=True)
    return source.rename(project)


def _go_build(packages: list[str], project: Path, place: Path, target: Path) -> None:
    """Build static programs into `target`, with Debian's Go libraries and nothing from a network."""
    env = os.environ | {"GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0", "GOCACHE": str(place / "objects"),
                        "GOPATH": f"{place / 'go'}:/usr/share/gocode"}  # fmt: skip
    _run(["go", "build", "-ldflags=-s -w", "-o", f"{target}/", *packages], project, env)


def _build_runtime_tools(source: Path, place: Path, target: Path) -> None:
    """Build each validation program and `runtimetest`, and put what they look for in their working directory there."""
    project = _project(source, place, "runtime-tools")
    stand_in = place / "go/src/github.com/mndrix/tap-go"
    stand_in.mkdir(parents=True)
    shutil.copy(HERE / "tap.go", stand_in)
    programs = target / "runtime-tools" / "programs"
    programs.mkdir(parents=True)
    _go_build(["./cmd/runtimetest", "./validation/..."], project, place, programs)
    (programs / "runtimetest").rename(target / "runtime-tools" / "runtimetest")
    for archive in project.glob("rootfs-*.tar.gz"):
        shutil.copy(archive, target / "runtime-tools")


def _build_crun(source: Path, target: Path) -> None:
    """Copy the tests in Python, and build the static program that they run inside their containers."""
    tests = target / "crun"
    (tests / "tests").mkdir(parents=True)
    for file in (source / "tests").glob("*.py"):
        shutil.copy(file, tests)
    shutil.copy(HERE / "libmount.py", tests)
    (source / "config.h").write_text("#define HAVE_SECCOMP 1\n#define HAVE_ERROR_H 1\n")  # autoconf would write it
    gcc = ["gcc", "-static", "-O2", "-w", f"-I{source}"]
    _run([*gcc, "-o", f"{tests}/tests/init", f"{source}/tests/init.c", "-lseccomp"])


def _busybox_root(place: Path) -> None:
    """Make a root tree of busybox and, for the one test that wants Debian, the static ldconfig of the host."""
    for folder in "bin dev etc home lib proc root sbin sys tmp usr/bin usr/sbin var".split():
        (place / folder).mkdir(parents=True)
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    shutil.copy(busybox, place / "bin")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (place / "bin" / applet).symlink_to("busybox")
    (place / "usr/bin/env").symlink_to("../../bin/busybox")
    (place / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")
    (place / "etc/group").write_text("root:x:0:\nnobody:x:65534:\n")
    shutil.copy("/sbin/ldconfig", place / "sbin")


def _build_runc(source: Path, place: Path, target: Path) -> None:
    """Copy the tests for bats, build the program that they receive terminals with, and make the images they unpack."""
    project = _project(source, place, "runc")
    tests = target / "runc" / "tests" / "integration"
    shutil.copytree(project / "tests" / "integration", tests)
    terminal = target / "runc" / "contrib" / "cmd" / "recvtty"
    terminal.mkdir(parents=True)
    _go_build(["./contrib/cmd/recvtty"], project, place, terminal)
    _busybox_root(place / "root")
    image = tests / "testdata" / "busybox.tar"
    _run(["tar", "--create", "--file", str(image), "--directory", str(place / "root"), "."])
    names = " ".join(f"{name}_IMAGE={image}" for name in ("BUSYBOX", "HELLO", "DEBIAN"))
    (tests / "get-images.sh").write_text(f"#!/bin/sh\necho {names}\n")


def build(*, install: bool) -> Path:
    """Return the directory of the built suites, after building them where they are not there yet.

    Raises: Missing where a package, a source or a compiler is missing.
    """
    target = cache_dir()
    peers = [name for name in ("runc", "crun") if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    if is_built() and not peers:
        return target
    _install(peers, allowed=install)
    if is_built():
        return target
    work = target.with_name(target.name + ".work")
    for leftover in target.parent.glob("*"):  # of other recipes too
        shutil.rmtree(leftover)
    target.mkdir(parents=True)
    try:
        _build_runtime_tools(_fetch(RUNTIME_TOOLS, work), work, target)
        _build_crun(_fetch(CRUN, work), target)
        _build_runc(_fetch(RUNC, work), work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    (target / "built").touch()
    return target
