"""What each machine profile, or each lever alone, is worth: starts to `exec`, interleaved, as ratios to the plain one.

    .venv/bin/python -m benchmarks.vm_profiles [--blocks 10] [--only plain,fastest] [--levers] [--json]

`plain` is a q35 with SeaBIOS that boots the distribution's own bzImage; `fastest` what is fastest emulated. All have
the same initramfs, image and workload. With `--levers` each lever is moved alone, away from `base` (the default).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from dataclasses import asdict

from benchmarks._guest import deadline_ns, prepared_all, reached_ns, ready_ns
from harness.analysis.statistics import paired_ratio
from harness.backends.libvirt import LibvirtArm
from harness.errors import HarnessError
from harness.model.milestones import EXEC

PLAIN = {"machine": "q35", "boot": "bzimage", "crypto_tests": True, "fast_start": False}
FASTEST = {"machine": "microvm", "legacy_timers": False}
PROFILES: dict[str, dict[str, object]] = {
    "plain": PLAIN,
    "plain-fast-start": {**PLAIN, "fast_start": True},
    "q35": {"machine": "q35"},
    "q35-qboot": {"machine": "q35", "firmware": "qboot"},
    "pc": {"machine": "pc"},
    "pc-qboot": {"machine": "pc", "firmware": "qboot"},
    "microvm": {"machine": "microvm"},
    "fastest": FASTEST,
}
LEVERS: dict[str, dict[str, object]] = {
    "base": {},
    "base-again": {},
    "boot": {"boot": "bzimage"},
    "firmware": {"firmware": "qboot"},
    "crypto_tests": {"crypto_tests": True},
    "fast_start": {"fast_start": False},
    "console": {"console": "serial"},
    "initramfs-gzip": {"initramfs": "gzip"},
    "initramfs-zstd": {"initramfs": "zstd"},
    "extra_modules": {"extra_modules": ["btrfs"]},
    "cpu-max": {"cpu": "max"},
    "vcpus-2": {"vcpus": 2},
    "memory-1GiB": {"memory": "1GiB"},
    "prealloc": {"prealloc": True},
    "tcg_cache": {"tcg_cache": "32MiB"},
    "disk_bus-scsi": {"disk_bus": "scsi"},
    "disk_cache-none": {"disk_cache": "none"},
    "disk_io-native": {"disk_cache": "none", "disk_io": "native"},
}


def run_blocks(arms: dict[str, LibvirtArm], blocks: int) -> dict[str, list[int]]:
    """Start every arm once a block, in random order; return request to exec, ns."""
    times: dict[str, list[int]] = {name: [] for name in arms}
    for block in range(blocks):
        for name in random.Random(block).sample(sorted(arms), len(arms)):
            guest = arms[name].launch(f"{block}-{name}")
            try:
                times[name].append(reached_ns(guest, EXEC))
                ready_ns(guest)
            finally:
                guest.stop(deadline_ns())
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--accel", choices=["auto", "kvm", "tcg"], default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    known = LEVERS if arguments.levers else PROFILES
    names = arguments.only.split(",") if arguments.only else [*known]
    with prepared_all({name: {**known[name], "accel": arguments.accel} for name in names}) as (arms, _context):
        times = run_blocks(arms, arguments.blocks)
        accelerator = arms[names[0]].accelerator
    base = times[names[0]]
    ratios = {name: paired_ratio([own / first for own, first in zip(values, base, strict=True)])
              for name, values in times.items() if name != names[0]}  # fmt: skip
    if arguments.json:
        shown = {name: asdict(ratio) for name, ratio in ratios.items()}
        print(json.dumps({"accelerator": accelerator, "times_ns": times, "ratios": shown}))
        return
    print(f"accelerator {accelerator}, {arguments.blocks} blocks, request to exec; ratios to {names[0]}")
    for name, values in times.items():
        row = f"  {name:18} median {statistics.median(values) / 1e6:7.0f} ms   min {min(values) / 1e6:7.0f}"
        if name in ratios:
            ratio = ratios[name]
            row += f"   {ratio.value:.3f}" + (f" [{ratio.lo:.3f} - {ratio.hi:.3f}]" if ratio.lo and ratio.hi else "")
        print(row)


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from error
