"""Whether large histories and runs stay quick: 10,000 runs are loaded and gated, a run of 10,000 trials is reported.

    .venv/bin/python -m benchmarks.scale [--runs 10000] [--trials 10000] [--profile PART] [--json]

A history has 20 metrics of 5 runtimes a run, so that 10,000 runs are a million rows. Each part runs in a process of its
own, which says how much memory it took at most; interpreter and imports are part of its time.
"""

# ruff: noqa: PLC0415  (a part pays only for what it imports)

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

GIB = 1 << 30
LIMITS_S = {"load": 3.0, "gate": 5.0, "report": 10.0, "html": 10.0, "run-gate": 10.0}
RUNTIMES = ("process", "container", "podman", "vm", "microvm")
METRICS = 20
ONE, TWO = "20260101T000000Z-one-00000001", "20260101T000000Z-two-00000002"


def write_history(root: Path, runs: int) -> None:
    """Write a history of ratios that move by 3 % and nowhere step."""
    from harness.model.history import Entry
    from harness.results.history import _line, history_path

    source = random.Random(1)
    names = [f"startup.m{number:02}" for number in range(METRICS)]
    definitions = dict.fromkeys(names, ("ns", "lower", "nothing", "0badcafe"))
    path = history_path(root, "scale", "class")
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for number in range(runs):
            cells = {runtime: {name: _cell(source, runtime) for name in names} for runtime in RUNTIMES}
            entry = Entry(
                f"2026{number:010}Z-scale-{number:08x}", f"2026-01-01T00:00:00.{number:06}Z", f"{number:040x}",
                "h" * 64, "sha256:1", "0.1", "process", {}, 0, 75, definitions, cells,
            )  # fmt: skip
            file.write(_line(entry) + b"\n")


def _cell(source: random.Random, runtime: str) -> tuple[float | int | None, ...]:
    value = round(1e7 * source.gauss(1, 0.03))
    ratio = None if runtime == "process" else round(source.gauss(2, 0.06), 4)
    around = (None, None) if ratio is None else (ratio - 0.05, ratio + 0.05)
    return value, value - 100_000, value + 100_000, ratio, *around, 15


def write_run(results: Path, trials: int, name: str) -> None:
    """Write a run of so many trials, each with all metrics of the example run."""
    from harness.results.codec import trial_line
    from harness.results.store import RunDirectory
    from tests.example_run import example_run, example_trials

    run = example_run(run_id=name)
    resolved = {"gate": {"margin": 0.05, "metrics": ["startup.ready", "memory.pss"]}}
    directory = RunDirectory.create(results, run, "name: x\n", resolved)
    with (directory.path / "trials.jsonl").open("w", encoding="utf-8") as file:  # without an fsync for each
        source = random.Random(name)
        for trial in example_trials(blocks=trials // len(run.runtimes) - 1)[:trials]:
            factor = source.lognormvariate(0, 0.05)
            metrics = {key: replace(one, value=one.value * factor) if one.unit == "ns" else one
                       for key, one in trial.metrics.items()}  # fmt: skip
            file.write(trial_line(replace(trial, metrics=metrics)) + "\n")


def load_history(root: Path) -> None:
    from harness.results.frame import history

    frame = history("scale", root / "history")
    print(f"{len(frame)} rows", file=sys.stderr)


def gate_history(root: Path) -> None:
    """What `harness gate RUN --history` does, on 80 guarded series."""
    from harness.analysis.decision import check_history
    from harness.analysis.gate import Policy
    from harness.results.history import history_path, read

    entries = read(history_path(root / "history", "scale", "class"))
    print(check_history(entries, Policy(("startup.*",), 0.05)).outcome, file=sys.stderr)


def _harness(*argv: str) -> None:
    from harness.cli.main import run

    code = run(list(argv))
    if code not in {0, 1}:
        sys.exit(code)


def report_run(root: Path) -> None:
    _harness("report", ONE, "--results", str(root / "results"), "--output", str(root / "out.txt"))


def html_run(root: Path) -> None:
    _harness("report", ONE, "--results", str(root / "results"), "--format", "html", "--output",
             str(root / "out.html"))  # fmt: skip


def gate_runs(root: Path) -> None:
    _harness("gate", ONE, "--baseline", TWO, "--results", str(root / "results"), "--output",
             str(root / "gate.txt"))  # fmt: skip


PARTS: dict[str, Callable[[Path], None]] = {
    "load": load_history, "gate": gate_history, "report": report_run, "html": html_run, "run-gate": gate_runs,
}  # fmt: skip


def measured(part: str, root: Path) -> dict[str, Any]:
    """Run a part in a process of its own; return its wall time and its peak of memory."""
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.scale", "--part", part, "--root", str(root)])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{part}: ended with {child.returncode}")
    seconds, peak = time.monotonic() - started, usage.ru_maxrss * 1024
    met = seconds < LIMITS_S[part] and peak < GIB
    return {
        "part": part, "seconds": round(seconds, 2), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "limit_seconds": LIMITS_S[part], "peak_bytes": peak, "met": met,
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    time_s = f"{row['seconds']:>6} s of {row['limit_seconds']:>4} s (cpu {row['cpu_seconds']} s)"
    return f"{row['part']:10} {time_s:34} {row['peak_bytes'] / 2**20:6.0f} MiB  {'met' if row['met'] else 'MISSED'}"


def profiled(part: str, root: Path) -> None:
    with cProfile.Profile() as profile:
        PARTS[part](root)
    pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(35)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--profile", choices=PARTS)
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args()
    if given.part:
        PARTS[given.part](given.root)
        return
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_history(root / "history", given.runs)
        for name in (ONE, TWO):
            write_run(root / "results", given.trials, name)
        if given.profile:
            profiled(given.profile, root)
            return
        rows = [measured(part, root) for part in PARTS]
    if given.as_json:
        print(json.dumps({"schema": "harness.benchmark/1", "runs": given.runs, "trials": given.trials, "rows": rows}))
        return
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
