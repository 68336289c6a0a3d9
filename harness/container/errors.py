"""The one error of the runtime."""

from __future__ import annotations

import os


class ContainerError(Exception):
    """A step failed. `errno` is 0 where the kernel had no say; `detail` names the path or the number."""

    def __init__(self, step: str, errno: int, detail: str = "") -> None:
        why = os.strerror(errno) if errno else ""
        super().__init__(": ".join(part for part in (step, detail, why) if part))
        self.step = step
        self.errno = errno
        self.detail = detail
