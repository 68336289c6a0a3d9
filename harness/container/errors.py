"""The one error of the runtime."""

from __future__ import annotations

import os


class ContainerError(Exception):
    """A step failed. `errno` is 0 where the kernel had no say; `detail` names the path or the number.

    As text it is one line: names come from images and configurations, and shall write no line of their own into a log.
    """

    def __init__(self, step: str, errno: int, detail: str = "") -> None:
        why = os.strerror(errno) if errno else ""
        text = ": ".join(part for part in (step, detail, why) if part)
        super().__init__("".join(one if one.isprintable() else ascii(one)[1:-1] for one in text))
        self.step = step
        self.errno = errno
        self.detail = detail
