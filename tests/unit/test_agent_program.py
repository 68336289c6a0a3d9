"""The specification as the agent reads it."""

import os

import pytest

from harness.agent.program import encode_spec, sealed_memfd
from harness.errors import HarnessError
from harness.model.spec import Ready, WorkloadSpec


def test_records_are_nul_terminated_and_in_order() -> None:
    workload = WorkloadSpec(("/bin/sh", "-c", "a=b"), {"K": "v=w"}, "/srv", 5, 6, Ready("http", port=80, path="/x"))
    assert encode_spec(workload, [("mode", "vm")]).split(b"\0") == [
        b"arg=/bin/sh", b"arg=-c", b"arg=a=b", b"env=K=v=w", b"cwd=/srv", b"uid=5", b"gid=6", b"ready=http",
        b"ready_text=", b"ready_port=80", b"ready_path=/x", b"mode=vm", b"",
    ]  # fmt: skip


def test_a_nul_byte_is_refused_because_execve_could_not_pass_it() -> None:
    with pytest.raises(HarnessError, match=r"arg: .*NUL"):
        encode_spec(WorkloadSpec(("a\0b",)))


def test_a_sealed_memfd_cannot_be_changed() -> None:
    fd = sealed_memfd("x", b"content")
    try:
        assert os.read(fd, 100) == b"content"
        with pytest.raises(PermissionError):
            os.write(fd, b"more")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)
