"""An OCI runtime by its command line: `RUNTIME run --bundle DIR NAME`, over a root that we mount as an engine would.

The bundle says what the built-in container's plan says: the same namespaces, mounts, capabilities, masks and seccomp
rules. On a hybrid host cgroup2 is hidden from the runtime, since crun refuses it there; all its groups are v1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.backends import _peer
from harness.backends._command import Command, Running
from harness.backends._door import ARGV, INSIDE
from harness.container import defaults, seccomp_default
from harness.errors import CapabilityError, CommandError
from harness.host.process import find_program, run
from harness.interfaces import Arm, ArmSpec, Capability, Json, RunContext
from harness.model.spec import Limits, MountSpec

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_PERIOD_US = 100_000
_QUIET = ["nosuid", "noexec", "nodev"]
_FORCE_NS = 20_000_000_000


class Options(BaseModel):
    """`path` is the runtime's program, by default the one in PATH; `args` come before `run`: its global options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = ""
    args: tuple[str, ...] = ()


# -- the bundle ------------------------------------------------------------------------------------------------------


def seccomp_document(machine: str) -> dict[str, Any]:
    """Return the rules of the built-in default profile as `linux.seccomp` of config.json, for `os.uname().machine`."""
    profile = seccomp_default.default_profile(defaults.DOCKER_CAPABILITIES)
    return {
        "defaultAction": profile.default_action,
        "defaultErrnoRet": profile.default_errno,
        "architectures": [_ARCHITECTURES[machine], *profile.architectures],
        "syscalls": [
            {
                "names": list(rule.names),
                "action": rule.action,
                **({} if rule.errno is None else {"errnoRet": rule.errno}),
                "args": [
                    {"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op}
                    for arg in rule.args
                ],
            }
            for rule in profile.rules
        ],
    }


def resources(limits: Limits) -> dict[str, Any]:
    """Return `linux.resources`: memory without swap, CPU time, processes."""
    memory = limits.memory_bytes
    return {
        "memory": {"limit": memory, "swap": memory},
        "cpu": {"quota": round(limits.cpus * _PERIOD_US), "period": _PERIOD_US},
        "pids": {"limit": limits.pids},
    }


def bundle_mounts(mounts: Sequence[MountSpec], volumes: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return a scenario's mounts as config.json has them."""
    return [_scenario_mount(mount, volumes) for mount in mounts]


def _scenario_mount(mount: MountSpec, volumes: Mapping[str, Path]) -> dict[str, Any]:
    mode = ["ro"] if mount.read_only else ["rw"]
    if mount.kind == "tmpfs":
        return _mount(mount.target, "tmpfs", ["nosuid", "nodev", "mode=1777", f"size={mount.size_bytes}", *mode])
    source = str(volumes[mount.source]) if mount.kind == "volume" else mount.source
    return {
        "destination": mount.target, "type": "none", "source": source, "options": ["rbind", "rprivate", *mode],
    }  # fmt: skip


def _mount(destination: str, fs_type: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": fs_type, "source": fs_type, "options": options}


def base_mounts() -> list[dict[str, Any]]:
    """Return what the built-in container mounts (`defaults.mounts`)."""
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    return [
        _mount("/proc", "proc", _QUIET),
        _mount("/dev", "tmpfs", ["nosuid", "mode=755", "size=64k"]),
        _mount("/dev/pts", "devpts", pts),
        _mount("/dev/shm", "tmpfs", [*_QUIET, "mode=1777", "size=65536k"]),
        _mount("/dev/mqueue", "mqueue", _QUIET),
        _mount("/sys", "sysfs", [*_QUIET, "ro"]),
    ]


def namespaces(network: str, path: str | None) -> list[dict[str, str]]:
    """Return `linux.namespaces`; `network` is a NetworkKind, `path` the namespace of a bridge."""
    others = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    if network == "host":
        return others
    return [*others, {"type": "network", "path": path} if path else {"type": "network"}]


def process_document(argv: Sequence[str]) -> dict[str, Any]:
    """Return `process`: root with Docker's capabilities, as the built-in container."""
    names = [f"CAP_{name.upper()}" for name in defaults.DOCKER_CAPABILITIES]
    capabilities = {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []}
    return {
        "terminal": False, "user": {"uid": 0, "gid": 0}, "args": list(argv), "env": ["PATH=/bin"], "cwd": "/",
        "capabilities": capabilities, "noNewPrivileges": True,
    }  # fmt: skip


def config(argv: Sequence[str], limits: Limits, cgroup: str, seccomp: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json (runtime-spec 1.0) of a container without scenario mounts, in a network of its own."""
    return {
        "ociVersion": "1.0.0",
        "process": process_document(argv),
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "harness",
        "mounts": base_mounts(),
        "linux": {
            "cgroupsPath": cgroup,
            "resources": resources(limits),
            "namespaces": namespaces("none", None),
            "maskedPaths": list(defaults.MASKED_PATHS),
            "readonlyPaths": list(defaults.READONLY_PATHS),
            "seccomp": dict(seccomp),
        },
    }


# -- the runtime -----------------------------------------------------------------------------------------------------


class _Recipe:
    """One OCI runtime: a bundle for each start."""

    def __init__(self, ground: _peer.Ground, program: str, options: Options) -> None:
        self._ground = ground
        self._argv = [program, *options.args]
        self._state = ground.context.scratch / f"state.{ground.spec.runtime}"
        self._seccomp = seccomp_document(os.uname().machine)
        self.tree = ground.spec.tree.path
        self.facts: Mapping[str, Json] = {
            "program": _peer.program_facts(program),
            "args": list(options.args),
            "cgroup2": "hidden from the runtime: this host is hybrid" if _hidden(ground) else "as on the host",
            "command": [*self._argv, "--root", "STATE", "run", "--bundle", "BUNDLE", "NAME"],
            "storage": {"driver": "overlay", "upper": "tmpfs"},
        }

    def _command(self, *words: str) -> list[str]:
        return [*self._argv, "--root", str(self._state), *words]

    def ready(self, start: _peer.Start) -> None:
        spec = self._ground.spec
        document = config(ARGV, spec.limits, f"{self._ground.parent}/{start.scratch.name}", self._seccomp)
        document["root"]["path"] = str(start.root)
        document["hostname"] = spec.runtime
        door = {"destination": INSIDE, "type": "none", "source": str(start.door), "options": ["bind", "ro", "nosuid"]}
        document["mounts"] += [door, *bundle_mounts(spec.mounts, start.volumes)]
        document["linux"]["namespaces"] = namespaces(self._ground.network, start.network)
        (start.scratch / "config.json").write_text(json.dumps(document))

    def start(self, start: _peer.Start) -> Running:
        argv = self._command("run", "--bundle", str(start.scratch), start.name)
        return Command(argv, start.scratch / "log")

    def remove(self, start: _peer.Start) -> None:
        try:
            run(self._command("delete", "--force", start.name), timeout_ns=_FORCE_NS)
        except CommandError:  # it has removed it itself
            return

    def address(self, start: _peer.Start) -> str | None:
        return None

    def close(self) -> None:
        return


def _hidden(ground: _peer.Ground) -> bool:
    return ground.kit.layout.mode == "hybrid"


class OciBackend:
    """A backend for one runtime; without `program` the option `path` must name one."""

    options: type[BaseModel] = Options

    def __init__(self, name: str, doc: str, program: str | None) -> None:
        self.name = name
        self.doc = doc
        self._program = program

    def _path(self, options: BaseModel) -> str:
        assert isinstance(options, Options)
        return options.path or self._program or ""

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        path = self._path(options)
        if path:
            return _peer.needs(path)
        why = Capability("path", available=False, reason="no runtime named", hint="say which: path: /usr/bin/youki")
        return (*_peer.needs(), why)

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        return _peer.mount_needs(mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        path = self._path(options)
        if not path:
            raise CapabilityError(f"{spec.runtime}: path: missing", hint="say which: path: /usr/bin/youki")
        program = str(find_program(path))
        return _peer.prepare(
            spec,
            context,
            lambda ground: _Recipe(ground, program, options),
            wants=_peer.Wants(root=True),
            without_unified=True,
        )

    def tokens(self) -> set[str]:
        return _peer.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        return _peer.reap(token, dry_run=dry_run)
