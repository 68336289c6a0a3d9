"""How quickly a container starts: the built-in runtime, crun and runc with an equal bundle, and a bare process.

    .venv/bin/python -m benchmarks.container_start [--blocks 60] [--gap 20ms] [--json]

Every row starts the same agent with a static `true` on an overlay of the same tree, in a cgroup with the same limits;
a mark counts when its byte reaches this process. Each block starts every runtime once, in random order, after an idle
gap: without one, the kernel's waits for RCU when a process is moved into a cgroup are hidden. For crun and runc the
overlay mount, which an engine would make, is part of the time. None of them has a seccomp filter.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks._oci import OciArm, regular
from harness import plugins
from harness.backends import _local
from harness.host.paths import cache_dir, data_dir
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import Arm, ArmSpec, RunContext
from harness.model.milestones import DELETED, EXEC, EXITED, INIT
from harness.model.spec import Limits, WorkloadSpec
from harness.model.units import parse_duration_ns
from harness.trials import ownership

TIMEOUT_NS = 20 * 10**9
COLUMNS = ("runtime.exec", INIT, EXEC, EXITED, DELETED)
Trial = Callable[[str], Mapping[str, int]]


def backend_trial(arm: Arm) -> Trial:
    def trial(trial_id: str) -> Mapping[str, int]:
        instance = arm.launch(trial_id)
        try:
            instance.wait(EXITED, time.monotonic_ns() + TIMEOUT_NS)
        finally:
            instance.stop(time.monotonic_ns() + TIMEOUT_NS)
        return {mark.milestone: mark.at_ns - instance.marks[0].at_ns for mark in instance.marks}

    return trial


@contextmanager
def prepared() -> Iterator[dict[str, Trial]]:
    """Yield one trial function for each runtime that is here; nothing is left afterwards."""
    token = secrets.token_hex(4)
    context = RunContext("benchmark", token, ownership.claim(token, "benchmark"), cache_dir())
    store = Store(data_dir() / "images")
    tree = resolve_image(ImageRef("name", "busybox"), Path(), store)
    workload = WorkloadSpec(("/bin/true",), {"PATH": "/bin"})
    trials: dict[str, Trial] = {}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, context.scratch)
        stack.callback(_local.reap, token, dry_run=False)
        for name in ("process", "builtin"):
            backend = plugins.load("backends", name)
            arm = backend.prepare(ArmSpec(name, tree, workload, Limits()), backend.options(), context)
            stack.callback(arm.close)
            trials[name] = backend_trial(arm)
        for name in filter(regular, ("crun", "runc")):
            oci = OciArm(name, ArmSpec(name, tree, workload, Limits()), context.scratch / f"oci-{name}", token)
            stack.callback(oci.close)
            trials[name] = oci.trial
        yield trials


def measure(trials: Mapping[str, Trial], blocks: int, gap_ns: int) -> dict[str, list[Mapping[str, int]]]:
    """Return every trial's milestones by runtime; one block before those that count warms the caches."""
    raw: dict[str, list[Mapping[str, int]]] = {name: [] for name in trials}
    for block in range(blocks + 1):
        for name in random.sample(list(trials), len(trials)):
            time.sleep(gap_ns / 1e9)
            marks = trials[name](f"b{block:03}-{name}")
            if block:
                raw[name].append(marks)
    return raw


def summary(values_ns: list[int]) -> dict[str, float]:
    deciles = statistics.quantiles(values_ns, n=10, method="inclusive")
    return {"median_ns": statistics.median(values_ns), "p10_ns": deciles[0], "p90_ns": deciles[-1]}


def table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return medians with p10 and p90, in ms since the request."""
    lines = [f"{'':8}" + "".join(f"{name:>22}" for name in COLUMNS)]
    for name, row in rows.items():
        cells = [cell(row[column]) if column in row else "-" for column in COLUMNS]
        lines.append(f"{name:8}" + "".join(f"{text:>22}" for text in cells))
    return "\n".join(lines)


def cell(value: Mapping[str, float]) -> str:
    median, low, high = (value[key] / 1e6 for key in ("median_ns", "p10_ns", "p90_ns"))
    return f"{median:.2f} ({low:.1f}-{high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--gap", type=parse_duration_ns, default="20ms", help="idle time before each start")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with prepared() as trials:
        raw = measure(trials, options.blocks, options.gap)
    rows = {
        name: {column: summary([marks[column] for marks in all_marks]) for column in COLUMNS if column in all_marks[0]}
        for name, all_marks in raw.items()
    }
    if options.json:
        print(
            json.dumps(
                {"schema": "harness.benchmark.container_start/1", "gap_ns": options.gap, "raw": raw, "rows": rows}
            )
        )
        return
    print(
        f"ms since the request: median (p10-p90) of {options.blocks} starts, {options.gap / 1e6:g} ms idle before each"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
