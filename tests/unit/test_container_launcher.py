import errno
import fcntl
import os

import pytest

from harness.container import launcher
from harness.container.errors import ContainerError
from harness.container.plan import Step


def test_report_of_a_start_that_worked() -> None:
    assert launcher.parse_report("pid 4711\n") == launcher.Report(4711, None)


def test_report_of_a_step_that_failed() -> None:
    report = launcher.parse_report(f"pid 4711\nerror 11 overlay {errno.EINVAL} 3 lower directories\n")
    assert report.pid == 4711
    assert report.error is not None
    assert (report.error.step, report.error.errno) == ("step 11 (overlay)", errno.EINVAL)
    assert str(report.error) == "step 11 (overlay): 3 lower directories: Invalid argument"


def test_report_of_a_failure_before_the_clone_without_detail() -> None:
    report = launcher.parse_report(f"error 0 clone {errno.EPERM} \n")
    assert report.pid is None
    assert str(report.error) == "step 0 (clone): Operation not permitted"


def test_report_of_nothing() -> None:
    assert launcher.parse_report("") == launcher.Report()


def test_plan_cannot_be_changed_once_it_is_made() -> None:
    fd = launcher.plan_memfd([Step("exec")])
    try:
        assert os.pread(fd, 100, 0) == b"exec\0"
        assert not os.get_inheritable(fd)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)


def test_wrong_number_of_fds_is_refused() -> None:
    with pytest.raises(ContainerError, match="2 fds for the agent, 6 are needed"):
        launcher.launch(3, 4, [0, 1], [])
