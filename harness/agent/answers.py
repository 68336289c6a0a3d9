"""What the agent answers, checked before anybody uses it. Pure.

A guest's root can write to the control channel itself, so no answer is taken to be well-formed: every function here
raises ValueError for one that is not, and returns only what has the documented shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from harness.model.records import Attestation

HEAD_MAX_BYTES = 64
_HEAD = re.compile(rb"(OK|ERR) ([0-9]{1,9})\n")
_NUMBERS = re.compile(rb"[0-9]{1,20}( [0-9]{1,20})*\n?")

# /proc/PID/status
_STATUS = {"Cap": re.compile(r"[0-9a-f]{1,16}"), "Uid": re.compile(r"\d{1,10}(\t\d{1,10}){3}", re.ASCII)}
_STATUS["Gid"] = _STATUS["Uid"]
_NUMBER = re.compile(r"[0-9]{1,10}")


def parse_head(line: bytes) -> tuple[bool, int]:
    """Return whether the answer is OK, and the length of its body in bytes."""
    match = _HEAD.fullmatch(line)
    if match is None:
        raise ValueError(f"no head of an answer: {line[:HEAD_MAX_BYTES]!r}")
    return match[1] == b"OK", int(match[2])


def parse_numbers(body: bytes, count: int) -> tuple[int, ...]:
    """Return `count` numbers that are separated by single spaces."""
    numbers = tuple(map(int, body.split())) if _NUMBERS.fullmatch(body) else ()
    if len(numbers) != count:
        raise ValueError(f"{count} numbers expected, got {body[:HEAD_MAX_BYTES]!r}")
    return numbers


def parse_exec(body: bytes) -> tuple[int, bytes, bytes]:
    """Return return code, stdout and stderr of a command."""
    head, _, rest = body.partition(b"\n")
    code, out_bytes, err_bytes = parse_numbers(head, 3)
    if out_bytes + err_bytes != len(rest):
        raise ValueError(f"{out_bytes} + {err_bytes} bytes of output announced, {len(rest)} came")
    return code, rest[:out_bytes], rest[out_bytes:]


def parse_attestation(body: bytes) -> Attestation:
    """Return what the agent ran on; the environment comes as a list and becomes a mapping."""
    answer = _object(_load(body), "attest")
    known = [field.name for field in fields(Attestation)]
    if sorted(answer) != sorted(known):
        raise ValueError(f"attest: fields {sorted(answer)}, expected {sorted(known)}")
    for key in ("uid", "gid", "cpus", "memory_bytes"):
        _count(answer[key], key)
    for key in ("root_digest", "exe_sha256", "cwd", "kernel", "boot_id"):
        _text(answer[key], key)
    argv, env = (_texts(answer.pop(key), key) for key in ("argv", "env"))
    pairs = (entry.partition("=") for entry in env)
    return Attestation(argv=argv, env={key: value for key, _, value in pairs}, **answer)


def parse_inside(body: bytes) -> Mapping[str, Any]:
    """Return what is seen from inside; what is not there was not to be seen."""
    answer = _object(_load(body), "inside")
    for key, value in answer.items():
        if key not in _INSIDE:
            raise ValueError(f"inside: {key[:40]!r}: unknown")
        _INSIDE[key](value, key)
    return answer


def _load(body: bytes) -> object:
    try:
        value: object = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what}: not an object")
    for key in value:
        _text(key, what)
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what}: not a text")
    value.encode()  # half a surrogate pair could never be written to a file
    return value


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{what}: not a list")
    return tuple(_text(entry, what) for entry in value)


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"{what}: not a number of 64 bits")
    return value


def _check_namespaces(value: object, what: str) -> None:
    for kind, link in _object(value, what).items():
        _text(link, kind)


def _check_memory(value: object, what: str) -> None:
    for name, size_bytes in _object(value, what).items():
        _count(size_bytes, name)


def _check_status(value: object, what: str) -> None:
    for key, text in _object(value, what).items():
        if not _STATUS.get(key[:3], _NUMBER).fullmatch(_text(text, key)):
            raise ValueError(f"{what}: {key[:40]!r}: not what /proc says")


def _check_devices(value: object, what: str) -> None:
    devices = _object(value, what)
    if sorted(devices) != ["block", "character", "names"]:
        raise ValueError(f"{what}: {sorted(devices)}")
    _count(devices["block"], "block")
    _count(devices["character"], "character")
    _text(devices["names"], "names")


_INSIDE: Mapping[str, Callable[[object, str], object]] = {
    **dict.fromkeys(("subject", "kernel", "hostname", "boot_id"), _text),
    **dict.fromkeys(("processes", "mounts", "network_interfaces"), _count),
    "namespaces": _check_namespaces,
    "memory_bytes": _check_memory,
    "status": _check_status,
    "devices": _check_devices,
}
