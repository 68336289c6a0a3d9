"""How a layer on disk says that something of the layers below it is gone: the three forms, written and read.

Source: image-spec layer.md ("Whiteouts"); Documentation/filesystems/overlayfs.rst ("whiteouts and opaque directories",
"User xattr"); aufs.5 ("whiteout"), whose file names the image format took over.
"""

from __future__ import annotations

import enum
import errno
import os
import stat

PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"


class Form(enum.Enum):
    """APPLIED: nothing is left of what a layer hides, each layer goes over the ones before, in one directory.

    The others are for one directory a layer, put together when it is used. OVERLAY: a character device 0:0, and the
    attribute trusted.overlay.opaque on a directory; OVERLAY_USER: the same with user.overlay.opaque, for mounts with
    `userxattr`; AUFS: empty files .wh.NAME and .wh..wh..opq.
    """

    APPLIED = ""
    OVERLAY = "trusted.overlay.opaque"
    OVERLAY_USER = "user.overlay.opaque"
    AUFS = "aufs"


def write_whiteout(form: Form, directory: int, name: bytes) -> None:
    """Hide `name` of the layers below; nothing of that name is in the directory. Raises: OSError."""
    if form is Form.AUFS:
        _write_empty(directory, PREFIX + name)
    elif form is not Form.APPLIED:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)


def write_opaque(form: Form, directory: int) -> None:
    """Hide everything that the layers below have in this directory. Raises: OSError."""
    if form is Form.AUFS:
        _write_empty(directory, OPAQUE_NAME)
    elif form is not Form.APPLIED:
        os.setxattr(directory, form.value, b"y")


def remove_whiteout(form: Form, directory: int, name: bytes) -> None:
    """Take a whiteout back, since the layer has something of that name after all."""
    os.unlink(PREFIX + name if form is Form.AUFS else name, dir_fd=directory)


def is_whiteout(form: Form, path: bytes, status: os.stat_result | None) -> bool:
    """Return whether a layer hides `path`, of which `status` is the lstat in that layer (None: not there)."""
    if form is Form.AUFS:
        parent, _, name = path.rpartition(b"/")
        return os.path.lexists(parent + b"/" + PREFIX + name)
    return status is not None and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(form: Form, path: bytes) -> bool:
    """Return whether a layer's directory hides what the layers below have in it."""
    if form is Form.AUFS:
        return os.path.lexists(path + b"/" + OPAQUE_NAME)
    try:
        return os.getxattr(path, form.value, follow_symlinks=False) == b"y"
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP}:
            return False
        raise


def _write_empty(directory: int, name: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o444, dir_fd=directory))
