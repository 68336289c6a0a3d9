"""Are the figures of other runtimes right? The harness's starts beside the same commands timed without it, interleaved.

    .venv/bin/python -m benchmarks.peer_starts [--blocks 40] [--gap 10ms] [--runtimes crun,runc,docker,podman]
        [--json]

Both sides start a static program over the same tree, with the same limits, and count from the request until the
container's first process runs. The plain side is `crun run`, `runc run`, `bwrap`, `docker run --rm`, `podman run --rm`
as a shell would call them, where that process reads the clock itself; on the harness's side it is the agent, and its
mark `init`. Agreement means a ratio within 10 % of 1. `program` is the same program started by the agent: what that
costs the harness's figures show as the way from `init` to `exec`. bwrap, named only on request, cannot agree: in
the harness it has a cgroup and a root that is mounted for it, without it has neither.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks._engines import Docker, Podman
from benchmarks._oci import Bubblewrap, CommandLine, find, version
from benchmarks._same import PROGRAM, SPEC_LIMITS, Place, Row, place
from harness import plugins
from harness.analysis.statistics import paired_ratio
from harness.host.paths import cache_dir
from harness.images.tree import root_digest
from harness.interfaces import Arm, ArmSpec, RunContext
from harness.model.milestones import INIT, READY, REQUESTED
from harness.model.spec import RootTree, WorkloadSpec
from harness.model.units import parse_duration_ns
from harness.trials import ownership

RUNTIMES = ("crun", "runc", "docker", "podman", "bwrap")
OPTIONS: dict[str, dict[str, Any]] = {"docker": {"via": "cli"}, "podman": {"runtime": "runc"}}
AGREED_RATIO = 0.10
_WAIT_NS = 60 * 10**9

Start = Callable[[int], int]
"""One start by its number; the time to the first process's first instructions, in ns."""


def plain(name: str, where: Place) -> Row:
    """Return the row of `container_start` that calls the runtime without the harness."""
    makers: dict[str, Callable[[], Row]] = {
        "bwrap": lambda: Bubblewrap(name, [find("bwrap")], where),
        "docker": lambda: Docker(where),
        "podman": lambda: Podman(where),
    }
    return makers[name]() if name in makers else CommandLine(name, [find(name)], where)


@contextmanager
def harnessed(name: str, where: Place, programs: list[int]) -> Iterator[Start]:
    """Yield what starts the same through the harness's backend; `programs` gets the program's own times."""
    backend, token = plugins.load("backends", name), secrets.token_hex(4)
    context = RunContext("peer-starts", token, ownership.claim(token, "peer-starts"), cache_dir())
    tree = RootTree(where.tree, root_digest(where.tree), 0)
    options = backend.options.model_validate(OPTIONS.get(name, {}))
    arm: Arm = backend.prepare(ArmSpec(name, tree, WorkloadSpec((PROGRAM,)), SPEC_LIMITS), options, context)

    def start(number: int) -> int:
        instance = arm.launch(f"t{number}")
        try:
            instance.wait(READY, time.monotonic_ns() + _WAIT_NS)
        finally:
            instance.stop(time.monotonic_ns() + _WAIT_NS)
        at_ns = {mark.milestone: mark.at_ns for mark in instance.marks}
        programs.append(int(instance.output()[0]) - at_ns[REQUESTED])
        return at_ns[INIT] - at_ns[REQUESTED]

    try:
        yield start
    finally:
        arm.close()
        ownership.reap(token, [backend], dry_run=False)


def measure(starts: dict[tuple[str, str], Start], blocks: int, gap_s: float) -> dict[tuple[str, str], list[int]]:
    """Return the times of every side of every runtime; each block has each once, in random order, the first not."""
    times: dict[tuple[str, str], list[int]] = {key: [] for key in starts}
    for block in range(-1, blocks):
        for key in random.sample(list(starts), len(starts)):
            time.sleep(gap_s)
            took_ns = starts[key](block + 1)
            if block >= 0:
                times[key].append(took_ns)
        if sys.stderr.isatty():
            print(f"\rblock {block + 1} of {blocks}", end="", file=sys.stderr, flush=True)
    return times


def rows(
    times: dict[tuple[str, str], list[int]], programs: dict[str, list[int]], runtimes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return medians and the paired ratio of each runtime, with its exact interval and whether the two sides agree."""
    found = []
    for name in runtimes:
        ours, theirs = times[name, "harness"], times[name, "plain"]
        ratio = paired_ratio([a / b for a, b in zip(ours, theirs, strict=True)])
        found.append(
            {
                "runtime": name,
                "harness_ns": statistics.median(ours),
                "plain_ns": statistics.median(theirs),
                "program_ns": statistics.median(programs[name][1:]),
                "ratio": ratio.value,
                "low": ratio.lo,
                "high": ratio.hi,
                "agrees": abs(ratio.value - 1) <= AGREED_RATIO,
            }
        )
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40, help="at least 6")
    parser.add_argument("--gap", default="10ms", help="idle time before each start")
    parser.add_argument("--runtimes", type=lambda text: text.split(","), default=list(RUNTIMES[:4]))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    unknown = set(options.runtimes) - set(RUNTIMES)
    if unknown or options.blocks < 6:
        parser.error(f"unknown: {', '.join(unknown)}" if unknown else "at least 6 blocks")
    return options


def main() -> None:
    options = arguments()
    here = [name for name in options.runtimes if version([name]) is not None]
    for name in set(options.runtimes) - set(here):
        print(f"{name}: left out: not installed", file=sys.stderr)
    with ExitStack() as stack:
        starts: dict[tuple[str, str], Start] = {}
        programs: dict[str, list[int]] = {name: [] for name in here}
        for name in here:
            where = stack.enter_context(place())
            row = plain(name, where)
            stack.callback(row.close)
            starts[name, "plain"] = lambda number, row=row: row.start(number).execed_ns  # type: ignore[misc]
            starts[name, "harness"] = stack.enter_context(harnessed(name, where, programs[name]))
        found = rows(measure(starts, options.blocks, parse_duration_ns(options.gap) / 1e9), programs, here)
    if options.json:
        print(json.dumps({"schema": "harness.benchmark.peer_starts/1", "blocks": options.blocks, "rows": found}))
        return
    print(f"request to the first process's first instruction, {options.blocks} interleaved blocks, gap {options.gap}")
    print(f"{'':10}{'harness':>12}{'plain':>12}{'program':>12}   harness / plain, paired")
    for row in found:
        word = "agrees" if row["agrees"] else "differs by more than 10 %"
        ratio = f"{row['ratio']:.3f} [{row['low']:.3f}-{row['high']:.3f}]"
        cells = "".join(f"{row[key] / 1e6:9.1f} ms" for key in ("harness_ns", "plain_ns", "program_ns"))
        print(f"{row['runtime']:10}{cells}   {ratio}  {word}")


if __name__ == "__main__":
    main()
