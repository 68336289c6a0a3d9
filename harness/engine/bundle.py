"""From what a person asks and what an image says to the config.json of an OCI bundle. Pure but for looking users up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.container import defaults
from harness.container.config_example import VERSION
from harness.engine import profiles
from harness.engine.idmap import is_idmap, mappings
from harness.engine.request import Limits, MountWish, Request
from harness.errors import UsageError
from harness.images.oci import Image
from harness.images.users import User, resolve

Document = dict[str, Any]
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_QUIET = ["nosuid", "noexec", "nodev"]
_GROUP = "/harness-container-"  # without a parent of their own: the last one that ends would have to remove it
# What Docker sets where the network is the container's own: nothing of the host is in reach of a low port or a ping.
_NETWORK_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container will be: its id, its directory, its root tree, and where each volume of `mounts` is.

    `network` is the path of a namespace to join, empty for none.
    """

    id: str
    directory: Path
    tree: Path
    sources: Mapping[int, Path]
    network: str = ""


def arguments(request: Request, image: Image) -> tuple[str, ...]:
    """Return what is executed: the entrypoint, then the command (Docker's rules). Raises: UsageError for nothing."""
    if request.entrypoint is not None:
        args = (*request.entrypoint, *request.command)
    else:
        args = (*image.config.entrypoint, *(request.command or image.config.cmd))
    if not args:
        hint = f"harness container run {request.image} COMMAND..."
        raise UsageError(f"image: {request.image}: names no command to run, and none was given", hint=hint)
    return args


def wishes(request: Request, image: Image) -> tuple[MountWish, ...]:
    """Return all mounts: those asked for, and a volume for each VOLUME of the image that is none of them."""
    config = image.document.get("config") or {}
    declared = config.get("Volumes") or {}
    taken = {os.path.normpath(wish.target) for wish in request.mounts}
    extra = [MountWish("volume", "", os.path.normpath(path)) for path in sorted(map(str, declared))]
    return (*request.mounts, *(wish for wish in extra if wish.target not in taken and wish.target.startswith("/")))


def stop_signal(request: Request, image: Image) -> str:
    """Return the name or number of the signal that asks the container to end."""
    config = image.document.get("config") or {}
    return request.stop_signal or str(config.get("StopSignal") or "SIGTERM")


def environment(base: Mapping[str, str], words: Sequence[str], user: User, *, tty: bool) -> list[str]:
    """Return the environment: PATH, HOME and TERM unless said, the image's, then `-e` (NAME alone: the caller's)."""
    env = dict([PATH.split("=", 1)])
    if tty:
        env["TERM"] = "xterm"
    env |= {"HOME": user.home, **base}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
        else:
            env.pop(name, None)
    return [f"{name}={value}" for name, value in env.items()]


def document(request: Request, image: Image, place: Place) -> Document:
    """Return the config.json. Raises: UsageError for a user, a path or a profile that is not there."""
    linux: Document = {
        "namespaces": _namespaces(request, place),
        "resources": _resources(request.limits),
        "cgroupsPath": f"{_GROUP}{place.id}",
        "maskedPaths": list(defaults.MASKED_PATHS) if request.security.confined_paths else [],
        "readonlyPaths": list(defaults.READONLY_PATHS) if request.security.confined_paths else [],
        "sysctl": {**(_NETWORK_SYSCTLS if request.network == "none" else {}), **request.sysctls},
    }
    profile = profiles.document(request.security.seccomp, request.capabilities)
    if profile is not None:
        linux["seccomp"] = profile
    return {
        "ociVersion": VERSION,
        "process": _process(request, image, place),
        "root": {"path": "rootfs", "readonly": request.read_only},  # layers over the image's tree: see Overlay
        "hostname": request.hostname or place.id,
        "mounts": [*_kernel_mounts(request.limits), *_files(request, place), *_wished(request, image, place)],
        "annotations": dict(request.labels),
        "linux": linux,
    }


def _process(request: Request, image: Image, place: Place) -> Document:
    user = resolve(place.tree, request.user or image.config.user, request.groups)
    names = [f"CAP_{name.upper()}" for name in request.capabilities]
    base = {"HOSTNAME": request.hostname or place.id, **image.config.env}
    process: Document = {
        "terminal": request.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(arguments(request, image)),
        "env": environment(base, request.env, user, tty=request.tty),
        "cwd": request.workdir or image.config.workdir or "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
        "noNewPrivileges": request.security.no_new_privs,
        "rlimits": [{"type": name, "soft": soft, "hard": hard} for name, soft, hard in request.ulimits],
    }
    if request.security.apparmor:
        process["apparmorProfile"] = request.security.apparmor
    if request.limits.oom_score_adj is not None:
        process["oomScoreAdj"] = request.limits.oom_score_adj
    return process


def _namespaces(request: Request, place: Place) -> list[Document]:
    spaces: list[Document] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    if request.network == "none":
        spaces.append({"type": "network"})
    elif place.network:
        spaces.append({"type": "network", "path": place.network})
    return spaces


def _said(**values: int | str | None) -> Document:
    return {key: value for key, value in values.items() if value not in {None, ""}}


def _resources(limits: Limits) -> Document:
    """Return `linux.resources`. Memory without a word about swap gets none: what a limit says, it means."""
    swap = limits.memory_bytes if limits.swap_bytes is None else limits.swap_bytes
    memory = _said(limit=limits.memory_bytes, swap=swap, reservation=limits.reservation_bytes)
    cpu = _said(quota=limits.quota_us, shares=limits.shares, cpus=limits.cpus, mems=limits.mems)
    if limits.quota_us is not None:
        cpu["period"] = limits.period_us
    made: Document = {"devices": [{"allow": False, "access": "rwm"}]}
    made |= {key: value for key, value in (("memory", memory), ("cpu", cpu)) if value}
    if limits.pids is not None:
        made["pids"] = {"limit": limits.pids}
    return made


def _mount(target: str, kind: str, source: str, options: list[str]) -> Document:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _kernel_mounts(limits: Limits) -> list[Document]:
    return [
        _mount("/proc", "proc", "proc", _QUIET),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts",
               ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _mount("/dev/shm", "tmpfs", "shm", [*_QUIET, "mode=1777", f"size={limits.shm_bytes}"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", _QUIET),
        _mount("/sys", "sysfs", "sysfs", [*_QUIET, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_QUIET, "relatime", "ro"]),
    ]  # fmt: skip


FILES = ("hostname", "hosts", "resolv.conf")


def file_contents(request: Request, container_id: str) -> dict[str, str]:
    """Return what /etc/hostname, /etc/hosts and /etc/resolv.conf hold, as far as a container has its own."""
    name = request.hostname or container_id
    own = "127.0.1.1" if request.network == "none" else ""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", *([f"{own}\t{name}"] if own else [])]
    for word in request.hosts:
        host, colon, address = word.partition(":")
        if not host or not colon or not address:
            raise UsageError(f"--add-host: {word}: expected NAME:ADDRESS")
        lines.append(f"{address.strip('[]')}\t{host}")
    contents = {"hostname": f"{name}\n", "hosts": "\n".join(lines) + "\n"}
    if request.network == "host":
        try:
            contents["resolv.conf"] = Path("/etc/resolv.conf").read_text()
        except OSError:
            contents["resolv.conf"] = ""
    return contents


def _files(request: Request, place: Place) -> list[Document]:
    taken = {wish.target for wish in request.mounts}
    return [
        _mount(f"/etc/{name}", "bind", str(place.directory / name), ["bind", "rprivate"])
        for name in file_contents(request, place.id)
        if f"/etc/{name}" not in taken
    ]


def _wished(request: Request, image: Image, place: Place) -> list[Document]:
    """Return the mounts that were asked for, outer ones first: a later one inside would be hidden otherwise."""
    mounts = []
    for number, wish in enumerate(wishes(request, image)):
        if wish.kind == "tmpfs":
            mounts.append(_mount(wish.target, "tmpfs", "tmpfs", [*_QUIET, *wish.options]))
            continue
        mounts.append(_bind(wish, str(place.sources[number])))
    return sorted(mounts, key=lambda mount: str(mount["destination"]).count("/"))


def _bind(wish: MountWish, source: str) -> Document:
    maps = [word for word in wish.options if is_idmap(word)]
    words = ["rro" if word == "ro" else word for word in wish.options if word not in {"rw", "nocopy", *maps}]
    spread = [] if any(word in _PROPAGATIONS for word in words) else ["rprivate"]
    depth = "bind" if "bind" in words else "rbind"
    mount = _mount(wish.target, "bind", source, [depth, *spread, *(word for word in words if word not in _DEPTHS)])
    return {**mount, **mappings(maps[-1])} if maps else mount


_DEPTHS = ("bind", "rbind")
_PROPAGATIONS = {
    f"{recursive}{word}" for recursive in ("", "r") for word in ("private", "shared", "slave", "unbindable")
}
