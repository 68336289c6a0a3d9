import errno
import fcntl
import os

import pytest

from harness.container import launcher
from harness.container.plan import Step


def test_step_that_failed_is_told_with_its_number_and_what_it_was_about() -> None:
    error = launcher.parse_error(f"11 overlay {errno.EINVAL} 3 lower directories")
    assert (error.step, error.errno) == ("step 11 (overlay)", errno.EINVAL)
    assert str(error) == "step 11 (overlay): 3 lower directories: Invalid argument"


def test_failure_without_detail() -> None:
    assert str(launcher.parse_error(f"0 clone {errno.EPERM} ")) == "step 0 (clone): Operation not permitted"


def test_plan_cannot_be_changed_once_it_is_made() -> None:
    fd = launcher.plan_memfd([Step("exec")])
    try:
        assert os.pread(fd, 100, 0) == b"exec\x000\0"
        assert not os.get_inheritable(fd)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)
