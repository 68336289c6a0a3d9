"""How long a guest takes to end and to begin again: stop, kill, reboot, and until nothing of it is left.

    .venv/bin/python -m benchmarks.vm_lifecycle [--blocks 10] [--only q35,microvm] [--json]

    stop     the agent is asked to end: request to the end of QEMU
    kill     libvirt's destroy: request to the end of QEMU
    reboot   the machine's reset button: request to `exec` of the workload, in the same QEMU
    delete   the end of QEMU until sockets, cgroup and disks are gone

`boot: disk` profiles are stopped as `poweroff` does it, and so are slower.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import time
from dataclasses import replace

from benchmarks._guest import deadline_ns, prepared_all, ready_ns
from harness.backends._guest import Guest
from harness.backends.libvirt import LibvirtArm
from harness.errors import HarnessError, TrialError
from harness.model.milestones import DELETED, EXEC, STOPPING

PROFILES: dict[str, dict[str, object]] = {
    "q35": {"machine": "q35"},
    "pc": {"machine": "pc"},
    "microvm": {"machine": "microvm"},
    "stock": {"boot": "disk", "memory": "512MiB"},
}
WAYS = ("stop", "kill", "reboot", "delete")


def ended_ns(guest: Guest, start_ns: int) -> int:
    """Return the time from `start_ns` to the end of QEMU, ns."""
    while not guest.has_ended():
        if time.monotonic_ns() > start_ns + 120 * 10**9:
            raise SystemExit("error: QEMU did not end")
        time.sleep(0.0005)
    return time.monotonic_ns() - start_ns


def stop(arm: LibvirtArm, name: str) -> dict[str, int]:
    """Return the times of a guest that is asked to end."""
    guest = arm.launch(name)
    try:
        ready_ns(guest)
    finally:
        guest.stop(deadline_ns())
    at_ns = {mark.milestone: mark.at_ns for mark in guest.marks}
    gone_ns = guest.gone_ns
    assert gone_ns is not None
    return {"stop": gone_ns - at_ns[STOPPING], "delete": at_ns[DELETED] - gone_ns}


def drop(guest: Guest) -> None:
    """Remove what is left of a guest; its agent is not asked, or is not there any more."""
    with contextlib.suppress(TrialError):
        guest.stop(time.monotonic_ns())


def kill(arm: LibvirtArm, name: str) -> dict[str, int]:
    """Return the time of a guest that is ended at once."""
    guest = arm.launch(name)
    try:
        ready_ns(guest)
        start_ns = time.monotonic_ns()
        guest.end()
        return {"kill": ended_ns(guest, start_ns)}
    finally:
        drop(guest)


def reboot(arm: LibvirtArm, name: str) -> dict[str, int]:
    """Return the time until the workload runs again in a machine that is reset."""
    guest = arm.launch(name)
    try:
        ready_ns(guest)
        del guest.session.marks[1:]  # all but `requested`: they are expected once more
        start_ns = time.monotonic_ns()
        guest.reset()
        return {"reboot": guest.wait(EXEC, deadline_ns()).at_ns - start_ns}
    finally:
        drop(guest)


def measure(arms: dict[str, LibvirtArm], blocks: int) -> dict[str, dict[str, list[int]]]:
    """Return profile -> way -> times, ns; every profile ends in each way once a block, in random order."""
    times: dict[str, dict[str, list[int]]] = {name: {way: [] for way in WAYS} for name in arms}
    for arm in arms.values():
        arm._template = replace(arm._template, restarts=True)
    for block in range(blocks):
        for name in random.Random(block).sample(sorted(arms), len(arms)):
            for way in (stop, kill, reboot):
                for key, took_ns in way(arms[name], f"{block}-{name}-{way.__name__}").items():
                    times[name][key].append(took_ns)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--only", default="q35,pc,microvm")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with prepared_all({name: PROFILES[name] for name in arguments.only.split(",")}) as (arms, _context):
        times = measure(arms, arguments.blocks)
    if arguments.json:
        print(json.dumps(times))
        return
    for name, ways in times.items():
        cells = [f"{way} {statistics.median(values) / 1e6:7.1f}" for way, values in ways.items()]
        print(f"  {name:10} median ms: {'   '.join(cells)}")


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from error
