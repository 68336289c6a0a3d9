"""How quickly a mark leaves a guest: the debug port or a virtio-serial port.

    .venv/bin/python -m benchmarks.marker_channels [--marks 60] [--machine q35] [--json]

One guest sends the same marks through each channel in turn (ten rounds), pausing between them as real marks do. `write`
is what sending costs the guest, on its own clock. `delivery` is from the guest's stamp to the host's; the two clocks
differ by an unknown constant, the same for both channels of one boot, so it is shown above the quickest mark of either.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

from benchmarks._guest import deadline_ns, prepared, ready_ns
from harness.agent.marks import MarkParser
from harness.backends._guest import Guest
from harness.model.milestones import Mark

CHANNELS = {"marks": "debug port 0xe9", "control": "virtio-serial port"}


def quantile(values: list[int], share: float) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))])


def through_control(guest: Guest, count: int) -> list[Mark]:
    """Return the marks that come through the control channel, read and stamped as the marks channel's are."""
    channel = guest.session.control()
    parser = MarkParser()
    marks: list[Mark] = []
    channel.settimeout(60)
    channel.sendall(f"calibrate {count} control\n".encode())
    while not bytes(parser.console).startswith(b"OK 0"):
        chunk = channel.recv(65536)
        marks += parser.feed(chunk, time.monotonic_ns())
    return marks


def delays_ns(marks: Sequence[Mark]) -> list[int]:
    return [mark.at_ns - mark.inside_ns for mark in marks if mark.milestone == "cal" and mark.inside_ns is not None]


def measure(guest: Guest, count: int) -> dict[str, dict[str, list[int]]]:
    """Alternate between the channels in ten rounds, so that the host's noise falls on both."""
    raw: dict[str, dict[str, list[int]]] = {name: {"delay_ns": [], "write_ns": []} for name in CHANNELS}
    for _round in range(10):
        sent = guest.calibrate(count // 10)
        raw["marks"]["delay_ns"] += delays_ns(sent)
        raw["marks"]["write_ns"] += [int(mark.detail) for mark in sent if mark.milestone == "took"]
        before = len(guest.session.calibration)
        raw["control"]["delay_ns"] += delays_ns(through_control(guest, count // 10))
        raw["control"]["write_ns"] += [int(mark.detail) for mark in guest.session.calibration[before:]]
    return raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marks", type=int, default=60)
    parser.add_argument("--machine", choices=["q35", "pc", "microvm"], default="q35")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with prepared(options.machine) as (arm, _context):
        guest = arm.launch("channels")
        try:
            ready_ns(guest)
            guest.inside()  # opens the console
            raw = measure(guest, options.marks)
        finally:
            guest.stop(deadline_ns())
    base = min(min(values["delay_ns"]) for values in raw.values())
    if options.json:
        print(json.dumps({"machine": options.machine, "base_ns": base, "channels": raw}))
        return
    print(f"{options.machine}, {options.marks} marks a channel; µs")
    print(f"  {'channel':22} {'write p50':>10} {'delivery p50':>13} {'p90':>8} {'max':>8}")
    for channel, label in CHANNELS.items():
        delays = [value - base for value in raw[channel]["delay_ns"]]
        print(
            f"  {label:22} {statistics.median(raw[channel]['write_ns']) / 1e3:10.1f} "
            f"{statistics.median(delays) / 1e3:13.1f} {quantile(delays, 0.9) / 1e3:8.1f} {max(delays) / 1e3:8.1f}"
        )


if __name__ == "__main__":
    main()
