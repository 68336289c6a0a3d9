"""Start the agent through an OCI runtime (crun, runc), from a bundle that equals the built-in container's plan."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.agent.program import PATH as AGENT_PATH
from harness.agent.program import encode_spec, sealed_memfd
from harness.agent.session import AgentSession
from harness.container import cgroups, defaults, syscalls
from harness.interfaces import ArmSpec
from harness.model.milestones import DELETED, REQUESTED, Mark

STOP_NS = 10 * 10**9
_FLAGS = ["nosuid", "noexec", "nodev"]


def config(spec: ArmSpec, cgroup: str) -> dict[str, Any]:
    """Return a config.json (runtime-spec 1.0) with the namespaces, mounts, limits and capabilities of the plan."""
    names = [f"CAP_{name.upper()}" for name in defaults.DOCKER_CAPABILITIES]
    capabilities = {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []}
    limits = spec.limits
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False, "user": {"uid": 0, "gid": 0}, "args": ["/harness-agent"], "env": [], "cwd": "/",
            "capabilities": capabilities, "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": spec.runtime,
        "mounts": [
            {"destination": "/harness-agent", "type": "bind", "source": str(AGENT_PATH), "options": ["bind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
            _mount("/dev", "tmpfs", ["nosuid", "mode=755", "size=65536k"]),
            _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            _mount("/dev/shm", "tmpfs", [*_FLAGS, "mode=1777", "size=65536k"]),
            _mount("/dev/mqueue", "mqueue", _FLAGS),
            _mount("/sys", "sysfs", [*_FLAGS, "ro"]),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {
                "memory": {"limit": limits.memory_bytes, "swap": limits.memory_bytes},
                "cpu": {"quota": round(limits.cpus * 100_000), "period": 100_000},
                "pids": {"limit": limits.pids},
            },
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(defaults.MASKED_PATHS),
            "readonlyPaths": list(defaults.READONLY_PATHS),
        },
    }  # fmt: skip


def _mount(destination: str, fs_type: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": fs_type, "source": fs_type, "options": options}


class OciArm:
    """One runtime. It works in a thread with a mount namespace of its own, in which a hybrid host looks like v1."""

    def __init__(self, program: str, spec: ArmSpec, directory: Path, token: str) -> None:
        self._program = shutil.which(program) or program
        self._spec = spec
        self._directory = directory
        self._token = token
        self._workload = encode_spec(spec.workload)
        directory.mkdir()
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)

    def _enter(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        layout = cgroups.detect()
        if layout.mode == "hybrid" and layout.unified:  # crun 1.8 refuses it
            syscalls.umount2(layout.unified.path, syscalls.MNT_DETACH)
        size = self._spec.limits.memory_bytes // 2
        syscalls.mount("tmpfs", str(self._directory), "tmpfs", 0, f"mode=0700,size={size}")

    def trial(self, trial_id: str) -> Mapping[str, int]:
        """Return one start's milestones in ns since the request."""
        return self._thread.submit(self._trial, trial_id).result()

    def _trial(self, trial_id: str) -> Mapping[str, int]:
        bundle = self._directory / trial_id
        bundle.mkdir()
        document = config(self._spec, f"/harness-{self._token}/{self._spec.runtime}-{trial_id}")
        (bundle / "config.json").write_text(json.dumps(document))
        session = AgentSession()
        session.marks.append(Mark(REQUESTED, time.monotonic_ns()))
        self._mount_root(bundle)
        pid = self._spawn(bundle, trial_id, session)
        try:
            session.wait("exited", time.monotonic_ns() + STOP_NS)
            session.finish(time.monotonic_ns() + STOP_NS)
        finally:
            _, status = os.waitpid(pid, 0)
            syscalls.umount2(str(bundle / "rootfs"), 0)
            session.mark(DELETED)
            session.close()
        assert os.waitstatus_to_exitcode(status) == 0, bytes(session.stderr)
        shutil.rmtree(bundle)
        return {mark.milestone: mark.at_ns - session.marks[0].at_ns for mark in session.marks}

    def _mount_root(self, bundle: Path) -> None:
        """What an engine does before it calls the runtime, so it is timed."""
        for name in ("upper", "work", "rootfs"):
            (bundle / name).mkdir(mode=0o755)
        options = f"lowerdir={self._spec.tree.path},upperdir={bundle}/upper,workdir={bundle}/work"
        options += ",index=off,metacopy=off,redirect_dir=off,xino=off"
        syscalls.mount("overlay", str(bundle / "rootfs"), "overlay", 0, options)

    def _spawn(self, bundle: Path, trial_id: str, session: AgentSession) -> int:
        ours, control = socket.socketpair()
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        for add, (reader, _) in zip((session.add_stdout, session.add_stderr, session.add_marks), pipes, strict=True):
            add(reader)
        session.add_control(ours)
        spec, tree = sealed_memfd("spec", self._workload), os.open(self._spec.tree.path, os.O_RDONLY | os.O_CLOEXEC)
        session.start()
        theirs = [pipes[0][1], pipes[1][1], spec, pipes[2][1], control.fileno(), tree]
        base = max(theirs) + 1
        actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, fd, base + i) for i, fd in enumerate(theirs)]
        actions += [(os.POSIX_SPAWN_DUP2, base + i, 1 + i) for i in range(len(theirs))]
        actions += [(os.POSIX_SPAWN_CLOSE, base + i) for i in range(len(theirs))]
        argv = ["oci", "--root", str(self._directory / "state"), "run", "--preserve-fds", "4", "--bundle", str(bundle)]
        name = f"harness-{self._token}-{trial_id}"
        pid = os.posix_spawn(self._program, [*argv, name], {"PATH": "/usr/bin:/usr/sbin"}, file_actions=actions)
        for fd in (*theirs[:4], tree):
            os.close(fd)
        control.close()
        return pid

    def close(self) -> None:
        self._thread.shutdown()
        self._directory.rmdir()


def regular(path: str) -> bool:
    """Return whether a program is there."""
    found = shutil.which(path)
    return found is not None and stat.S_ISREG(Path(found).stat().st_mode)
