"""The compiled agent, and the specification in the form in which it reads it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from harness.errors import CapabilityError, HarnessError
from harness.model.spec import WorkloadSpec

PATH = Path(__file__).with_name("harness-agent")


def agent_bytes() -> bytes:
    """Return the static program. Raises CapabilityError when it has not been built."""
    try:
        return PATH.read_bytes()
    except FileNotFoundError:
        raise CapabilityError("agent: not built", hint="scripts/setup builds it (or: python hatch_build.py)") from None


def sealed_memfd(name: str, content: bytes) -> int:
    """Return a close-on-exec fd of an anonymous file that nobody can change any more.

    A program that is executed from it cannot be overwritten through /proc/PID/exe (the way of CVE-2019-5736).
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd


def agent_memfd() -> int:
    """Return a sealed memfd of the agent, to be executed as often as wanted."""
    return sealed_memfd("harness-agent", agent_bytes())


def encode_spec(workload: WorkloadSpec, extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the NUL-terminated records that `csrc/agent/spec.c` reads.

    Raises: HarnessError for a NUL byte inside a value; the kernel could not pass it to execve either.
    """
    ready = workload.ready
    records = [
        *(("arg", word) for word in workload.argv),
        *(("env", f"{key}={value}") for key, value in workload.env.items()),
        ("cwd", workload.cwd),
        ("uid", str(workload.uid)),
        ("gid", str(workload.gid)),
        ("ready", ready.kind),
        ("ready_text", ready.text),
        ("ready_port", str(ready.port)),
        ("ready_path", ready.path),
        *((("hold", "1"),) if workload.hold else ()),
        *extra,
    ]
    return encode_records(records)


def encode_records(records: Iterable[tuple[str, str]]) -> bytes:
    """Return records of a specification, which may follow those of `encode_spec`. Raises: HarnessError as it does."""
    records = tuple(records)
    for key, value in records:
        if "\0" in value:
            raise HarnessError(f"workload: {key}: {value!r}: contains a NUL byte")
    return b"".join(f"{key}={value}\0".encode("utf-8", "surrogateescape") for key, value in records)
