"""How long an image takes to become a VM's disk after its top layer has changed: layer by layer, and as a whole.

    python -m benchmarks.vm_disk IMAGE [--count 5]

Each round puts a new top layer of one small file on IMAGE, which the store has (`harness image bootstrap
debian:bookworm`), and makes both kinds of disk in turn. What is unpacked and what is written are told apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.host.paths import data_dir
from harness.images.diff import pack_upper
from harness.images.disk import disk_image
from harness.images.layer_disks import layered_disk
from harness.images.oci import Image
from harness.images.roots import open_tree
from harness.images.stack import open_chain, open_stack
from harness.images.store import Store

COLUMNS = ("unpack layers", "layers to disk", "unpack tree", "tree to erofs", "tree to ext4")
_NAME = "benchmark/vm-disk"


def with_new_top(store: Store, base: Image) -> Image:
    """Return the image with one more layer, which nobody has seen before."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "top").write_text(f"{time.time_ns()}\n")
        layer = pack_upper(store, Path(scratch), open_chain(store, base.layers).directories, None)
    assert layer is not None
    layers = [*base.layers, layer]
    document = {**base.document, "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]}}
    document.pop("history", None)
    return store.add_image(document, layers, _NAME)


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def measure(base: str, number: int) -> tuple[float, ...]:
    """Return one value for each of COLUMNS, in seconds; which kind of disk comes first alternates."""
    store = Store(data_dir() / "images")
    image = with_new_top(store, store.find(base))
    stack = seconds(lambda: open_stack(store, image))
    unpack = seconds(lambda: open_tree(store, image))
    tree = open_tree(store, image)
    with tempfile.TemporaryDirectory(dir=store.path / "tmp") as scratch:
        works: dict[str, Callable[[], object]] = {
            "layers": lambda: layered_disk(tree),
            "whole": lambda: disk_image(tree, Path(scratch)),
        }
        took = {name: seconds(works[name]) for name in sorted(works, reverse=bool(number % 2))}
        ext4 = seconds(lambda: disk_image(tree, Path(scratch), fs="ext4"))
    return stack, took["layers"], unpack, took["whole"], ext4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--count", type=int, default=5)
    arguments = parser.parse_args()
    store = Store(data_dir() / "images")
    layered_disk(open_tree(store, store.find(arguments.image)))  # the layers below are there: they did not change
    rounds = [measure(arguments.image, number) for number in range(arguments.count)]
    store.remove(_NAME)
    for name, values in zip(COLUMNS, zip(*rounds, strict=True), strict=True):
        print(f"{name:16} {statistics.median(values):6.2f} s ({min(values):.2f}-{max(values):.2f})")


if __name__ == "__main__":
    main()
