"""What libvirt and the harness add to a VM's start: the same QEMU command line, through both, interleaved.

    .venv/bin/python -m benchmarks.vm_start [--blocks 10] [--machine q35] [--json]

Both sides count from the request to the mark `ready`. The direct side starts the very command line that libvirt gave
to QEMU, without what only libvirt needs (its monitor, its secret, its pause before the first instruction).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import statistics
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks._guest import deadline_ns, prepared, ready_ns
from harness.analysis.statistics import paired_ratio
from harness.backends import _metering
from harness.backends._guest import Guest
from harness.backends.libvirt import LibvirtArm
from harness.interfaces import RunContext

# Options with one value that serve only the connection between libvirt and QEMU.
LIBVIRT_ONLY = ("charmonitor", "masterKey0", "mon=charmonitor")


def direct_argv(libvirt_argv: list[str]) -> list[str]:
    """Return the command line without libvirt's own plumbing."""
    argv = [word for word in libvirt_argv if word not in {"-S", "-no-shutdown"}]
    kept: list[str] = argv[:1]
    index = 1
    while index < len(argv):
        value = argv[index + 1] if index + 1 < len(argv) and not argv[index + 1].startswith("-") else None
        if value is None or not any(mark in value for mark in LIBVIRT_ONLY):
            kept += argv[index : index + (1 if value is None else 2)]
        index += 1 if value is None else 2
    return kept


class DirectGuest(Guest):
    """The same guest, its QEMU started by this process."""

    argv: list[str]

    def create(self) -> None:
        argv = [word.replace("@SOCKETS@", str(self.spec.sockets)) for word in self.argv]
        null = os.open(os.devnull, os.O_RDWR)
        os.posix_spawn(
            argv[0], argv, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        )
        os.close(null)

    def end(self) -> None:
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(10_000):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                poll.poll(10_000)

    def paused(self) -> None:
        return None

    def forgotten(self) -> bool:
        return True


def cmdline_of(arm: LibvirtArm) -> list[str]:
    """Start one guest through libvirt and read the command line that QEMU was given."""
    guest = arm.launch("command-line")
    try:
        ready_ns(guest)
        text = Path(f"/proc/{guest.pids()[0]}/cmdline").read_bytes()
        sockets = str(guest.spec.sockets)
    finally:
        guest.stop(deadline_ns())
    return [word.decode().replace(sockets, "@SOCKETS@") for word in text.split(b"\0")[:-1]]


def run_blocks(arm: LibvirtArm, context: RunContext, blocks: int) -> dict[str, list[int]]:
    argv = direct_argv(cmdline_of(arm))
    times: dict[str, list[int]] = {"libvirt": [], "direct": []}
    for block in range(blocks):
        for kind in random.Random(block).sample(sorted(times), 2):
            guest: Guest
            if kind == "libvirt":
                guest = arm.launch(f"{kind}-{block}")
            else:
                sockets = context.scratch / f"direct-{block}"
                spec = replace(arm.template, name=f"direct-{block}", sockets=sockets)
                direct = DirectGuest(None, spec, _metering.Meter(context.token, f"direct-{block}"))
                direct.argv = argv
                direct.start()
                guest = direct
            times[kind].append(ready_ns(guest))
            guest.stop(deadline_ns())
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--machine", choices=["q35", "pc", "microvm"], default="q35")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with prepared(options.machine) as (arm, context):
        times = run_blocks(arm, context, options.blocks)
        accelerator = arm.accelerator
    ratios = [through / direct for through, direct in zip(times["libvirt"], times["direct"], strict=True)]
    ratio = paired_ratio(ratios)
    if options.json:
        print(
            json.dumps(
                {"machine": options.machine, "accelerator": accelerator, "times_ns": times, "ratio": asdict(ratio)}
            )
        )
        return
    print(f"{options.machine}, accelerator {accelerator}, {options.blocks} blocks, request to ready")
    for kind, values in times.items():
        print(f"  {kind:8} median {statistics.median(values) / 1e6:8.1f} ms   min {min(values) / 1e6:8.1f}")
    interval = f"[{ratio.lo:.3f} - {ratio.hi:.3f}]" if ratio.lo and ratio.hi else "(fewer than 6 blocks: no interval)"
    print(f"  libvirt / direct, paired: {ratio.value:.3f} {interval}")


if __name__ == "__main__":
    main()
