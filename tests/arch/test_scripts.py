"""The set-up scripts, run in a checkout of their own where the slow programs are fakes that log their calls."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"])

PLAIN = "sh cat find sha256sum mktemp rm cp mkdir chmod printf flock env dirname tr sleep touch id".split()
PROGRAMS = (
    "qemu-system-x86_64 qemu-img pkg-config gcc musl-gcc mkfs.erofs mke2fs crun runc podman dockerd newuidmap clang "
    "bwrap systemd-nspawn cpio libvirtd shellcheck skopeo umoci mmdebstrap xmllint docker-registry htpasswd openssl "
    "fuse-overlayfs mkfs.btrfs chromium"
).split()

# `-c` asks about the interpreter; `-m venv` makes a .venv whose python and harness log their calls too.
PYTHON = """#!/bin/sh
case "$*" in
    "-c import sys; sys.exit"*) exit "${FAKE_TOO_OLD:-0}" ;;
    "-c import platform"*) echo 3.9.2 ;;
    "-c import sys; print"*) echo /usr ;;
    *ensurepip*) printf "${FAKE_PARTS-}" ;;
    "-m venv"*) mkdir -p .venv/bin; sleep 0.2; cp "$0" .venv/bin/python; cp "$FAKE_BIN/fake" .venv/bin/harness
        echo "venv" >> "$FAKE_LOG" ;;
    "-m pip"*) echo "pip" >> "$FAKE_LOG"; [ -z "${FAKE_PIP_FAILS-}" ] || { echo "no such index"; exit 9; }
        touch harness/agent/harness-agent harness/container/harness-launch ;;
    *kernel\\ show*) [ -e vmlinux ] ;;
    *kernel\\ fetch*) echo "kernel" >> "$FAKE_LOG"; touch vmlinux index.json ;;
    *cache_dir*) printf 'vmlinux\\nindex.json\\n' ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""
FAKE = """#!/bin/sh
echo "${0##*/} $*" >> "$FAKE_LOG"
"""
APT_GET = """#!/bin/sh
echo "apt-get $*" >> "$FAKE_LOG"
case "$*" in
    update*) touch "$FAKE_BIN/updated" ;;
    *) [ -z "${FAKE_STALE_LISTS-}" ] || [ -e "$FAKE_BIN/updated" ] || { echo "404 Not Found"; exit 100; }
        for word; do case $word in
            DPkg::Path=*) path=${word#*=}; PATH=${path%%:*} command -v deb-systemd-invoke >> "$FAKE_LOG" ;;
        esac; done ;;
esac
"""


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with `bin` as its whole PATH; `run(script, *arguments, **environment)` and `calls()` of the fakes."""
    root, binaries, log = tmp_path / "checkout", tmp_path / "bin", tmp_path / "log"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for room in ("agent", "container"):
        (root / "harness" / room).mkdir(parents=True)
    for room in ("agent", "launch"):
        (root / "csrc" / room).mkdir(parents=True)
        (root / "csrc" / room / "main.c").write_text("int main(void) { return 0; }\n")
    (root / "pyproject.toml").touch()
    (root / "hatch_build.py").touch()
    binaries.mkdir()
    for name in PLAIN:
        (binaries / name).symlink_to(shutil.which(name))
    for name in ("fake", *PROGRAMS):
        program(binaries / name, FAKE)
    program(binaries / "python3", PYTHON)
    environment = {"PATH": str(binaries), "HOME": str(tmp_path), "FAKE_LOG": str(log), "FAKE_BIN": str(binaries)}
    environment["TMPDIR"] = str(tmp_path)

    def start(script, *arguments, **extra):
        command = [str(root / "scripts" / script), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment | extra, text=True, stdout=pipe, stderr=pipe, cwd=tmp_path)

    def run(script, *arguments, **extra):
        process = start(script, *arguments, **extra)
        stdout, stderr = process.communicate(timeout=30)
        return SimpleNamespace(returncode=process.returncode, stdout=stdout, stderr=stderr)

    def calls():
        return log.read_text().splitlines() if log.exists() else []

    return SimpleNamespace(root=root, bin=binaries, start=start, run=run, calls=calls)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (scripts/setup --tests)")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_clean(script):
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_can_be_executed(script):
    assert os.access(script, os.X_OK)


def test_first_setup_makes_everything_and_the_second_nothing(checkout):
    first = checkout.run("setup")
    assert (first.returncode, first.stdout) == (0, "")
    assert checkout.calls() == ["venv", "pip", "kernel", "harness image inspect busybox"]
    second = checkout.run("setup")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(checkout.calls()) == 4


@pytest.mark.parametrize("changed", ["pyproject.toml", "csrc/agent/main.c", "scripts/setup"])
def test_change_of_what_is_built_installs_again_into_the_same_environment(checkout, changed):
    checkout.run("setup")
    with (checkout.root / changed).open("a") as file:
        file.write("\n")
    assert checkout.run("setup").returncode == 0
    assert checkout.calls()[4:] == ["pip", "harness image inspect busybox"]


@pytest.mark.parametrize("product", [".venv/bin/harness", "harness/agent/harness-agent", "vmlinux"])
def test_lost_product_is_made_again(checkout, product):
    checkout.run("setup")
    (checkout.root / product).unlink()
    checkout.run("setup")
    assert "pip" in checkout.calls()[4:]


def test_tests_need_more_programs_but_no_second_installation(checkout):
    (checkout.bin / "crun").unlink()
    program(checkout.bin / "apt-get", APT_GET)
    as_root(checkout)
    checkout.run("setup")
    assert checkout.run("setup", "--tests").returncode == 0
    assert [call.split()[-1] for call in checkout.calls() if call.startswith("apt-get")] == ["crun"]
    assert checkout.calls().count("pip") == 1


def as_root(checkout):
    (checkout.bin / "id").unlink()
    program(checkout.bin / "id", "#!/bin/sh\necho 0\n")


def test_two_setups_at_once_build_once(checkout):
    both = [checkout.start("setup"), checkout.start("setup")]
    assert [process.communicate(timeout=30) and process.returncode for process in both] == [0, 0]
    assert checkout.calls().count("venv") == checkout.calls().count("pip") == 1


def test_missing_program_is_installed_without_recommendations_and_without_services(checkout):
    (checkout.bin / "qemu-img").unlink()
    program(checkout.bin / "apt-get", APT_GET)
    as_root(checkout)
    done = checkout.run("setup", FAKE_STALE_LISTS="yes")
    assert done.returncode == 0, done.stderr
    apt = [call for call in checkout.calls() if call.startswith("apt-get")]
    assert ["install" in call for call in apt] == [True, False, True]
    assert "--no-install-recommends" in apt[-1]
    assert apt[-1].endswith("-- qemu-utils")
    invoked = [call for call in checkout.calls() if call.endswith("/deb-systemd-invoke")]
    assert invoked
    assert not Path(invoked[0]).exists()
    assert "installing qemu-utils" in done.stderr


def test_missing_program_without_apt_is_named_with_its_package(checkout):
    (checkout.bin / "qemu-img").unlink()
    done = checkout.run("setup")
    assert done.returncode == 3
    assert "programs: qemu-img: missing" in done.stderr
    assert "qemu-utils" in done.stderr


def test_missing_program_without_root_says_what_to_type(checkout):
    (checkout.bin / "qemu-img").unlink()
    program(checkout.bin / "apt-get", APT_GET)
    (checkout.bin / "id").unlink()
    program(checkout.bin / "id", "#!/bin/sh\necho 1000\n")
    done = checkout.run("setup")
    assert done.returncode == 3
    assert "hint: as root: apt-get install --no-install-recommends qemu-utils" in done.stderr


def test_old_python_is_named_with_its_version(checkout):
    done = checkout.run("setup", FAKE_TOO_OLD="1")
    assert done.returncode == 3
    assert f"python: {checkout.bin}/python3 is 3.9.2: 3.11 or newer is needed" in done.stderr


def test_python_without_venv_gets_the_package_of_its_own_version(checkout):
    program(checkout.bin / "apt-get", APT_GET)
    as_root(checkout)
    checkout.run("setup", FAKE_PARTS="python3.11-venv\\npython3.11-dev\\n")
    assert checkout.calls()[0].endswith("-- python3.11-venv python3.11-dev")


def test_failure_shows_command_and_output_and_is_tried_again(checkout):
    done = checkout.run("setup", FAKE_PIP_FAILS="yes")
    assert done.returncode == 9
    assert "no such index" in done.stderr
    assert "error: setup: .venv/bin/python -m pip install" in done.stderr
    assert checkout.run("setup").returncode == 0
    assert checkout.calls().count("pip") == 2


def test_unknown_argument_runs_nothing(checkout):
    assert checkout.run("setup", "--offline").returncode == 2
    assert checkout.calls() == []


def test_run_sets_up_and_passes_its_arguments_on(checkout):
    done = checkout.run("run", "a b.yaml", "--json")
    assert (done.returncode, done.stdout) == (0, "")
    assert checkout.calls()[-1] == "harness run a b.yaml --json"


def test_interrupted_setup_leaves_no_stamp_and_no_lock(checkout):
    process = checkout.start("setup")
    while process.poll() is None and not (checkout.root / ".venv").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (checkout.root / ".venv" / "setup.stamp").exists()
    assert checkout.run("setup").returncode == 0
