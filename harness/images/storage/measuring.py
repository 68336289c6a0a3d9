"""What one storage driver costs, operation by operation: the same code on the host and in a guest.

A `Bench` has a stack of `depth` layers; each `trial` makes a writable layer over it, works in it, and takes it away.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.images.storage import kinds, padding
from harness.interfaces import Json

SIZES_BYTES: Mapping[str, int] = {"4k": 4 << 10, "1m": 1 << 20, "64m": 64 << 20}
SMALL_FILES = 1000
_SMALL_BYTES = 1024
_CHUNK = bytes(range(256)) * 4096  # 1 MiB, nothing that a file system could leave out


def make_tree(root: Path) -> Path:
    """Make the lowest layer: a file of each size, and many small ones to look up."""
    (root / "many").mkdir(parents=True)
    for name, size_bytes in SIZES_BYTES.items():
        with (root / name).open("xb") as file:
            for offset in range(0, size_bytes, len(_CHUNK)):
                file.write(_CHUNK[: size_bytes - offset])
    for number in range(SMALL_FILES):
        (root / "many" / f"{number:04}").write_bytes(_CHUNK[:_SMALL_BYTES])
    return root


class Bench:
    """One driver over one stack, made in the constructor. Raises: CapabilityError, OSError."""

    def __init__(self, name: str, depth: int, base: Path, token: str, arm: str) -> None:
        self._layers = kinds.home(base, token) / f"{arm}-layers"
        self._base, self._token = base, token
        started_ns = time.monotonic_ns()
        self._driver = kinds.open_driver(name, base, token, arm)
        try:
            tree = make_tree(self._layers / "tree")
            for number, layer in enumerate([tree, *padding.pad(tree, depth - 1, self._layers)]):
                self._driver.add(f"layer-{number}", f"layer-{number - 1}" if number else None, layer)
        except BaseException:
            self.close()
            raise
        self._top = f"layer-{depth - 1}"
        self.facts: dict[str, Json] = {
            **self._driver.facts, "driver": name, "depth": depth, "made_ns": time.monotonic_ns() - started_ns
        }  # fmt: skip

    def trial(self, key: str) -> dict[str, int]:
        """Return what one writable layer cost: times in ns by the operation, and `used` in bytes."""
        took: dict[str, int] = {}
        os.sync()  # what went before is written by then, and not in this trial's time
        with _timed(took, "prepare"):
            self._driver.prepare(key, self._top)
        try:
            with _timed(took, "mount"):
                root = self._driver.mount(key).fd
            try:
                _work(Path(f"/proc/self/fd/{root}"), took)
                os.sync()
                took["used"] = self._driver.usage_bytes(key)
            finally:
                with _timed(took, "unmount"):
                    os.close(root)
        finally:
            with _timed(took, "remove"):
                self._driver.remove(key)
        return took

    def close(self) -> None:
        self._driver.close()
        shutil.rmtree(self._layers, ignore_errors=True)
        kinds.release(self._base, self._token)


@contextmanager
def _timed(took: dict[str, int], name: str) -> Iterator[None]:
    started_ns = time.monotonic_ns()
    yield
    took[name] = time.monotonic_ns() - started_ns


def _work(root: Path, took: dict[str, int]) -> None:
    """Lookups come first: what was looked up stays known to the kernel."""
    names = [f"{number:04}" for number in range(SMALL_FILES)]
    with _timed(took, "lookup"):
        _each(root / "many", names, os.stat)
    with _timed(took, "first_write"):
        _write(root / "first", _SMALL_BYTES)
    for name in SIZES_BYTES:
        with _timed(took, f"copy_up.{name}"):
            _change_a_byte(root / name)
    fresh = root / "fresh"
    fresh.mkdir()
    with _timed(took, "create"):
        for name in names:
            _write(fresh / name, _SMALL_BYTES)
    with _timed(took, "stat"):
        _each(fresh, names, os.stat)
    with _timed(took, "unlink"):
        _each(fresh, names, os.unlink)


def _each(directory: Path, names: Sequence[str], call: Callable[[str], object]) -> None:
    for name in names:
        call(f"{directory}/{name}")


def _write(path: Path, size_bytes: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(fd, _CHUNK[:size_bytes])
    os.close(fd)


def _change_a_byte(path: Path) -> None:
    """Open it for writing, write one byte, close it: not until it is on the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    os.pwrite(fd, b"x", 0)
    os.close(fd)
