"""Many containers: at once, and one after another.

    .venv/bin/python -m benchmarks.container_stress parallel [--at-once 64] [--rounds 5] [--threads 64]
    .venv/bin/python -m benchmarks.container_stress row [--starts 10000]

`parallel` asks for so many starts at the same moment, from threads of this process; then for as many `crun run` at
once. Both run the workload of container_start, end and are deleted; the rounds alternate. It prints containers per
second from the request to the last deletion, what failed and what was left.

`row` starts one container after another and looks, at every tenth of the way, at what could grow: memory and fds of
this process, mounts, cgroups (by name, and as the kernel counts them, those that are dying too), dentries in use. The
verdict is on the slope of each over the starts (Theil-Sen, so that what others on the host do once does not decide).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks._oci import CommandLine, find, overlay, version
from benchmarks._rows import Launched
from benchmarks._same import Place, place
from harness.container import cgroups

GROWTH = {
    "rss_bytes": 200.0, "fds": 0.002, "mounts": 0.002, "groups": 0.002, "kernel_groups": 0.05,
    "dentries_in_use": 0.05,
}  # fmt: skip
"""How much each may grow per start. What leaked once a start would be 1, or a page; other work on the host is noise."""
_SETTLE_S = 1.0
"""The kernel frees groups, mounts and network namespaces a while after they are gone."""

Snapshot = Mapping[str, int]


# -- what could leak -------------------------------------------------------------------------------------------------


def snapshot(where: Place) -> Snapshot:
    """Return what is in use now, on this host and in this process."""
    gc.collect()
    time.sleep(_SETTLE_S)
    status = Path("/proc/self/status").read_text()
    dentries = Path("/proc/sys/fs/dentry-state").read_text().split()
    kernel = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    return {
        "rss_bytes": int(status.partition("VmRSS:")[2].split()[0]) * 1024,
        "fds": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "groups": len(cgroups.subgroups(cgroups.detect(), where.parent)) - 1,
        "kernel_groups": sum(int(words[2]) for words in kernel),
        "dentries_in_use": int(dentries[0]) - int(dentries[1]),
    }


def slope(starts: Sequence[int], values: Sequence[int]) -> float:
    """Return the growth per start: the median of the slopes between all pairs of snapshots (Theil-Sen)."""
    pairs = itertools.combinations(zip(starts, values, strict=True), 2)
    return statistics.median((after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs)


# -- one after another -----------------------------------------------------------------------------------------------


def in_a_row(row: Launched, where: Place, starts: int, looks: int = 10) -> dict[int, Snapshot]:
    """Return snapshots by the number of starts before each. Raises what the first start to fail raises."""
    for number in range(20):  # what is made once: caches, arenas, the launcher's memfd
        row.start(number)
    seen = {0: snapshot(where)}
    for number in range(1, starts + 1):
        row.start(number)
        if number % max(1, starts // looks) == 0:
            seen[number] = snapshot(where)
            _progress(f"{number} of {starts} starts")
    return seen


def growth(seen: Mapping[int, Snapshot], names: Sequence[str] = tuple(GROWTH)) -> dict[str, float]:
    """Return what grew by more than it may, per start."""
    slopes = {name: slope(list(seen), [look[name] for look in seen.values()]) for name in names}
    return {name: value for name, value in slopes.items() if value > GROWTH[name]}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


# -- all at once -----------------------------------------------------------------------------------------------------


def at_once(start: Callable[[int], object], count: int, pool: ThreadPoolExecutor) -> tuple[float, list[str]]:
    """Return the seconds from the request until all are deleted, and what went wrong."""
    gate = threading.Event()

    def one(number: int) -> str | None:
        gate.wait()
        try:
            start(number)
        except Exception as error:  # noqa: BLE001 each failure is counted and shown
            return f"{type(error).__name__}: {error}"
        return None

    waiting = [pool.submit(one, number) for number in range(count)]
    began = time.monotonic()
    gate.set()
    failed = [said for future in waiting if (said := future.result()) is not None]
    return time.monotonic() - began, failed


class Crowd(CommandLine):
    """As many `crun run` at once as wanted, each over an overlay of its own."""

    def start_all(self, count: int) -> tuple[float, list[str]]:
        """Return the seconds from the request until all are deleted, and what went wrong."""
        return self._aside.run(self._start_all, count)

    def _start_all(self, count: int) -> tuple[float, list[str]]:
        bundles = [self.directory / f"{self._place.parent}-{number}" for number in range(count)]
        for number, bundle in enumerate(bundles):
            bundle.mkdir()
            self.write(bundle, number)
        silent = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        began = time.monotonic()
        with ExitStack() as mounted:
            spawned = {}
            for bundle in bundles:
                mounted.enter_context(overlay(str(self._place.tree), bundle))
                argv = self.argv(bundle, bundle.name)
                actions = self._channel.actions(silent)
                spawned[os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)] = bundle.name
            ended = {name: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, name in spawned.items()}
        took = time.monotonic() - began
        os.close(silent)
        for bundle in bundles:
            shutil.rmtree(bundle)
        failed = [name for name, code in ended.items() if code]
        for name in failed:
            self.clean_up(name)
        return took, [f"{name}: exit code {ended[name]}" for name in failed]


# -- the command -----------------------------------------------------------------------------------------------------


def parallel(options: argparse.Namespace) -> dict[str, object]:
    """Return throughputs (containers per second, one a round), failures and what was left."""
    rates: dict[str, list[float]] = {}
    failures: dict[str, list[str]] = {}
    with place() as where, ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(options.threads))
        builtin = Launched("builtin", where)
        stack.callback(builtin.close)
        kinds: dict[str, Callable[[], tuple[float, list[str]]]] = {
            "builtin": lambda: at_once(builtin.start, options.at_once, pool),
        }
        if version(["crun"]) is not None:
            crowd = Crowd("crun", [find("crun")], where)
            stack.callback(crowd.close)
            kinds["crun"] = lambda: crowd.start_all(options.at_once)
        at_once(builtin.start, options.threads, pool)  # every thread has its stack and its arena
        before = snapshot(where)
        for number in range(options.rounds):
            for name in sorted(kinds, reverse=bool(number % 2)):
                took, failed = kinds[name]()
                rates.setdefault(name, []).append(options.at_once / took)
                failures.setdefault(name, []).extend(failed)
        after = snapshot(where)
    left = {name: after[name] - before[name] for name in ("fds", "mounts", "groups")}
    return {
        "at_once": options.at_once,
        "threads": options.threads,
        "rates_per_s": rates,
        "failures": failures,
        "left": left,
    }


def show_parallel(found: dict[str, object]) -> int:
    rates, failures, left = found["rates_per_s"], found["failures"], found["left"]
    assert isinstance(rates, dict) and isinstance(failures, dict) and isinstance(left, dict)  # noqa: PT018
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        spread = f"{min(values):.0f}-{max(values):.0f}"
        print(f"{name:8} {medians[name]:7.1f} containers/s ({spread}), {len(failures[name])} failed")
        for line in failures[name][:5]:
            print(f"         {line}")
    print(f"left: {', '.join(f'{name} {count}' for name, count in left.items())}")
    slower = "crun" in medians and medians["builtin"] < medians["crun"]
    if "crun" in medians:
        print(f"builtin over crun: {medians['builtin'] / medians['crun']:.2f} ({'missed' if slower else 'met'})")
    return 1 if slower or failures["builtin"] or any(count > 0 for count in left.values()) else 0


def row(options: argparse.Namespace) -> dict[str, object]:
    """Return the snapshots and what grew."""
    with place() as where:
        one = Launched("builtin", where)
        try:
            seen = in_a_row(one, where, options.starts)
        finally:
            one.close()
    return {"snapshots": seen, "grew": growth(seen)}


def show_row(found: dict[str, object]) -> int:
    seen, grew = found["snapshots"], found["grew"]
    assert isinstance(seen, dict) and isinstance(grew, dict)  # noqa: PT018
    print(f"{'starts':>8}" + "".join(f"{name:>19}" for name in GROWTH))
    for starts, look in seen.items():
        print(f"{starts:8}" + "".join(f"{look[name]:19}" for name in GROWTH))
    for name, most in GROWTH.items():
        value = slope(list(seen), [look[name] for look in seen.values()])
        verdict = "grows" if name in grew else "does not grow"
        print(f"{name}: {value:+.4f} per start (at most {most:g}): {verdict}")
    return 1 if grew else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    many = kinds.add_parser("parallel")
    many.add_argument("--at-once", type=int, default=64)
    many.add_argument("--rounds", type=int, default=5)
    many.add_argument("--threads", type=int, default=64)
    long = kinds.add_parser("row")
    long.add_argument("--starts", type=int, default=10_000)
    for each in (many, long):
        each.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = parallel(options) if options.kind == "parallel" else row(options)
    if options.json:
        print(json.dumps({"schema": f"harness.benchmark.container_stress.{options.kind}/1", **found}))
        return 0
    return show_parallel(found) if options.kind == "parallel" else show_row(found)


if __name__ == "__main__":
    raise SystemExit(main())
