"""What this runtime can do: the document of the runtime specification (features.md), and what the kernel here has."""

from __future__ import annotations

import os

from harness.container import syscalls
from harness.container.defaults import CAPABILITIES
from harness.container.errors import ContainerError
from harness.container.options import WORDS
from harness.container.spec import CLONE_FLAGS
from harness.container.version import VERSION

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def document() -> dict[str, object]:
    """Return the features document. What the host lacks is false, whatever the runtime could do elsewhere."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": list(HOOKS),
        "mountOptions": sorted(WORDS),
        "linux": {
            "namespaces": sorted(CLONE_FLAGS),
            "capabilities": [f"CAP_{name.upper()}" for name in CAPABILITIES],
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": _seccomp(),
            "apparmor": {"enabled": has_apparmor()},
            "selinux": {"enabled": has_selinux()},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": "mount_setattr" not in syscalls.missing_features()}},
        },
        "annotations": {"org.harness.version": VERSION},
        "potentiallyUnsafeConfigAnnotations": [],
    }


def _seccomp() -> dict[str, object]:
    from harness.container import libseccomp, seccomp

    try:
        _, version = libseccomp.find()
    except ContainerError:
        return {"enabled": False}
    return {
        "enabled": True,
        "actions": sorted(seccomp.ACTIONS),
        "operators": sorted(seccomp.OPERATORS),
        "archs": sorted(seccomp.ARCHITECTURES),
        "knownFlags": sorted(seccomp.FLAGS),
        "supportedFlags": sorted(seccomp.FLAGS),
        "libseccomp": version,
    }


def has_apparmor() -> bool:
    """Return whether AppArmor decides on this host."""
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as file:
            enabled = file.read(1) == "Y"
    except OSError:
        return False
    return enabled and os.path.exists("/sys/kernel/security/apparmor")


def has_selinux() -> bool:
    """Return whether SELinux decides on this host."""
    return os.path.exists("/sys/fs/selinux/enforce")
