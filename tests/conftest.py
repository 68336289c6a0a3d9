"""What tests need from this machine, and that they leave it as it was.

`@pytest.mark.needs("root", "qemu")` skips where one is missing, with the reason; `--require=root,qemu` makes that a
failure, so that a green run in CI cannot have tested nothing.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import itertools
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import leftovers

LEFTOVER_GRACE_S = 5.0
KVM_BOOT_TIMEOUT_S = 20
_NUMBERS = itertools.count()
PRIVILEGED_TIERS = {"integration", "vm"}


def _program(name: str) -> str | None:
    return None if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") else f"no {name}"


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


def _overlayfs() -> str | None:
    words = Path("/proc/filesystems").read_text().split()
    return None if "overlay" in words else "no overlay in /proc/filesystems"


def _qemu() -> str | None:
    return _program(f"qemu-system-{platform.machine()}")


def _libvirt() -> str | None:
    if importlib.util.find_spec("libvirt") is None:
        return "no libvirt-python"
    drivers = [*Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so"),
               *Path("/usr").glob("lib*/libvirt/connection-driver/libvirt_driver_qemu.so")]  # fmt: skip
    return None if drivers else "no QEMU driver of libvirt (libvirt-daemon-driver-qemu)"


def _kernel() -> str | None:
    from harness.host.paths import cache_dir
    from harness.images import kernel

    return None if kernel.find(cache_dir()) else f"no guest kernel in {cache_dir()} (scripts/setup fetches it)"


def _virtiofsd() -> str | None:
    from harness.backends import _shares
    from harness.errors import CapabilityError

    try:
        _shares.virtiofsd("q35")
    except CapabilityError as error:
        return error.message
    return None


def full_kernel() -> tuple[Path, Path] | None:
    """Return image and modules of a kernel with all drivers (9p is none of the cloud kernel's), None without one."""
    from harness.host.paths import cache_dir

    home = cache_dir() / "kernels" / "full"
    found = [*home.glob("boot/vmlinuz-*")], [*home.glob("lib/modules/*"), *home.glob("usr/lib/modules/*")]
    return (found[0][0], found[1][0]) if all(found) else None


def _kernel_9p() -> str | None:
    from harness.host.paths import cache_dir

    hint = f"apt-get download linux-image-VERSION-amd64, dpkg-deb -x it to {cache_dir()}/kernels/full"
    return None if full_kernel() else f"no kernel with 9p: {hint}"


def _kvm() -> str | None:
    """Whether a stock kernel boots with KVM: a /dev/kvm that opens proves nothing (nested virtualisation)."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no access to /dev/kvm"
    missing = _qemu() or _kernel()
    if missing:
        return missing
    from harness.host.paths import cache_dir
    from harness.images import kernel

    guest = kernel.find(cache_dir())
    assert guest is not None
    argv = [
        f"qemu-system-{platform.machine()}", "-accel", "kvm", "-cpu", "host", "-m", "256M", "-nodefaults",
        "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(guest.bzimage),
        "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip
    try:
        seen = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=KVM_BOOT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a guest does not boot with KVM within {KVM_BOOT_TIMEOUT_S} s"
    return None if b"Linux version" in seen.stdout else "a guest does not boot with KVM"


def _bridge() -> str | None:
    """Whether a private network with bridge, veth and tap can be made here."""
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    from harness.errors import HarnessError
    from harness.host.netns import RunNetwork

    try:
        network = RunNetwork("00000000")
        try:
            network.attach_namespace()
            network.attach_tap()
        finally:
            network.close()
    except HarnessError as error:
        return error.message
    return None


def _conformance() -> str | None:
    from tests.conformance.build import is_built
    from tests.conformance.run import find_runtime

    ours = str(Path(__file__).parents[1] / ".venv" / "bin" / "harness-oci")
    missing = [name for name in ("runc", "crun", ours) if find_runtime(name) is None]
    if missing:
        return f"no {', '.join(missing)}"
    return None if is_built() else "the validation suites are not built (scripts/conformance --build)"


def _registry() -> str | None:
    return _program("docker-registry") or _program("htpasswd") or _program("openssl")


def _storage(driver: str) -> str | None:
    """Return why a storage driver does not work here: tried with a tiny image, as the product does."""
    from harness.errors import CapabilityError
    from harness.host.paths import data_dir
    from harness.images.storage import kinds

    try:
        found = kinds.available(driver, data_dir())
    except (CapabilityError, OSError) as error:
        return str(error)
    return None if found.available else found.reason


CAPABILITIES: dict[str, Callable[[], str | None]] = {
    "root": _root,
    "overlayfs": _overlayfs,
    "bridge": _bridge,
    "qemu": _qemu,
    "libvirt": _libvirt,
    "kernel": _kernel,
    "erofs": functools.partial(_program, "mkfs.erofs"),
    "virtiofsd": _virtiofsd,
    "kernel-9p": _kernel_9p,
    "apt": functools.partial(_program, "apt-get"),
    "git": functools.partial(_program, "git"),
    "libvirtd": functools.partial(_program, "libvirtd"),
    "sshd": functools.partial(_program, "sshd"),
    "cloud-hypervisor": functools.partial(_program, "cloud-hypervisor"),
    "crun": functools.partial(_program, "crun"),
    "firecracker": functools.partial(_program, "firecracker"),
    "runc": functools.partial(_program, "runc"),
    "bwrap": functools.partial(_program, "bwrap"),
    "nspawn": functools.partial(_program, "systemd-nspawn"),
    "ctr": functools.partial(_program, "ctr"),
    "chromium": functools.partial(_program, "chromium"),
    "btrfs": functools.partial(_storage, "btrfs"),
    "fuse-overlayfs": functools.partial(_storage, "fuse-overlayfs"),
    "clang": functools.partial(_program, "clang"),
    "kvm": _kvm,
    "conformance": _conformance,
    "mmdebstrap": functools.partial(_program, "mmdebstrap"),
    "newuidmap": functools.partial(_program, "newuidmap"),
    "podman": functools.partial(_program, "podman"),
    "registry": _registry,
    "skopeo": functools.partial(_program, "skopeo"),
    "umoci": functools.partial(_program, "umoci"),
    "dockerd": functools.partial(_program, "dockerd"),
    "docker": functools.partial(_program, "docker"),
}


@functools.cache
def missing(capability: str) -> str | None:
    """Return why a capability is missing, None where it is there."""
    return CAPABILITIES[capability]()


def _known(names: list[str], where: str) -> list[str]:
    for name in names:
        if name not in CAPABILITIES:
            raise pytest.UsageError(f"{where}: {name}: unknown capability; known: {', '.join(CAPABILITIES)}")
    return names


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require", default="", metavar="CAPABILITIES",
        help="fail, instead of skip, the tests that miss one of these (comma-separated)",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    _known([name for name in config.getoption("--require").split(",") if name], "--require")


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = item.config.getoption("--require").split(",")
    for mark in item.iter_markers("needs"):
        for name in _known(list(mark.args), item.nodeid):
            reason = missing(name)
            if reason and name in required:
                pytest.fail(f"needs {name}, which --require says must be here: {reason}", pytrace=False)
            if reason:
                pytest.skip(f"needs {name}: {reason}")


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """Every trial begins with a garbage collection; what the test session itself holds need not be looked at again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def registry(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs that a test makes in this process are listed in a directory of its own, and end with it."""
    from harness.trials import ownership

    place = tmp_path_factory.getbasetemp() / "registry" / str(next(_NUMBERS))  # made when a test registers a run
    monkeypatch.setattr(ownership, "_ROOTS_REGISTRY", place)
    flags: dict[str, int] = {}
    monkeypatch.setattr(ownership, "_flags", flags)
    yield place
    for fd in flags.values():
        os.close(fd)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A privileged test leaves no mount, no cgroup named harness* and no QEMU behind, and takes none away.

    With HARNESS_TESTS_BESIDE other tests run beside this session, and what appears meanwhile may be theirs: who starts
    them looks before the first and after the last (`python -m tests.leftovers`).
    """
    if os.environ.get("HARNESS_TESTS_BESIDE") or not PRIVILEGED_TIERS & set(
        request.path.relative_to(request.config.rootpath).parts
    ):
        yield
        return
    before = leftovers.traces()
    yield
    deadline_s = time.monotonic() + LEFTOVER_GRACE_S
    while (left := leftovers.traces() - before) and time.monotonic() < deadline_s:
        time.sleep(0.05)  # the kernel removes cgroups and processes a moment after they were told to end
    assert not left, f"left behind: {', '.join(sorted(left))}"
    gone = {trace for trace in before - leftovers.traces() if trace.startswith("mount ")}
    assert not gone, f"taken away: {', '.join(sorted(gone))}"
