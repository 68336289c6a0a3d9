"""What a person asks of a container, as frozen data, and the words of the command line that say it (Docker's)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.container import options as mount_words
from harness.container.defaults import CAPABILITIES, DOCKER_CAPABILITIES
from harness.engine.idmap import is_idmap, mappings
from harness.errors import UsageError
from harness.model.document import did_you_mean
from harness.model.units import parse_size_bytes

NETWORKS = ("none", "host", "container:NAME")
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_RESOURCES = (
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split()
)
_UNLIMITED = 2**64 - 1  # RLIM_INFINITY
_PERIOD_US = 100_000  # the kernel's own default (kernel/sched/fair.c, default_cfs_period)


@dataclass(frozen=True, slots=True)
class MountWish:
    """One `-v` or `--tmpfs`. `source` is a path, a volume's name, or empty: a volume without a name."""

    kind: Literal["bind", "volume", "tmpfs"]
    source: str
    target: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Security:
    """What `--security-opt` says. `seccomp` is `default`, `unconfined` or a profile's path."""

    no_new_privs: bool = False
    seccomp: str = "default"
    apparmor: str = ""
    confined_paths: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use; None is "not said". `swap_bytes` is memory and swap together, -1 unlimited."""

    memory_bytes: int | None = None
    swap_bytes: int | None = None
    reservation_bytes: int | None = None
    quota_us: int | None = None
    period_us: int = _PERIOD_US
    shares: int | None = None
    cpus: str = ""
    mems: str = ""
    pids: int | None = None
    oom_score_adj: int | None = None
    shm_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """A container that is asked for. What is empty is the image's, or the default; `entrypoint` None is the image's."""

    image: str
    command: tuple[str, ...] = ()
    name: str = ""
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    hostname: str = ""
    hosts: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    interactive: bool = False
    tty: bool = False
    remove: bool = False
    detach: bool = False
    network: str = "none"
    mounts: tuple[MountWish, ...] = ()
    read_only: bool = False
    capabilities: tuple[str, ...] = DOCKER_CAPABILITIES
    security: Security = Security()
    limits: Limits = Limits()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    stop_timeout_s: int = 10


# -- volumes and mounts ----------------------------------------------------------------------------------------------


def _absolute(path: str, what: str, text: str) -> str:
    clean = os.path.normpath(path)
    if not path.startswith("/") or ".." in path.split("/"):
        raise UsageError(f"{what}: {text}: {path!r} is no absolute path in the container", hint="for instance: /data")
    if clean.strip("/") == "":
        raise UsageError(f"{what}: {text}: the container's root cannot be mounted over")
    return "/" + clean.lstrip("/")


def parse_volume(text: str) -> MountWish:
    """Return a `-v`: PATH_OR_NAME:/inside[:OPTIONS], or /inside alone. Raises: UsageError."""
    source, colon, rest = text.partition(":")
    if not colon:
        return MountWish("volume", "", _absolute(text, "-v", text))
    target, _, words = rest.partition(":")
    options = tuple(word for word in words.split(",") if word)
    known = {"ro", "rw", "nosuid", "nodev", "noexec", "z", "Z", "nocopy", "bind", "rbind", *mount_words.PROPAGATION}
    for word in options:
        if is_idmap(word):
            mappings(word)
        elif word not in known:
            near = did_you_mean(word, known)
            raise UsageError(f"-v: {text}: {word!r} is unknown{near}", hint="for instance: -v /srv/data:/data:ro")
        if word in {"z", "Z"}:
            raise UsageError(f"-v: {text}: {word!r}: labels of SELinux are not set", hint="leave it out")
    where = _absolute(target, "-v", text)
    if source.startswith(("/", "./", "../")) or source in {".", ".."}:
        return MountWish("bind", str(Path(source).absolute()), where, options)
    if not _VOLUME_NAME.fullmatch(source):
        hint = "a path of the host begins with / or ./; a volume's name has letters, digits and _ . -"
        raise UsageError(f"-v: {text}: {source!r} is neither a path nor a volume's name", hint=hint)
    return MountWish("volume", source, where, options)


def parse_tmpfs(text: str) -> MountWish:
    """Return a `--tmpfs`: /inside[:OPTIONS]. Raises: UsageError."""
    target, _, words = text.partition(":")
    options = tuple(word for word in words.split(",") if word)
    return MountWish("tmpfs", "tmpfs", _absolute(target, "--tmpfs", text), options)


_MOUNT_KEYS = {"type": "type", "source": "source", "src": "source", "target": "target", "dst": "target",
               "destination": "target", "readonly": "readonly", "ro": "readonly", "tmpfs-size": "size",
               "tmpfs-mode": "mode", "bind-propagation": "propagation", "volume-nocopy": "nocopy",
               "idmap": "idmap"}  # fmt: skip


_OF_KIND = {"size": "tmpfs", "mode": "tmpfs", "propagation": "bind", "idmap": "bind", "nocopy": "volume"}


def _check_long(said: Mapping[str, str], kind: str, text: str) -> None:
    """Refuse what would have no effect."""
    for key, owner in _OF_KIND.items():
        if key in said and kind != owner:
            raise UsageError(f"--mount: {text}: {key} is for type={owner}, not for {kind}")
    if "propagation" in said and said["propagation"] not in mount_words.PROPAGATION:
        near = did_you_mean(said["propagation"], mount_words.PROPAGATION)
        raise UsageError(f"--mount: {text}: propagation {said['propagation']!r} is unknown{near}")
    if "idmap" in said:
        mappings(f"idmap={said['idmap']}")


def parse_mount(text: str) -> MountWish:
    """Return a `--mount`: type=bind|volume|tmpfs,src=...,dst=...[,ro]. Raises: UsageError."""
    said: dict[str, str] = {}
    for word in text.split(","):
        key, equals, value = word.partition("=")
        if key not in _MOUNT_KEYS:
            raise UsageError(f"--mount: {text}: {key!r} is unknown{did_you_mean(key, _MOUNT_KEYS)}")
        said[_MOUNT_KEYS[key]] = value if equals else "true"
    kind, target = said.get("type", "volume"), _absolute(said.get("target", ""), "--mount", text)
    options = ["ro"] if said.get("readonly") in {"true", "1"} else []
    options += [said["propagation"]] if "propagation" in said else []
    options += ["nocopy"] if said.get("nocopy") in {"true", "1"} else []
    options += [f"idmap={said['idmap']}"] if "idmap" in said else []
    _check_long(said, kind, text)
    if kind == "tmpfs":
        options += [f"{key}={said[key]}" for key in ("size", "mode") if key in said]
        return MountWish("tmpfs", "tmpfs", target, tuple(options))
    source = said.get("source", "")
    if kind == "bind" and source.startswith("/"):
        return MountWish("bind", source, target, tuple(options))
    if kind == "volume" and (not source or _VOLUME_NAME.fullmatch(source)):
        return MountWish("volume", source, target, tuple(options))
    hint = "--mount type=bind,src=/srv/data,dst=/data,ro or --mount type=volume,src=NAME,dst=/data"
    raise UsageError(f"--mount: {text}: {kind} with source {source!r}", hint=hint)


# -- limits ----------------------------------------------------------------------------------------------------------


def parse_size(option: str, text: str | None, *, unlimited: bool = False) -> int | None:
    """Return bytes; Docker's `256m` is 256 MiB. Raises: UsageError."""
    if text is None:
        return None
    if unlimited and text == "-1":
        return -1
    try:
        return parse_size_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: {text}: {error}") from None


def parse_quota_us(text: str | None) -> int | None:
    """Return the CPU time in a period, in µs, from a number of CPUs such as `1.5`. Raises: UsageError."""
    if text is None:
        return None
    try:
        cpus = float(text)
    except ValueError:
        cpus = 0
    if not 0.01 <= cpus <= 8192:
        raise UsageError(f"--cpus: {text}: expected a number of CPUs from 0.01 on, such as 1.5")
    return round(cpus * _PERIOD_US)


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """Return `nofile=1024[:2048]` as its name in config.json, the soft and the hard limit. Raises: UsageError."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    if name.upper() not in _RESOURCES:
        names = [resource.lower() for resource in _RESOURCES]
        raise UsageError(f"--ulimit: {text}: {name!r} is unknown{did_you_mean(name, names)}", hint=", ".join(names))
    numbers = []
    for value in (soft, hard or soft):
        if value not in {"-1", "unlimited"} and not (value.isascii() and value.isdigit()):
            raise UsageError(f"--ulimit: {text}: expected NAME=SOFT[:HARD]", hint="for instance: nofile=1024:2048")
        numbers.append(int(value) if value.isdigit() else _UNLIMITED)
    if numbers[0] > numbers[1]:
        raise UsageError(f"--ulimit: {text}: the soft limit is above the hard one")
    return f"RLIMIT_{name.upper()}", numbers[0], numbers[1]


# -- privileges ------------------------------------------------------------------------------------------------------


def _names(option: str, words: Sequence[str]) -> list[str]:
    names = [word.lower().removeprefix("cap_") for word in words]
    for word, name in zip(words, names, strict=True):
        if name not in {*CAPABILITIES, "all"}:
            raise UsageError(f"{option}: {word}: unknown capability{did_you_mean(name, CAPABILITIES)}")
    return names


def choose_capabilities(add: Sequence[str], drop: Sequence[str]) -> tuple[str, ...]:
    """Return the capabilities after `--cap-add` and `--cap-drop`; who is in both is kept, as in Docker.

    Raises: UsageError for an unknown name.
    """
    added, dropped = _names("--cap-add", add), _names("--cap-drop", drop)
    start: tuple[str, ...] = tuple(CAPABILITIES) if "all" in added else DOCKER_CAPABILITIES
    kept = () if "all" in dropped else tuple(name for name in start if name not in dropped)
    if "all" in added and "all" in dropped:
        raise UsageError("--cap-add, --cap-drop: ALL: in both", hint="--cap-drop ALL --cap-add NET_BIND_SERVICE")
    return tuple(dict.fromkeys((*kept, *(name for name in added if name != "all"))))


def parse_security(words: Sequence[str]) -> Security:
    """Return what all `--security-opt` say together. Raises: UsageError."""
    found: dict[str, str | bool] = {}
    for word in words:
        key, value = [*re.split("[=:]", word, maxsplit=1), ""][:2]  # Docker takes either
        if key == "no-new-privileges" and value in {"", "true", "false"}:
            found["no_new_privs"] = value != "false"
        elif key == "seccomp" and value:
            found["seccomp"] = {"builtin": "default"}.get(value, value)
        elif key == "apparmor" and value:
            found["apparmor"] = value
        elif key == "systempaths" and value == "unconfined":
            found["confined_paths"] = False
        else:
            hint = "no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, systempaths=unconfined"
            raise UsageError(f"--security-opt: {word}: not supported", hint=hint)
    return Security(**found)  # type: ignore[arg-type]


def parse_pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE words as a table. Raises: UsageError."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or (not equals and option != "--label"):
            raise UsageError(f"{option}: {word}: expected NAME=VALUE")
        pairs[name] = value
    return pairs


def check_network(text: str) -> str:
    """Return a network's name. Raises: UsageError for one that a container by hand cannot have."""
    if text in {"none", "host"} or (text.startswith("container:") and text != "container:"):
        return text
    if text in {"bridge", "default"}:
        why = "a bridge of the harness lives and ends with one run of a scenario"
        raise UsageError(f"--network: {text}: {why}", hint="use none (the default), host, or container:NAME")
    raise UsageError(f"--network: {text}: unknown{did_you_mean(text, ('none', 'host'))}", hint=", ".join(NETWORKS))


def is_name(text: str) -> bool:
    """Return whether a text can name a container or a volume."""
    return _VOLUME_NAME.fullmatch(text) is not None and len(text) <= 128


def check_workdir(text: str) -> str:
    """Return a path to start in. Raises: UsageError for one that is not absolute."""
    if text and (not text.startswith("/") or ".." in text.split("/")):
        raise UsageError(f"-w: {text}: no absolute path in the container", hint="for instance: -w /srv")
    return text


def check_hostname(text: str) -> str:
    """Return a host's name. Raises: UsageError for more than the kernel's 64 bytes, or letters that no name has."""
    if len(text.encode()) > 64 or not set(text) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."
    ):
        raise UsageError(f"--hostname: {text}: up to 64 letters, digits, - and .")
    return text
