"""How disturbed this host was during a trial: CPU time stolen by the hypervisor, waiting for CPUs, load.

Read before and after a trial from three files of /proc, with no other import: well below a millisecond. A noisy trial
is flagged, shown and counted, never dropped: dropping by outcome would bias the result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.model.records import Noise

STEAL = "steal"
CPU_PRESSURE = "cpu-pressure"
LOAD = "load"

# A virtual machine on an idle host sees far below 1 %; above, the neighbours decide what is measured.
STEAL_RATIO_MAX = 0.01
# /proc/stat counts ticks of 10 ms: one tick in a trial of 100 ms is rounding, not 10 % of steal.
STEAL_TICKS_MIN = 2
# The trial itself counts into the pressure: agent, VMM threads and workload wait for each other. On a host of two
# CPUs without other load, trials reach 8 %; with one busy process for each CPU it is 40 % and more.
PSI_CPU_SOME_RATIO_MAX = 0.10
# Runnable threads for each CPU over the last minute, before the trial. Our own trials leave about one in all.
LOAD_PER_CPU_MAX = 1.5

REMEDIES: Mapping[str, str] = {
    STEAL: "the hypervisor gives this host's CPUs to others: use a dedicated or bare-metal host, or more blocks",
    CPU_PRESSURE: "other processes want the CPUs: end them, run at a quiet time, or take more blocks",
    LOAD: "the host was busy before the trial: wait until the load has gone",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading. Ticks are summed over all CPUs; None where this kernel does not tell."""

    at_ns: int
    steal_ticks: int | None
    total_ticks: int | None
    psi_cpu_some_us: int | None
    load1: float | None


def _read(path: Path, size_bytes: int) -> str:
    """Return the beginning of a file of /proc; empty where it is missing (PSI can be switched off at boot)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, size_bytes).decode("ascii", "replace")
    except OSError:  # EOPNOTSUPP: psi=0 on the kernel's command line
        return ""
    finally:
        os.close(fd)


def parse_stat(text: str) -> tuple[int, int] | None:
    """Return (steal, total) ticks of the first line of /proc/stat.

    Source: proc_stat(5). `guest` and `guest_nice` are parts of `user` and `nice`, so the first eight fields are all.
    """
    fields = text.partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    ticks = [int(field) for field in fields[1:9]]
    return ticks[7], sum(ticks)


def parse_psi_some_us(text: str) -> int | None:
    """Return the total of the `some` line of a /proc/pressure file, in µs.

    The total sees short spikes that the averages of 10 s and more hide. Source: Documentation/accounting/psi.rst.
    """
    for line in text.splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2])
    return None


def read_sample(proc: Path = Path("/proc")) -> Sample:
    stat = parse_stat(_read(proc / "stat", 512))
    load = _read(proc / "loadavg", 64).split()
    return Sample(
        at_ns=time.monotonic_ns(),
        steal_ticks=stat[0] if stat else None,
        total_ticks=stat[1] if stat else None,
        psi_cpu_some_us=parse_psi_some_us(_read(proc / "pressure" / "cpu", 256)),
        load1=float(load[0]) if load else None,
    )


def noise_between(before: Sample, after: Sample, cpu_count: int, own: frozenset[str] = frozenset()) -> Noise:
    """Return what disturbed the time between two samples, as shares of it.

    What a trial makes on purpose (`own`) is no disturbance: its share is told, its flag is not raised.
    """
    wall_ns = after.at_ns - before.at_ns
    flags = []
    steal = _steal(before, after)
    if steal is not None and steal[0] >= STEAL_TICKS_MIN and steal[1] > STEAL_RATIO_MAX:
        flags.append(STEAL)
    psi_ratio = None
    if before.psi_cpu_some_us is not None and after.psi_cpu_some_us is not None and wall_ns > 0:
        psi_ratio = (after.psi_cpu_some_us - before.psi_cpu_some_us) * 1000 / wall_ns
        if psi_ratio > PSI_CPU_SOME_RATIO_MAX:
            flags.append(CPU_PRESSURE)
    if before.load1 is not None and before.load1 > LOAD_PER_CPU_MAX * cpu_count:
        flags.append(LOAD)
    return Noise(steal[1] if steal else None, psi_ratio, tuple(flag for flag in flags if flag not in own))


def _steal(before: Sample, after: Sample) -> tuple[int, float] | None:
    """Return stolen ticks and their share; None where the kernel does not tell, or no tick has passed."""
    if before.steal_ticks is None or after.steal_ticks is None:
        return None
    assert before.total_ticks is not None
    assert after.total_ticks is not None
    total = after.total_ticks - before.total_ticks
    stolen = after.steal_ticks - before.steal_ticks
    return (stolen, stolen / total) if total > 0 else None


class Sampler:
    """Takes the first sample when made, the second on `finish`: around one trial, outside its timed path."""

    def __init__(self, proc: Path = Path("/proc"), own: frozenset[str] = frozenset()) -> None:
        self._proc = proc
        self._own = own
        self._cpu_count = os.cpu_count() or 1
        self._before = read_sample(proc)

    def finish(self) -> Noise:
        return noise_between(self._before, read_sample(self._proc), self._cpu_count, self._own)
