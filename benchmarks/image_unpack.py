"""Unpack the same image of a real Debian tree with ours, `umoci unpack` and `podman load`: in turns, medians, ratios.

    python -m benchmarks.image_unpack --rounds 5 --work /dev/shm/unpack

The tree is made once by mmdebstrap and kept in --cache: one gzip layer of some 270 MB and 11,000 entries. Every row
starts with an empty target on the same file system; what the last one made is removed between, untimed. Rows:

    unpack       ours into one directory, digests verified (harness.images.roots.unpack_image)
    stack        ours into the store: unpack, digest of the result, sync, rename (harness.images.stack.open_stack)
    umoci        umoci unpack of the same layout (verifies, and writes an mtree manifest of the bundle)
    podman       podman load of an archive of it into a fresh --root (copies and verifies the blob, then unpacks)

CPU is that of the process with its children, user and system: it says more than wall time on a busy machine.
"""

from __future__ import annotations

import argparse
import gzip
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harness.images import oci
from harness.images.interchange import export_image
from harness.images.oci import Layer
from harness.images.store import Store

_PACKAGES = "python3,perl,vim-tiny,git"
_OURS = """
import sys
from pathlib import Path
from harness.images.roots import unpack_image
from harness.images.stack import open_stack
from harness.images.store import Store
store = Store(Path(sys.argv[2]))
if sys.argv[1] == "unpack":
    unpack_image(store, store.find("debian"), Path(sys.argv[3]))
else:
    open_stack(store, store.find("debian"))
"""
Sample = tuple[float, float]  # wall and CPU, s


def make_store(cache: Path) -> Store:
    """Return the store with the image, made once."""
    store = Store(cache / "store")
    if "debian:latest" in store.names():
        return store
    packed = cache / "tree.tar.gz"
    if not packed.exists():
        tar = cache / "tree.tar"
        subprocess.run(["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(tar)], check=True)
        with tar.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as out:
            shutil.copyfileobj(source, out, 1 << 20)
        tar.unlink()
    with packed.open("rb") as file, store.adding():
        blob = store.add_stream(oci.LAYER + "+gzip", file)
        with gzip.open(packed) as tar_stream:
            plain = store.add_stream(oci.LAYER, tar_stream)
        document = {"architecture": oci.host_architecture(), "os": "linux",
                    "rootfs": {"type": "layers", "diff_ids": [plain.digest]}}  # fmt: skip
        store.add_image(document, [Layer(blob, plain.digest)], "debian")
        store.blob_path(plain.digest).unlink()
    return store


def timed(argv: list[str]) -> Sample:
    """Run one command and return its time. Raises: CalledProcessError."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wall_s, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(store: Store, work: Path) -> dict[str, Callable[[], Sample]]:
    """Return what is measured, by name; each call gets an empty `work/target`."""
    layout, archive, target = work / "layout", work / "debian.tar", work / "target"
    export_image(store, "debian", layout, "oci-dir")
    export_image(store, "debian", archive, "oci-archive")
    tag = next(iter(Store(layout).names()))

    def ours(how: str) -> Sample:
        place = target / "store"
        shutil.copytree(
            store.path / "blobs", place / "blobs", copy_function=os.link if _same(store, work) else shutil.copy
        )
        for name in ("index.json", "oci-layout"):
            shutil.copy(store.path / name, place / name)
        (target / "tree").mkdir()
        return timed([sys.executable, "-c", _OURS, how, str(place), str(target / "tree")])

    # podman leaves a mount on its root behind: in a mount namespace of its own it goes with the command.
    podman = [
        "unshare",
        "-m",
        "podman",
        "--root",
        str(target / "root"),
        "--runroot",
        str(target / "run"),
        "--storage-driver",
        "overlay",
    ]
    return {
        "unpack": lambda: ours("unpack"),
        "stack": lambda: ours("stack"),
        "umoci": lambda: timed(["umoci", "unpack", "--image", f"{layout}:{tag}", str(target / "bundle")]),
        "podman": lambda: timed([*podman, "load", "-q", "-i", str(archive)]),
    }


def _same(store: Store, work: Path) -> bool:
    return store.path.stat().st_dev == work.stat().st_dev


def clear(work: Path) -> None:
    target = work / "target"
    if target.exists():
        shutil.rmtree(target)
    target.mkdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("/var/tmp/harness-benchmark"))
    parser.add_argument("--work", type=Path, required=True, help="a fresh directory; on a tmpfs the disk adds no noise")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True)
    try:
        measured = rows(make_store(options.cache), options.work)
        samples: dict[str, list[Sample]] = {name: [] for name in measured}
        for number in range(options.rounds):
            names = list(measured) if number % 2 == 0 else list(reversed(measured))
            for name in names:
                clear(options.work)
                samples[name].append(measured[name]())
                print(f"  round {number} {name:7} {samples[name][-1][0]:6.2f} s", file=sys.stderr)
        clear(options.work)
        show(samples)
    finally:
        shutil.rmtree(options.work, ignore_errors=True)


def show(samples: dict[str, list[Sample]]) -> None:
    """Print medians, and ratios of `unpack` and `stack` to the others, taken within each round."""
    print(f"{'':8} {'wall':>8} {'CPU':>8} {'unpack/it':>10} {'stack/it':>10}  (medians; ratios of wall by round)")
    for name, values in samples.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = [
            statistics.median(ours[0] / its[0] for ours, its in zip(samples[own], values, strict=True))
            for own in ("unpack", "stack")
        ]
        print(f"{name:8} {wall:6.2f} s {cpu:6.2f} s {ratios[0]:10.2f} {ratios[1]:10.2f}")


if __name__ == "__main__":
    main()
