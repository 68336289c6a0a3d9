"""fuse-overlayfs: the overlay of layers by a program of the user, for kernels or users that may not mount the kernel's.

The file system is mounted by us, detached; the program gets it as an fd (`/dev/fd/N` instead of a mount point, which
libfuse takes since 3.3), so the host sees no mount. It ends when the mount does.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.container import syscalls
from harness.errors import CapabilityError
from harness.host.process import Running, await_end, run, start
from harness.images.storage import detached, usage
from harness.images.storage.overlay import make_writable
from harness.images.storage.seam import Driver, Kind, Mounted
from harness.interfaces import Json

PROGRAM = "fuse-overlayfs"
_END_NS = 5 * 10**9
"""It ends by itself with its mount; one that does not by then, is ended."""
_ESCAPED = str.maketrans({":": "\\:", "\\": "\\\\", ",": "\\,"})


class FuseOverlayfs:
    """See `Driver`. One process for each mounted key."""

    def __init__(self, place: Path, token: str) -> None:
        self._place = place
        self._chains: dict[str, tuple[Path, ...]] = {}
        self._parents: dict[str, str] = {}
        self._served: dict[str, list[Running]] = {}
        version = run([PROGRAM, "--version"]).stdout.decode().splitlines()
        self.facts: dict[str, Json] = {"version": next((line for line in version if PROGRAM in line), "")}

    def add(self, name: str, parent: str | None, layer: Path) -> None:
        self._chains[name] = (layer, *(self._chains[parent] if parent else ()))

    def prepare(self, key: str, parent: str) -> None:
        make_writable(self._place / key, self._chains[parent][0])
        self._parents[key] = parent

    def mount(self, key: str, *, readonly: bool = False) -> Mounted:
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            fd = _mount_fuse(fuse, readonly=readonly)
            try:
                served = self._serve(key, fuse, readonly=readonly)
            except BaseException:
                os.close(fd)
                raise
        finally:
            os.close(fuse)
        self._served.setdefault(key, []).append(served)
        self._await(key, fd, served)
        return Mounted(fd, (served.pid,))

    def _serve(self, key: str, fuse: int, *, readonly: bool) -> Running:
        home = self._place / key
        lowers = ":".join(str(path).translate(_ESCAPED) for path in self._chains[self._parents[key]])
        options = f"lowerdir={lowers}"
        if not readonly:
            options += f",upperdir={str(home / 'upper').translate(_ESCAPED)},workdir={home / 'work'}"
        with (home / "log").open("ab") as log:
            return start([PROGRAM, "-f", "-o", options, f"/dev/fd/{fuse}"], keep_fds=[fuse], stderr=log)

    def _await(self, key: str, fd: int, served: Running) -> None:
        """Wait for its first answer: what is asked of a mount whose program has ended fails."""
        try:
            Path(f"/proc/self/fd/{fd}/.").stat()
        except OSError as error:
            os.close(fd)
            served.wait()
            said = (self._place / key / "log").read_text(errors="replace").strip().splitlines()[-1:]
            raise CapabilityError(f"{PROGRAM}: ended: {''.join(said) or error.strerror}") from error

    def usage_bytes(self, key: str) -> int:
        return usage.allocated_bytes(self._place / key / "upper")

    def remove(self, key: str) -> None:
        for served in self._served.pop(key, []):
            await_end(served, _END_NS)
        del self._parents[key]
        shutil.rmtree(self._place / key)

    def close(self) -> None:
        for key in [*self._served]:
            self.remove(key)
        shutil.rmtree(self._place)


def _mount_fuse(fuse: int, *, readonly: bool) -> int:
    attrs = syscalls.MOUNT_ATTR_RDONLY if readonly else 0
    options = (f"fd={fuse}", "rootmode=40000", "user_id=0", "group_id=0", "allow_other", "default_permissions")
    return detached.new_mount("fuse", options, attrs=attrs)


def _open(place: Path, token: str) -> Driver:
    return FuseOverlayfs(place, token)


KIND = Kind("fuse-overlayfs", "an overlay by a program in user space, through FUSE", _open, (PROGRAM,),
            hint="modprobe fuse")  # fmt: skip
