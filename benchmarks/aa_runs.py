"""The gate on a real machine: 20 comparisons of equals must stay green, 20 with +10 % in the workload must be red.

    .venv/bin/python -m benchmarks.aa_runs [--runs 20] [--runtime container] [--json]

Needs root (containers), git and gcc; about eight minutes on a quiet machine with two cores. Each comparison is one call
of `harness gate SCENARIO --base HEAD` as in CI: base and change in the same random blocks, a second batch before red.
The workload is a static program that sleeps; what is injected is a tenth of the whole start, from request to ready,
added to that sleep. Equal and slower ones take turns, so that a bad minute of the host falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.statistics import median, wilson_interval
from harness.results.store import RunDirectory, find_run

SLEEP_NS = 30_000_000
PROGRAM = """
#include <stdlib.h>
#include <time.h>
int main(int count, char **words) {
    long long ns = count > 1 ? atoll(words[1]) : 0;
    struct timespec time = {ns / 1000000000, ns % 1000000000};
    return nanosleep(&time, 0);
}
"""
SCENARIO = """\
schema: harness.scenario/1
name: aa
image: {{rootfs: root}}
workload: {{kind: command, argv: [/sleeper, "{sleep_ns}"], ready: {{exit: true}}, timeout: 20s}}
limits: {{cpus: 1, memory: 64MiB, pids: 32}}
runtimes:
  process: {{backend: process}}
  container: {{backend: builtin}}
trials: {{blocks: {{min: 10, max: {blocks}}}, warmup: 1}}
metrics: [startup]
gate: {{margin: {margin}, metrics: [startup.ready]}}
"""


def make_project(place: Path, text: str) -> None:
    """Write and commit a project whose root file system holds one program."""
    (place / "root").mkdir()
    source = place / "sleeper.c"
    source.write_text(PROGRAM)
    _run(["gcc", "-static", "-O2", "-o", str(place / "root" / "sleeper"), str(source)], place)
    (place / "scenario.yaml").write_text(text)
    (place / ".gitignore").write_text("results/\n")
    for words in (["init", "-q", "."], ["add", "."], ["commit", "-q", "-m", "base"]):
        _run(["git", "-c", "user.name=aa", "-c", "user.email=aa@example.org", *words], place)


def _run(argv: Sequence[str], place: Path) -> str:
    done = subprocess.run(argv, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _harness(*argv: str) -> list[str]:
    return [sys.executable, "-m", "harness", *argv]


def start_ns(place: Path, runtime: str) -> int:
    """Return the median time from request to ready, of which a tenth will be injected."""
    settings = ["--set", "trials.blocks={min: 15, max: 15, extra: 0}"]
    _run(_harness("run", "scenario.yaml", "--only", runtime, *settings), place)
    trials = RunDirectory.open(find_run(place / "results", "latest")).trials()
    return round(median([trial.metrics["startup.ready"].value for trial in trials if not trial.spec.warmup]))


def compared(place: Path, runtime: str) -> dict[str, Any]:
    """Run the gate once; return what it said and how long it took."""
    started = time.monotonic()
    argv = _harness("gate", "scenario.yaml", "--base", "HEAD", "--only", runtime, "--format", "json")
    done = subprocess.run(argv, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 1}:
        raise SystemExit(f"gate: ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    document = json.loads(done.stdout)
    ready = next(change for change in document["changes"] if change["metric"] == "startup.ready")
    return {
        "outcome": document["outcome"], "verdict": ready["verdict"], "ratio": ready["value"], "lo": ready["lo"],
        "hi": ready["hi"], "blocks": ready["n"], "confirmed": bool(document["confirmation"]), "reason": ready["reason"],
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def series(place: Path, given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Run both kinds in turns; each line is told as it comes."""
    total_ns = start_ns(place, given.runtime)
    delays = {"equal": 0, "slower": round(total_ns * given.delay)}
    _say(f"{given.runtime}: ready after {total_ns / 1e6:.1f} ms; injected {delays['slower'] / 1e6:.2f} ms")
    found: dict[str, list[dict[str, Any]]] = {"equal": [], "slower": []}
    for number in range(given.runs):
        for kind, delay_ns in delays.items():
            (place / "scenario.yaml").write_text(_scenario(given, SLEEP_NS + delay_ns))
            one = compared(place, given.runtime)
            found[kind].append(one)
            _say(f"{number + 1:3} {kind:7} {_told(one)}")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _told(one: dict[str, Any]) -> str:
    lo, hi = (f"{one[key]:.3f}" if one[key] else "none" for key in ("lo", "hi"))
    again = ", measured again" if one["confirmed"] else ""
    return f"{one['verdict']:13} {one['ratio']:.3f} [{lo} - {hi}] {one['blocks']} blocks{again} {one['seconds']} s"


def _scenario(given: argparse.Namespace, sleep_ns: int) -> str:
    return SCENARIO.format(sleep_ns=sleep_ns, blocks=given.blocks, margin=given.margin)


def summary(kind: str, own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how often the gate was right, with the 95 % interval of that share."""
    red = sum(one["outcome"] == "regressed" for one in own)
    right = red if kind == "slower" else len(own) - red
    lo, hi = wilson_interval(right, len(own))
    return {
        "kind": kind, "wanted": "red" if kind == "slower" else "not red", "right": right, "of": len(own),
        "lo": round(lo, 3), "hi": round(hi, 3),
        "undecided": sum(one["outcome"] == "inconclusive" for one in own),
        "taken_back": sum(one["confirmed"] and one["outcome"] != "regressed" for one in own),
        "mean_blocks": round(sum(one["blocks"] for one in own) / len(own), 1),
        "mean_seconds": round(sum(one["seconds"] for one in own) / len(own), 1),
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    share = f"{row['right']} of {row['of']} (95 %: {row['lo']:.0%} to {row['hi']:.0%})"
    more = f"{row['undecided']} undecided, {row['taken_back']} taken back by fresh blocks"
    return (
        f"{row['kind']}: {row['wanted']} in {share}; {more}; {row['mean_blocks']} blocks, {row['mean_seconds']} s each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="comparisons of each kind")
    parser.add_argument("--runtime", default="container", choices=("process", "container"))
    parser.add_argument("--delay", type=float, default=0.10, help="injected, as a share of the whole start")
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--blocks", type=int, default=60, help="at most, in the first batch and in the second")
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, for containers")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        make_project(Path(name), _scenario(given, SLEEP_NS))
        found = series(Path(name), given)
    rows = [summary(kind, own) for kind, own in found.items()]
    if given.as_json:
        print(json.dumps({"schema": "harness.benchmark/1", "margin": given.margin, "rows": rows, "comparisons": found}))
    else:
        print("\n".join(line(row) for row in rows))
    _say(f"{time.monotonic() - started:.0f} s in all")
    sys.exit(any(row["right"] < row["of"] for row in rows))


if __name__ == "__main__":
    main()
