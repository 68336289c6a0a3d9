"""What a person is told of a container that could not be run, and the exit code that says whose fault it is."""

from __future__ import annotations

import errno

from harness.container.errors import ContainerError
from harness.errors import HarnessError

EXIT_FAILED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 125, 126, 127


class ContainerFailed(HarnessError):
    """A container that did not come to execute its program; `exit_code` is 125, 126 or 127, as Docker has them."""

    exit_code = EXIT_FAILED


def failed(error: ContainerError, what: str) -> ContainerFailed:
    """Return what a person is told of an error of the runtime, with the exit code that says whose fault it is."""
    step = error.step.partition("(")[2].rstrip(")")
    made = ContainerFailed(f"container: {what}: {error}", hint=_hint(error, step))
    if step in {"find", "exec"}:
        made.exit_code = EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_EXECUTABLE
    return made


def _hint(error: ContainerError, step: str) -> str | None:
    if step == "find" and error.errno == errno.ENOENT:
        return "is it in the image, and in a directory of its PATH? harness container run IMAGE ls /bin"
    if step == "exec" and error.errno == errno.ENOENT:
        return "the file is there, but not the interpreter that its first line or its ELF header names"
    if step == "exec" and error.errno == errno.ENOEXEC:
        return "a program of another architecture, or a script without #!"
    if step == "overlay":
        return "the writable layer needs a disk such as ext4, xfs, btrfs or tmpfs below it: set HARNESS_HOME to one"
    return None
