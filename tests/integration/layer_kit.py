"""Layers for tests: tars written from a list of entries, stored, and an overlay that no one else sees."""

import contextlib
import gzip
import io
import os
import tarfile
import tempfile

from harness.container import syscalls
from harness.images import oci
from harness.images.oci import Layer

DIR, LNK, HARD, CHR = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
_SET_STRING, _CREATE = 1, 6  # enum fsconfig_command: include/uapi/linux/mount.h


def entry(name, kind=tarfile.REGTYPE, content=b"", target="", mode=None, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), target
    info.mode = mode if mode is not None else (0o755 if kind == tarfile.DIRTYPE else 0o644)
    info.mtime = 7
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def tar(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for info, content in entries:
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def stored_layer(store, data, *, packed=False):
    blob = store.add_bytes(oci.LAYER, gzip.compress(data) if packed else data)
    return Layer(blob, oci.sha256_digest(data))


def stored_image(store, name, *layers):
    """Name an image of some layers, each a list of entries."""
    made = [stored_layer(store, tar(*entries)) for entries in layers]
    ids = [layer.diff_id for layer in made]
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
    return store.add_image(document, made, name)


@contextlib.contextmanager
def overlay(directories):
    """Go to where the layers (lowest first) are seen together, read-only, by this process alone; yield its path."""
    with tempfile.TemporaryDirectory() as empty:  # overlay without an upper wants two layers
        mount = _mounted([empty, *directories])
        try:
            with contextlib.chdir(f"/proc/self/fd/{mount}"):
                yield "."
        finally:
            os.close(mount)


def _mounted(directories):
    fs, lowers = syscalls.fsopen("overlay"), [os.open(path, os.O_PATH) for path in directories]
    try:  # by fd: one string of fsconfig(2) takes 255 bytes
        syscalls.fsconfig(fs, _SET_STRING, "lowerdir", ":".join(f"/proc/self/fd/{fd}" for fd in reversed(lowers)))
        syscalls.fsconfig(fs, _CREATE)
        return syscalls.fsmount(fs, 0)
    finally:
        for fd in [fs, *lowers]:
            os.close(fd)
