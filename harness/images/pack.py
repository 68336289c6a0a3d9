"""Files to a layer: a tar whose bytes depend on nothing but the content, so that equal layers have equal digests.

PAX format, no compression (the digest of the blob is then the diff id, and no zlib version changes it), times in whole
seconds (one for all unless each entry shall keep its own), no user or group names, entries in the order in which they
are added.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from harness.errors import ImageError
from harness.images import oci
from harness.images.files import kept_xattrs
from harness.images.oci import Layer
from harness.images.store import BlobWriter, Store
from harness.images.tree import Entry, walk

_HEADER = "SCHILY.xattr."


@dataclass(frozen=True, slots=True)
class Owner:
    uid: int = 0
    gid: int = 0


@dataclass(slots=True)
class LayerWriter:
    """Writes one layer. Paths are relative to the root, as bytes.

    `mtime_s` is the time of every entry; None: each has its own (now where none is given), `latest_s` at most.
    """

    out: BlobWriter
    mtime_s: int | None = 0
    latest_s: int | None = None
    count: int = 0
    _tar: tarfile.TarFile = field(init=False)

    def __post_init__(self) -> None:
        self._tar = tarfile.open(  # noqa: SIM115 - closed by __exit__
            fileobj=cast("IO[bytes]", self.out), mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape",
            encoding="utf-8",
        )  # fmt: skip

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tar.__exit__(kind, error, at)  # writes the end mark, after an error only what it still holds

    def _info(self, path: bytes, kind: bytes, mode: int, owner: Owner, own_s: float | None) -> tarfile.TarInfo:
        info = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
        info.type, info.mode, info.mtime = kind, mode, self._time(own_s)
        info.uid, info.gid = owner.uid, owner.gid
        return info

    def _time(self, own_s: float | None) -> int:
        if self.mtime_s is not None:
            return self.mtime_s
        own = int(time.time() if own_s is None else own_s)
        return own if self.latest_s is None else min(own, self.latest_s)

    def _add(self, info: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        self._tar.addfile(info, content)
        self._tar.members = []  # type: ignore[attr-defined]  # or it keeps every header in memory
        self.count += 1

    def directory(
        self,
        path: bytes,
        mode: int = 0o755,
        owner: Owner = Owner(),
        own_s: float | None = None,
        xattrs: Mapping[str, str] | None = None,
    ) -> None:
        """Add a directory. `xattrs` are PAX headers, here and below."""
        info = self._info(path, tarfile.DIRTYPE, mode, owner, own_s)
        info.pax_headers = dict(xattrs or {})
        self._add(info)

    def link(self, path: bytes, target: bytes, owner: Owner = Owner(), own_s: float | None = None) -> None:
        """Add a symbolic link."""
        info = self._info(path, tarfile.SYMTYPE, 0o777, owner, own_s)
        info.linkname = target.decode("utf-8", "surrogateescape")
        self._add(info)

    def hard_link(self, path: bytes, first: bytes, mode: int, owner: Owner, own_s: float | None = None) -> None:
        """Add another name of a file that was added as `first`."""
        info = self._info(path, tarfile.LNKTYPE, mode, owner, own_s)
        info.linkname = first.decode("utf-8", "surrogateescape")
        self._add(info)

    def file(
        self,
        path: bytes,
        content: IO[bytes] | bytes,
        mode: int = 0o644,
        owner: Owner = Owner(),
        own_s: float | None = None,
    ) -> None:
        """Add a regular file. Raises: ImageError when it shrinks while it is read."""
        info = self._info(path, tarfile.REGTYPE, mode, owner, own_s)
        if isinstance(content, bytes):
            info.size = len(content)
            self._add(info, io.BytesIO(content))
            return
        info.size = os.fstat(content.fileno()).st_size
        info.pax_headers = _xattr_headers(content.fileno())
        try:
            self._add(info, content)
        except OSError as error:
            raise ImageError(f"layer: {info.name}: changed while it was read: {error}") from error

    def member(self, member: tarfile.TarInfo, path: bytes, link: str, owner: Owner, content: IO[bytes] | None) -> None:
        """Add an entry of another archive at `path`; `link` is what a link holds. Attributes are left out: see ADD."""
        info = self._info(path, tarfile.REGTYPE if member.isreg() else member.type, member.mode, owner, member.mtime)
        info.linkname, info.size = link, member.size if content is not None else 0
        info.devmajor, info.devminor = member.devmajor, member.devminor
        self._add(info, content)

    def copy(self, base: bytes, entry: Entry, first: bytes | None) -> None:
        """Add an entry of a directory tree as it is; `first` is the earlier path of the same file (hard link)."""
        status, owner = entry.status, Owner(entry.status.st_uid, entry.status.st_gid)
        mode, source = stat.S_IMODE(status.st_mode), base + b"/" + entry.path
        if first is not None:
            self.hard_link(entry.path, first, mode, owner, status.st_mtime)
        elif stat.S_ISDIR(status.st_mode):
            self.directory(entry.path, mode, owner, status.st_mtime, _xattr_headers(source))
        elif stat.S_ISLNK(status.st_mode):
            self.link(entry.path, os.readlink(source), owner, status.st_mtime)  # noqa: PTH115 - bytes
        elif stat.S_ISREG(status.st_mode):
            with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                self.file(entry.path, file, mode, owner, status.st_mtime)
        else:
            self._special(entry, mode, owner)

    def _special(self, entry: Entry, mode: int, owner: Owner) -> None:
        kinds = {stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}
        kind = kinds.get(stat.S_IFMT(entry.status.st_mode))
        if kind is None:
            message = f"layer: /{os.fsdecode(entry.path)}: a socket: an image cannot hold it"
            raise ImageError(message, hint="stop the program that made it, or remove the file")
        info = self._info(entry.path, kind, mode, owner, entry.status.st_mtime)
        info.devmajor, info.devminor = os.major(entry.status.st_rdev), os.minor(entry.status.st_rdev)
        self._add(info)


def _xattr_headers(fd: int | bytes) -> dict[str, str]:
    return {f"{_HEADER}{name}": value.decode("utf-8", "surrogateescape") for name, value in kept_xattrs(fd).items()}


def pack_tree(store: Store, root: Path) -> Layer:
    """Store a directory as one layer: owners, modes, links, devices kept; times not. Its own mode becomes 0755.

    Raises: ImageError when something in it cannot be read, or is a socket.
    """
    base = os.fsencode(root)

    def write(out: BlobWriter) -> None:
        first_names = dict[tuple[int, int], bytes]()
        with LayerWriter(out) as writer:
            for entry in walk(root):
                try:
                    writer.copy(base, entry, _first_name(entry, first_names))
                except OSError as error:
                    raise ImageError(f"layer: {root}: /{os.fsdecode(entry.path)}: {error.strerror}") from error

    blob = store.add_blob(oci.LAYER, write)
    return Layer(blob, blob.digest)


def _first_name(entry: Entry, names: dict[tuple[int, int], bytes]) -> bytes | None:
    """Return the path under which a file with several names came before, None the first time."""
    if entry.status.st_nlink == 1 or stat.S_ISDIR(entry.status.st_mode):
        return None
    first = names.setdefault((entry.status.st_dev, entry.status.st_ino), entry.path)
    return None if first == entry.path else first
