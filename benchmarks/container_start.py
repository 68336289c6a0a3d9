"""How quickly a container starts, and is gone again: the built-in runtime beside crun, runc, docker and podman.

    .venv/bin/python -m benchmarks.container_start [--starts 200] [--gap 0,10ms,50ms] [--resident small,1GiB]
        [--runtimes floor,process,builtin,builtin-procs,harness-oci,crun,runc,bwrap] [--engines docker,podman] [--json]

Every row starts the same static program over an overlay of the same tree, with namespaces of its own for mounts, pids,
network, host name, IPC and cgroups, limits of memory, CPU and pids, 14 capabilities, no_new_privs, the same masked and
read-only paths and the same seccomp rules (bwrap alone has no cgroup, masks or filter). `floor` is posix_spawn of that
program with nothing around it; `process` has the launcher and the group; `builtin-procs` joins its cgroups through
`cgroup.procs`, as the others do, instead of `tasks` and CLONE_INTO_CGROUP; `harness-oci` is our own command line.

Each block starts every row once, in random order, each after the idle gap: without one, the kernel's waits for RCU are
hidden. Gaps and sizes of this process alternate every few blocks. Engines, being slow, are a section of their own.
For crun and runc the overlay mount, which an engine would make, is part of the time, and the column `prepare` shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from benchmarks import _figures
from benchmarks._engines import Docker, Podman
from benchmarks._oci import Bubblewrap, CommandLine, find, harness_oci, version
from benchmarks._rows import Control, Floor, Launched
from benchmarks._same import LIMITS, Place, Row, Sample, place
from harness.container import cgroups
from harness.model.units import parse_duration_ns, parse_size_bytes

RUNTIMES = ("floor", "process", "builtin", "builtin-procs", "harness-oci", "crun", "runc", "bwrap")
ENGINES = ("docker", "podman")
PROGRAMS = {"harness-oci": harness_oci(), "crun": ["crun"], "runc": ["runc"], "bwrap": ["bwrap"], "docker": ["docker"],
            "podman": ["podman"]}  # fmt: skip
_TURN = 10
"""Blocks before the next condition has its turn."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a table is about."""

    gap: str
    resident: str

    @property
    def gap_s(self) -> float:
        return 0.0 if self.gap == "0" else parse_duration_ns(self.gap) / 1e9

    @property
    def resident_bytes(self) -> int:
        return 0 if self.resident == "small" else parse_size_bytes(self.resident)

    def __str__(self) -> str:
        return f"gap {self.gap}, parent {self.resident}"


Results = dict[Condition, dict[str, list[Sample]]]


def make(name: str, where: Place) -> Row:
    """Return a row by its name."""
    makers: dict[str, Callable[[], Row]] = {
        "floor": lambda: Floor(where),
        "process": lambda: Control(name, where),
        "builtin": lambda: Launched(name, where),
        "builtin-procs": lambda: Launched(name, where, "procs"),
        "bwrap": lambda: Bubblewrap(name, [find("bwrap")], where),
        "docker": lambda: Docker(where),
        "podman": lambda: Podman(where),
    }
    if name in makers:
        return makers[name]()
    return CommandLine(name, [find(PROGRAMS[name][0])], where, v1_only=name != "harness-oci")


def measure(rows: Sequence[Row], conditions: Sequence[Condition], starts: int, label: str) -> Results:
    """Return the samples of every row under every condition; the first block of each turn does not count."""
    results: Results = {condition: {row.name: [] for row in rows} for condition in conditions}
    number, total = 0, starts * len(conditions)
    for begin in range(0, starts, _TURN):
        for condition in random.sample(conditions, len(conditions)):
            memory = bytearray(b"\1") * condition.resident_bytes
            for block in range(-1, min(_TURN, starts - begin)):
                for row in random.sample(rows, len(rows)):
                    time.sleep(condition.gap_s)
                    number += 1
                    sample = row.start(number)
                    if block >= 0:
                        results[condition][row.name].append(sample)
            del memory
            _progress(label, sum(len(next(iter(by_row.values()))) for by_row in results.values()), total)
    return results


def _progress(label: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{label}: {done} of {total} blocks", end="\n" if done == total else "", file=sys.stderr, flush=True)


def section(names: Sequence[str], conditions: Sequence[Condition], starts: int, where: Place) -> Results:
    """Make the rows that are here, measure them, remove them."""
    with ExitStack() as stack:
        rows = []
        for name in names:
            if name in PROGRAMS and version(PROGRAMS[name]) is None:
                print(f"{name}: left out: not installed", file=sys.stderr)
                continue
            row = make(name, where)
            stack.callback(row.close)
            rows.append(row)
        return measure(rows, conditions, starts, ", ".join(row.name for row in rows))


def traced(starts: int, where: Place) -> tuple[list[str], list[Sample]]:
    """Return the steps of the built-in container and samples with the time of each."""
    row = Launched("builtin-traced", where, trace=True)
    try:
        condition = Condition("10ms", "small")
        samples = measure([row], [condition], starts, "where the time goes")[condition][row.name]
        return [str(step) for step in row.steps], samples
    finally:
        row.close()


def facts(runtimes: Sequence[str]) -> dict[str, object]:
    """Return what the figures depend on."""
    layout = cgroups.detect()
    joins = layout.joins
    fast = [word for word, used in (("tasks", joins.tasks), ("CLONE_INTO_CGROUP", joins.unified)) if used]
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "cgroup_mode": layout.mode,
        "cgroup_join": {"builtin": fast, "builtin-procs": ["cgroup.procs"]},
        "limits": asdict(LIMITS),
        "versions": {name: version(PROGRAMS[name]) for name in runtimes if name in PROGRAMS},
        "load": os.getloadavg(),
    }


def show(results: Results) -> None:
    for condition, samples in results.items():
        count = len(next(iter(samples.values())))
        print(f"\n== {condition}: medians (p10-p90) of {count} interleaved starts ==\n{_figures.table(samples)}\n")
        print(_figures.ratio_table(samples))
    for large in (condition for condition in results if condition.resident != "small"):
        small = Condition(large.gap, "small")
        if small in results and "builtin" in results[small]:
            print(f"\n{_figures.resident_line(results[small], results[large], large.gap)}")


def document(sections: Sequence[Results], about: dict[str, object]) -> str:
    """Return the versioned document of `--json`, with every sample."""
    tables = [
        {
            "gap_ns": round(condition.gap_s * 1e9),
            "resident_bytes": condition.resident_bytes,
            "samples": {name: [asdict(sample) for sample in row] for name, row in samples.items()},
            "ratios": [
                {key: asdict(value) if isinstance(value, _figures.Ratio) else value for key, value in row.items()}
                for row in _figures.ratios(samples)
            ],
        }
        for results in sections
        for condition, samples in results.items()
    ]
    return json.dumps({"schema": "harness.benchmark.container_start/2", "facts": about, "tables": tables})


def arguments() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=200, help="of each row under each condition")
    parser.add_argument("--gap", type=words, default=["10ms"], help="idle times before each start: 0,10ms,50ms")
    parser.add_argument("--resident", type=words, default=["small"], help="memory of this process: small,1GiB")
    parser.add_argument("--runtimes", type=words, default=list(RUNTIMES), help=", ".join(RUNTIMES))
    parser.add_argument("--engines", type=words, default=[], help=", ".join(ENGINES))
    parser.add_argument("--engine-starts", type=int, default=40)
    parser.add_argument("--traced", type=int, default=0, help="starts of which every step's time is shown")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    unknown = {*options.runtimes, *options.engines} - {*RUNTIMES, *ENGINES}
    if unknown or options.starts < 2 or "builtin" not in options.runtimes:
        parser.error(f"unknown: {', '.join(unknown)}" if unknown else "at least 2 starts, and `builtin` among the rows")
    return options


def main() -> None:
    options = arguments()
    conditions = [Condition(gap, resident) for gap in options.gap for resident in options.resident]
    about = facts([*options.runtimes, *options.engines])
    with place() as where:
        found = [section(options.runtimes, conditions, options.starts, where)]
        steps = traced(options.traced, where) if options.traced else None
    if options.engines:
        with place() as where:
            at_once = [Condition("10ms", "small")]
            found.append(section(["floor", "builtin", *options.engines], at_once, options.engine_starts, where))
    if options.json:
        print(document(found, about))
        return
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    for results in found:
        show(results)
    if steps:
        print(f"\n== where the time of a start goes: medians of {options.traced} ==\n{_figures.step_table(*steps)}")


if __name__ == "__main__":
    main()
