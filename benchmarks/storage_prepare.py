"""What a writable layer costs, storage driver by storage driver: preparing it, mounting it, removing it.

    .venv/bin/python -m benchmarks.storage_prepare [--depth 20] [--rounds 200] [--drivers overlay,btrfs,...] [--json]

Every driver has the same stack: a tree of some thousand small files, and layers over it that change nothing. Each round
takes every driver once, in random order: prepare a writable layer over the topmost, mount it (a detached mount, ready
for a container), read a file through it, let go of it, remove it. The target is overlay's: prepare and mount in under
5 ms over 20 layers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.host.paths import data_dir
from harness.images.storage import kinds, padding
from harness.images.storage.seam import Driver

COLUMNS = ("prepare", "mount", "ready", "unmount", "remove")
TARGET_NS = 5_000_000
_FILES, _FILE_BYTES = 2000, 4096


def make_tree(root: Path) -> Path:
    for number in range(_FILES):
        directory = root / f"{number % 40:02}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(b"x" * _FILE_BYTES)
    return root


def stacked(name: str, base: Path, token: str, layers: Sequence[Path]) -> Driver:
    """Return a driver with the layers in it, named by their numbers."""
    driver = kinds.open_driver(name, base, token)
    for number, layer in enumerate(layers):
        driver.add(str(number), str(number - 1) if number else None, layer)
    return driver


def once(driver: Driver, top: str, key: str) -> dict[str, int]:
    """Return the ns of each step; `ready` is both steps and the first read."""
    times = [time.monotonic_ns()]
    driver.prepare(key, top)
    times.append(time.monotonic_ns())
    fd = driver.mount(key).fd
    times.append(time.monotonic_ns())
    Path(f"/proc/self/fd/{fd}/00/0").read_bytes()
    ready_ns = time.monotonic_ns() - times[0]
    begin_ns = time.monotonic_ns()
    os.close(fd)
    unmounted_ns = time.monotonic_ns()
    driver.remove(key)
    removed_ns = time.monotonic_ns()
    steps = (times[1] - times[0], times[2] - times[1], ready_ns, unmounted_ns - begin_ns, removed_ns - unmounted_ns)
    return dict(zip(COLUMNS, steps, strict=True))


def measure(names: Sequence[str], depth: int, rounds: int) -> dict[str, list[dict[str, int]]]:
    """Return the samples of every driver that works here; the others are named on stderr. One round warms up."""
    base, token = data_dir(), secrets.token_hex(4)
    with ExitStack() as stack:
        stack.callback(kinds.release, base, token)
        place = kinds.home(base, token) / "layers"
        stack.callback(lambda: _remove(place))
        tree = make_tree(place / "tree")
        layers = [tree, *padding.pad(tree, depth - 1, place)]
        drivers = {}
        for name in names:
            found = kinds.available(name, base)
            if not found.available:
                print(f"{name}: left out: {found.reason}", file=sys.stderr)
                continue
            drivers[name] = stacked(name, base, token, layers)
            stack.callback(drivers[name].close)
        samples: dict[str, list[dict[str, int]]] = {name: [] for name in drivers}
        for number in range(rounds + 1):
            for name in random.sample([*drivers], len(drivers)):
                sample = once(drivers[name], str(depth - 1), f"round-{number}")
                if number:
                    samples[name].append(sample)
    return samples


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)


def cell(values_ns: Sequence[int]) -> str:
    deciles = statistics.quantiles(values_ns, n=10, method="inclusive")
    median, low, high = (value / 1e6 for value in (statistics.median(values_ns), deciles[0], deciles[-1]))
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--drivers", default=",".join(kinds.KINDS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    samples = measure(given.drivers.split(","), given.depth, given.rounds)
    if given.json:
        print(json.dumps({"schema": "harness.bench.storage_prepare/1", "depth": given.depth, "samples": samples}))
        return 0
    print(f"depth {given.depth}, {given.rounds} rounds; median (p10-p90) in ms; ready: prepared, mounted, a first read")
    print(f"{'driver':16}" + "".join(f"{name:>24}" for name in COLUMNS))
    for name, rows in samples.items():
        print(f"{name:16}" + "".join(f"{cell([row[column] for row in rows]):>24}" for column in COLUMNS))
    if "overlay" in samples:
        both = statistics.median(row["prepare"] + row["mount"] for row in samples["overlay"])
        print(f"overlay: prepare and mount {both / 1e6:.2f} ms: target {TARGET_NS / 1e6:.0f} ms "
              f"{'met' if both < TARGET_NS else 'missed'}")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
