"""Seccomp profiles as `linux.seccomp` of a config.json: the default one, none, or one of a file in Docker's form."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from harness.container import seccomp_default
from harness.container.seccomp import Profile
from harness.errors import UsageError

Document = dict[str, Any]
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def document(choice: str, capabilities: Collection[str]) -> Document | None:
    """Return the profile that `--security-opt seccomp=CHOICE` means; None for `unconfined`. Raises: UsageError."""
    if choice == "unconfined":
        return None
    if choice == "default":
        return _written(seccomp_default.default_profile(capabilities))
    return _of_file(choice, capabilities)


def _written(profile: Profile) -> Document:
    rules = []
    for rule in profile.rules:
        args = [{"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op} for arg in rule.args]
        entry: Document = {"names": list(rule.names), "action": rule.action, "args": args}
        rules.append(entry if rule.errno is None else {**entry, "errnoRet": rule.errno})
    made: Document = {"defaultAction": profile.default_action, "syscalls": rules}
    if profile.default_errno is not None:
        made["defaultErrnoRet"] = profile.default_errno
    return {**made, "architectures": list(profile.architectures), "flags": list(profile.flags)}


def _of_file(path: str, capabilities: Collection[str]) -> Document:
    try:
        profile = json.loads(Path(path).read_text())
    except OSError as error:
        hint = "unconfined, or the path of a profile as Docker has them"
        raise UsageError(f"--security-opt: seccomp={path}: {error.strerror}", hint=hint) from error
    except ValueError as error:
        raise UsageError(f"--security-opt: seccomp={path}: no JSON: {error}") from error
    if not isinstance(profile, dict) or not isinstance(profile.get("syscalls", []), list):
        raise UsageError(f"--security-opt: seccomp={path}: expected an object with a list of syscalls")
    rules = [_rule(entry) for entry in profile.get("syscalls", []) if _holds(entry, capabilities)]
    plain = {key: value for key, value in profile.items() if key not in {"archMap", "syscalls"}}
    return {**plain, "architectures": _architectures(profile), "syscalls": rules}


def _rule(entry: Document) -> Document:
    names = entry.get("names") or [entry.get("name", "")]
    kept = {key: value for key, value in entry.items() if key in {"action", "errnoRet"}}
    return {**kept, "names": names, "args": entry.get("args") or []}


def _architectures(profile: Document) -> list[str]:
    native = _NATIVE.get(os.uname().machine)
    for entry in profile.get("archMap") or []:
        if entry.get("architecture") == native:
            return [native, *(entry.get("subArchitectures") or [])]
    return list(profile.get("architectures") or [])


def _holds(entry: object, capabilities: Collection[str]) -> bool:
    """Return whether a rule is for this host and a container with these capabilities (moby/profiles, seccomp.go)."""
    if not isinstance(entry, dict):
        raise UsageError(f"--security-opt: seccomp: {entry!r}: a rule is an object")
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    own, arch = {f"CAP_{name.upper()}" for name in capabilities}, _GOARCH.get(os.uname().machine, "")
    return (
        own.issuperset(includes.get("caps") or ())
        and own.isdisjoint(excludes.get("caps") or ())
        and arch in (includes.get("arches") or (arch,))
        and arch not in (excludes.get("arches") or ())
        and _kernel_is(includes)
        and not (excludes.get("minKernel") and _kernel_is(excludes))
    )


def _kernel_is(condition: Mapping[str, Any]) -> bool:
    wanted = condition.get("minKernel")
    return not wanted or _version(os.uname().release) >= _version(str(wanted))


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else (0, 0)
