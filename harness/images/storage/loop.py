"""Files as block devices: loop devices that end with their last user (LO_FLAGS_AUTOCLEAR), so none is left behind.

Source: include/uapi/linux/loop.h; LOOP_CONFIGURE is of Linux 5.8.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from harness.errors import CapabilityError

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
_CONFIG_BYTES, _INFO_OFFSET, _FLAGS_OFFSET, _NAME_OFFSET, _NAME_BYTES = 304, 8, 52, 56, 64
_TRIES = 20


def attach(path: Path, *, readonly: bool = False) -> tuple[int, Path]:
    """Return the open fd of a loop device over a file, and the device's path; it ends when nobody has it open.

    Raises: CapabilityError where there is no loop device to be had.
    """
    file = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            return _configure(control, file, path, readonly=readonly)
        finally:
            os.close(control)
    except OSError as error:
        raise CapabilityError(f"loop device: {path}: {error.strerror}", hint="modprobe loop") from error
    finally:
        os.close(file)


def _configure(control: int, file: int, path: Path, *, readonly: bool) -> tuple[int, Path]:
    """Take the first free device; another process may be quicker, and then the next is tried."""
    flags = _AUTOCLEAR | (_READ_ONLY if readonly else _DIRECT_IO)
    config = bytearray(_CONFIG_BYTES)
    struct.pack_into("=II", config, 0, file, 512)
    struct.pack_into("=I", config, _INFO_OFFSET + _FLAGS_OFFSET, flags)
    name = os.fsencode(path)[-_NAME_BYTES + 1 :]
    config[_INFO_OFFSET + _NAME_OFFSET : _INFO_OFFSET + _NAME_OFFSET + len(name)] = name
    for _ in range(_TRIES):
        device = Path(f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}")
        fd = os.open(device, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EBUSY:
                raise
        else:
            return fd, device
    raise OSError(errno.EBUSY, "every free one was taken by somebody else")
