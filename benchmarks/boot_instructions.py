"""Is 1 % of added guest work found by the count of instructions, on a machine that is busy with something else?

    .venv/bin/python -m benchmarks.boot_instructions [--runs 20] [--added 1] [--idle] [--json]

Guests whose instructions are counted (`icount: true`) boot to ready in random order: some as the base, some with a
known amount of work added to the workload. Each single boot is one run of a CI job, held against the median of the
first boots of the base: a difference above half of what was added is a find. Foreign load: one busy process a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from benchmarks._guest import deadline_ns, prepared_all
from harness.backends.libvirt import LibvirtArm
from harness.model.milestones import READY
from harness.model.spec import Limits, WorkloadSpec

BASELINE_BOOTS = 5
BASE_STEPS, PROBE_STEPS = 1_000, 2_000_000
"""Steps of arithmetic: what the base does, and with how many more it is found out what a step takes."""
OPTIONS = {"accel": "tcg", "icount": True}


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it. Counts are instructions from the guest's first one to ready."""

    runs: int
    baseline: float
    added: float
    base_counts: tuple[int, ...]
    changed_counts: tuple[int, ...]
    caught: int
    false_alarms: int

    @property
    def spread_ratio(self) -> float:
        """The range of the base's counts by their median."""
        return (max(self.base_counts) - min(self.base_counts)) / statistics.median(self.base_counts)


@contextmanager
def foreign_load(*, on: bool) -> Iterator[None]:
    """Keep every CPU busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1) if on]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def work(steps: int) -> WorkloadSpec:
    return WorkloadSpec(("harness:workbench", f"integer={steps}"), {"PATH": "/bin"}, timeout_ns=180 * 10**9)


def count(arm: LibvirtArm, trial: str) -> int:
    """Return the instructions of one boot."""
    guest = arm.launch(trial)
    try:
        found = guest.wait(READY, deadline_ns()).instructions
    finally:
        guest.stop(deadline_ns())
    assert found is not None
    return found


def instructions_a_step() -> float:
    """Return what one step of the added work takes, from two boots."""
    works = {"few": work(BASE_STEPS), "many": work(PROBE_STEPS)}
    with prepared_all(dict.fromkeys(works, OPTIONS), Limits(), works) as (arms, _):
        few, many = count(arms["few"], "few"), count(arms["many"], "many")
    return (many - few) / (PROBE_STEPS - BASE_STEPS)


def measure(runs: int, added_percent: float, *, load: bool) -> Found:
    a_step = instructions_a_step()
    with prepared_all({"base": OPTIONS}, Limits(), {"base": work(BASE_STEPS)}) as (arms, _):
        boot = count(arms["base"], "size")
    steps = round(boot * added_percent / 100 / a_step)
    works = {"base": work(BASE_STEPS), "changed": work(BASE_STEPS + steps)}
    order = ["base", "changed"] * runs
    random.Random(1).shuffle(order)
    counts: dict[str, list[int]] = {"base": [], "changed": []}
    with prepared_all(dict.fromkeys(works, OPTIONS), Limits(), works) as (arms, _), foreign_load(on=load):
        first = [count(arms["base"], f"first{number}") for number in range(BASELINE_BOOTS)]
        baseline = statistics.median(first)
        print(f"first boots of the base: {first}", file=sys.stderr, flush=True)
        for number, name in enumerate(order):
            counts[name].append(count(arms[name], f"t{number}"))
            print(f"{number + 1}/{len(order)} {name} {counts[name][-1]}", file=sys.stderr, flush=True)
    return judge(baseline, steps * a_step, counts["base"], counts["changed"])


def judge(baseline: float, added: float, base: Sequence[int], changed: Sequence[int]) -> Found:
    threshold = baseline + added / 2
    return Found(
        runs=len(changed),
        baseline=baseline,
        added=added,
        base_counts=tuple(base),
        changed_counts=tuple(changed),
        caught=sum(found > threshold for found in changed),
        false_alarms=sum(found > threshold for found in base),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of the base, and as many with added work")
    parser.add_argument("--added", type=float, default=1.0, metavar="PERCENT")
    parser.add_argument("--idle", action="store_true", help="without foreign load")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.runs, options.added, load=not options.idle)
    if options.json:
        print(json.dumps({**asdict(found), "spread_ratio": found.spread_ratio}))
        return
    print(f"boot.instructions to ready, {found.baseline / 1e6:.2f} M (median of {BASELINE_BOOTS}), load "
          f"{'none of ours' if options.idle else f'{os.cpu_count()} busy processes'}")  # fmt: skip
    print(f"  spread of {found.runs} boots alike: {found.spread_ratio:.3%}")
    print(f"  {found.added / found.baseline:.2%} added: caught in {found.caught} of {found.runs}")
    print(f"  nothing added: an alarm in {found.false_alarms} of {found.runs}")


if __name__ == "__main__":
    main()
