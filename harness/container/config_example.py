"""The document that `harness-oci spec` prints: a shell in a container with the defaults of this runtime."""

from __future__ import annotations

import os

from harness.container import defaults

VERSION = "1.2.0"
"""The version of the runtime specification whose fields are understood."""

_CAPABILITIES = [f"CAP_{name.upper()}" for name in defaults.DOCKER_CAPABILITIES]


def _mounts() -> list[dict[str, object]]:
    quiet = ["nosuid", "noexec", "nodev"]
    table: list[tuple[str, str, list[str]]] = [
        ("/proc", "proc", quiet),
        ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", [*quiet, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", quiet),
        ("/sys", "sysfs", [*quiet, "ro"]),
        ("/sys/fs/cgroup", "cgroup", [*quiet, "relatime", "ro"]),
    ]
    return [
        {"destination": path, "type": kind, "source": kind, "options": list(options)} for path, kind, options in table
    ]


def _for_one_user(document: dict[str, object], linux: dict[str, object]) -> None:
    """Change a document so that a user without privileges can run it.

    One id is mapped, so the group 5 of terminals does not exist; the network stays the host's, and so must /sys, since
    only the owner of a network namespace may mount a sysfs.
    """
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "user")]
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    del linux["resources"]
    mounts = []
    for mount in _mounts():
        options = mount["options"]
        if mount["destination"] == "/sys":
            mount |= {"type": "none", "source": "/sys", "options": ["rbind", "rnosuid", "rnoexec", "rnodev", "rro"]}
        elif isinstance(options, list) and "gid=5" in options:
            options.remove("gid=5")
        if mount["destination"] != "/sys/fs/cgroup":  # it comes with /sys
            mounts.append(mount)
    document["mounts"] = mounts


def example(*, rootless: bool = False) -> dict[str, object]:
    """Return the document, for root or for the user that asks."""
    linux: dict[str, object] = {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "maskedPaths": list(defaults.MASKED_PATHS),
        "readonlyPaths": list(defaults.READONLY_PATHS),
    }
    document: dict[str, object] = {
        "ociVersion": VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "container",
        "mounts": _mounts(),
        "linux": linux,
    }
    if rootless:
        _for_one_user(document, linux)
    return document
