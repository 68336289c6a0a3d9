"""What a disk may refuse, told as what it is: no bug of ours, and nothing half made is left."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from harness.errors import ImageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG)


@contextlib.contextmanager
def disk_errors_told(what: str, room: str) -> Iterator[None]:
    """Turn what a disk refuses into an ImageError; `room` is the hint where it is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL + _REFUSED:
            raise
        where = f"{error.filename}: " if error.filename and str(error.filename) not in what else ""
        reason = (error.strerror or str(error)).lower()
        raise ImageError(f"{what}: {where}{reason}", hint=room if error.errno in _FULL else None) from error
