"""A guest with a distribution's kernel, in which storage drivers are measured that this host's kernel has not.

One for all arms of a run, so that what is compared ran side by side on one kernel and one disk. Everything in it is the
distribution's own: Python, dmsetup and the rest as packages, the drivers as this package's very code.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from harness.backends import libvirt
from harness.errors import AgentError, CapabilityError, TrialError
from harness.images import debs, initramfs, kernel, kmodules
from harness.images.tree import root_digest, tree_size_bytes
from harness.interfaces import ArmSpec, Capability, ExecResult, Json, RunContext
from harness.model.milestones import READY
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec

PACKAGES = (
    "dmsetup", "thin-provisioning-tools", "e2fsprogs", "btrfs-progs", "erofs-utils", "fuse-overlayfs", "coreutils",
)  # fmt: skip
MODULES = ("overlay", "fuse", "loop", "dm-thin-pool", "ext4", "btrfs", "erofs")
LIMITS = Limits(cpus=2, memory_bytes=3 << 30, pids=4000)
PYTHON = "/usr/bin/python3"
_SERVER = ("-m", "harness.studies._storage_server")
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "/opt", "LC_ALL": "C"}
_BOOT_NS, _STOP_NS = 300 * 10**9, 30 * 10**9


def needs() -> Sequence[Capability]:
    """Return what a guest needs, as the backend says it, and apt."""
    return libvirt.PLUGIN.needs(libvirt.PLUGIN.options())


class Guest:
    """A booted guest whose server answers. `files` go below /opt too, by their place there. Raises: HarnessError."""

    def __init__(self, context: RunContext, files: Mapping[str, Path] | None = None) -> None:
        self._undo = ExitStack()
        with ExitStack() as undo:
            undo.callback(self._undo.close)
            place = context.work / "storage-guest"
            place.mkdir(parents=True)
            self._undo.callback(shutil.rmtree, place)
            tree = _make_tree(place / "root", context.cache, files or {})
            workload = WorkloadSpec((PYTHON, *_SERVER, "serve"), _ENV, ready=Ready("line", text="ready"))
            options = libvirt.PLUGIN.options.model_validate({})
            arm = libvirt.PLUGIN.prepare(ArmSpec("storage-guest", tree, workload, LIMITS), options, context)
            self._undo.callback(arm.close)
            self._instance = arm.launch("storage-guest")
            self._undo.callback(self._stop)
            self._instance.wait(READY, time.monotonic_ns() + _BOOT_NS)
            undo.pop_all()
        self.accelerator = arm.accelerator

    def run(self, argv: Sequence[str], timeout_ns: int) -> ExecResult:
        """Run a program in the guest. Raises: TrialError."""
        return self._instance.exec(["/bin/busybox", "env", *(f"{k}={v}" for k, v in _ENV.items()), *argv], timeout_ns)

    def ask(self, timeout_ns: int, **request: Json) -> Json:
        """Return the server's answer. Raises: TrialError with what it said went wrong."""
        done = self.run([PYTHON, *_SERVER, "ask", json.dumps(request)], timeout_ns)
        if done.returncode:
            raise TrialError(f"storage guest: {done.stderr.decode(errors='replace').strip()[-500:]}")
        told = json.loads(done.stdout)
        if "error" in told:
            raise TrialError(f"storage guest: {told['error']}", hint=told["hint"])
        answer: Json = told["ok"]
        return answer

    def _stop(self) -> None:
        with suppress(AgentError):  # after an interrupted request it cannot be asked, and is destroyed
            self._instance.stop(time.monotonic_ns() + _STOP_NS)

    def close(self) -> None:
        self._undo.close()


def _make_tree(root: Path, cache: Path, files: Mapping[str, Path]) -> RootTree:
    shutil.copytree(debs.base_tree(cache, PACKAGES), root, symlinks=True)
    found = kernel.find(cache)
    if found is None:
        raise CapabilityError("guest kernel: not fetched", hint="python -m harness.images.kernel fetch")
    debs.add_applets(root)
    modules = kernel.module_files(found, MODULES)
    for name, file in zip(initramfs.module_paths(modules), modules, strict=True):
        target = root / "opt" / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(kmodules.module_bytes(file))
    for place, source in files.items():
        target = root / "opt" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    debs.add_harness(root)
    return RootTree(root, root_digest(root), tree_size_bytes(root))
