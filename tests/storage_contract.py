"""What every storage driver keeps, as plain functions: the host's tests call them, and a script in a guest does.

Each takes a `Lab`: a driver at work, and layers in overlay's own form. The standard library is enough.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.images.storage import kinds, padding
from harness.images.storage.seam import Driver
from harness.images.tree import root_digest

MIB = 1 << 20
OWNER, GROUP = 1234, 4321
TIME_NS = 1_500_000_000_000_000_000


@dataclass
class Lab:
    """A driver with the layers `base` and, over it, `top`; `base_dir` holds the directory of everything."""

    driver: Driver
    base_dir: Path
    base: Path
    token: str

    @contextmanager
    def mounted(self, key: str, *, readonly: bool = False):
        fd = self.driver.mount(key, readonly=readonly).fd
        try:
            yield Path(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    @contextmanager
    def writable(self, key: str, parent: str = "top", *, readonly: bool = False):
        self.driver.prepare(key, parent)
        try:
            with self.mounted(key, readonly=readonly) as root:
                yield root
        finally:
            self.driver.remove(key)


@contextmanager
def lab(name: str, base_dir: Path, token: str):
    layers = base_dir / f"layers-{name}"
    base, top = make_base(layers / "base"), make_top(layers / "top")
    driver = kinds.open_driver(name, base_dir, token)
    try:
        driver.add("base", None, base)
        driver.add("top", "base", top)
        yield Lab(driver, base_dir, base, token)
    finally:
        driver.close()
        shutil.rmtree(layers)


def make_base(root: Path) -> Path:
    for name in ("keep", "opaque/deep", "file-to-directory-parent", "turns"):
        (root / name).mkdir(parents=True)
    (root / "keep" / "file").write_text("from the base")
    (root / "keep" / "second").write_text("also")
    (root / "gone").write_text("hidden by the layer above")
    (root / "opaque" / "old").write_text("hidden by an opaque directory")
    (root / "opaque" / "deep" / "older").write_text("hidden too")
    (root / "turns" / "link").symlink_to("/etc")
    (root / "file-to-directory").write_text("a file here, a directory above")
    (root / "program").write_text("#!/bin/true\n")
    os.chown(root / "program", OWNER, GROUP)
    (root / "program").chmod(0o4755)
    os.link(root / "program", root / "keep" / "same-program")
    os.setxattr(root / "keep" / "file", "user.note", b"kept")
    os.mkfifo(root / "pipe", 0o640)
    os.utime(root / "program", ns=(TIME_NS, TIME_NS))
    root.chmod(0o751)
    return root


def make_top(root: Path) -> Path:
    for name in ("keep", "opaque", "turns/link", "file-to-directory"):
        (root / name).mkdir(parents=True)
    whiteout(root / "gone")
    whiteout(root / "keep" / "second")
    os.setxattr(root / "opaque", "trusted.overlay.opaque", b"y")
    (root / "opaque" / "new").write_text("from the top")
    (root / "turns" / "link" / "inside").write_text("a directory now")
    (root / "file-to-directory" / "inside").write_text("a directory now")
    root.chmod(0o751)
    return root


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def digest_of(root: Path) -> str:
    """The root digest of a mount by its path in /proc/self/fd, which is a link."""
    before = Path.cwd()
    os.chdir(root)
    try:
        return root_digest(Path())
    finally:
        os.chdir(before)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name != "lost+found")


# -- the contract ----------------------------------------------------------------------------------------------------


def check_lowest_layer_is_shown_as_it_is(lab: Lab) -> None:
    with lab.writable("one", "base") as root:
        assert names(root) == sorted(
            ["file-to-directory", "file-to-directory-parent", "gone", "keep", "opaque", "pipe", "program", "turns"]
        )
        status = (root / "program").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (OWNER, GROUP, 0o4755)
        assert status.st_mtime_ns == TIME_NS
        assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
        assert stat.S_IMODE(root.stat().st_mode) == 0o751
        assert (root / "turns" / "link").readlink() == Path("/etc")


def check_extended_attributes(lab: Lab) -> None:
    with lab.writable("one") as root:
        assert os.getxattr(root / "keep" / "file", "user.note") == b"kept"
        os.setxattr(root / "keep" / "file", "user.note", b"changed")
        assert os.getxattr(root / "keep" / "file", "user.note") == b"changed"


def check_hard_links_are_one_file(lab: Lab) -> None:
    with lab.writable("one", "base") as root:
        assert (root / "program").stat().st_ino == (root / "keep" / "same-program").stat().st_ino
        assert (root / "program").stat().st_nlink == 2


def check_whiteouts_hide(lab: Lab) -> None:
    with lab.writable("one") as root:
        assert "gone" not in names(root)
        assert not (root / "gone").exists()
        assert names(root / "keep") == ["file", "same-program"]
        assert (root / "keep" / "file").read_text() == "from the base"


def check_opaque_directory_shows_its_own_alone(lab: Lab) -> None:
    with lab.writable("one") as root:
        assert names(root / "opaque") == ["new"]


def check_directory_over_link_and_file(lab: Lab) -> None:
    with lab.writable("one") as root:
        assert (root / "turns" / "link" / "inside").read_text() == "a directory now"
        assert names(root / "file-to-directory") == ["inside"]
    assert not Path("/etc/inside").exists()


def check_two_writable_layers_are_apart(lab: Lab) -> None:
    with lab.writable("one") as first, lab.writable("two") as second:
        (first / "keep" / "file").write_text("of the first")
        (second / "new").write_text("of the second")
        (first / "program").unlink()
        shutil.rmtree(first / "opaque")
        assert (second / "keep" / "file").read_text() == "from the base"
        assert not (first / "new").exists()
        assert (second / "program").exists()
        assert names(second / "opaque") == ["new"]
    with lab.writable("three") as third:
        assert (third / "keep" / "file").read_text() == "from the base"
        assert names(third / "opaque") == ["new"]


def check_layers_stay_as_they_were(lab: Lab) -> None:
    before = root_digest(lab.base)
    with lab.writable("one", "base") as root:
        (root / "keep" / "file").write_text("x")
        (root / "gone").unlink()
    assert root_digest(lab.base) == before


def check_read_only_mount_refuses_writes(lab: Lab) -> None:
    with lab.writable("one", readonly=True) as root:
        assert (root / "keep" / "file").read_text() == "from the base"
        assert not os.access(root, os.W_OK)
        try:
            (root / "keep" / "file").write_text("x")
        except OSError:
            return
    raise AssertionError("it could be written to")


def check_device_nodes_cannot_be_opened(lab: Lab) -> None:
    with lab.writable("one") as root:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        try:
            os.close(os.open(root / "null", os.O_RDONLY))
        except PermissionError:
            return
    raise AssertionError("a device node was opened")


def check_padded_stack_shows_the_same_tree(lab: Lab) -> None:
    with lab.writable("one", "base") as root:
        expected = digest_of(root)
    assert expected == root_digest(lab.base)
    parent = "base"
    for number, layer in enumerate(padding.pad(lab.base, 5, lab.base.parent / "padding")):
        lab.driver.add(f"pad-{number}", parent, layer)
        parent = f"pad-{number}"
    with lab.writable("one", parent) as root:
        assert digest_of(root) == expected


def check_usage_is_what_was_written(lab: Lab) -> None:
    lab.driver.prepare("one", "top")
    with lab.mounted("one") as root:
        os.sync()
        before = lab.driver.usage_bytes("one")
        (root / "data").write_bytes(os.urandom(4 * MIB))
        os.sync()
        written = lab.driver.usage_bytes("one") - before
    lab.driver.remove("one")
    assert 4 * MIB <= written < 6 * MIB, written


def check_removal_leaves_nothing(lab: Lab) -> None:
    place = next(kinds.home(lab.base_dir, lab.token).iterdir())
    before = sorted(place.iterdir())
    with lab.writable("one") as root:
        (root / "file").write_text("x")
    assert sorted(place.iterdir()) == before
    with lab.writable("one") as root:  # the name is free again, and what was written is gone
        assert not (root / "file").exists()


CHECKS: dict[str, Callable[[Lab], None]] = {
    name.removeprefix("check_"): check for name, check in sorted(globals().items()) if name.startswith("check_")
}
