"""Are the harness' figures those of the tools? redis-benchmark and pgbench by hand beside the harness, interleaved.

    .venv/bin/python -m benchmarks.workload_tools [redis|postgres] [--blocks 10] [--json]

By hand: the server of the image in a root of its own, in a network namespace on a bridge, with no cgroup, no agent and
no limit; the image's own tool beside it. Through the harness: the backend `process`, which adds just these. Both are
asked for the same work, in random order in each block. The base of the images is made once:
harness image bootstrap debian:bookworm
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import shutil
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import plugins
from harness.analysis.statistics import paired_ratio
from harness.backends import _network
from harness.container import hostroot
from harness.host import process
from harness.host.paths import cache_dir, data_dir
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import Arm, ArmSpec, Driven, RunContext
from harness.loading.site import InstanceSite
from harness.model.metrics import Measurement
from harness.model.spec import Limits, RootTree, WorkloadSpec
from harness.trials import ownership

ROOT = Path(__file__).parents[1]
READY_S = 20.0
ROOM_BYTES = 512 << 20
REQUESTS, TRANSACTIONS, CLIENTS = 20_000, 500, 2


@dataclass(frozen=True, slots=True)
class Case:
    """A server: what the harness is asked for, the tool by hand, and where its figure is in what it prints."""

    options: dict[str, Any]
    metric: str
    port: int
    tool: tuple[str, ...]
    figure: re.Pattern[str]


CASES = {
    "redis": Case(
        {"requests": REQUESTS, "clients": 10, "timed": 100},
        "redis.set.rate",
        6379,
        ("redis-benchmark", "-h", "HOST", "-c", "10", "-t", "set,get", "-n", str(REQUESTS), "-d", "100", "-r", "10000",
         "--csv"),
        re.compile(r'^"SET","([0-9.]+)"', re.MULTILINE),
    ),
    "postgres": Case(
        {"transactions": TRANSACTIONS, "clients": CLIENTS, "timed": 20, "rate": 100},
        "postgres.rate",
        5432,
        ("pgbench", "--host=HOST", "--username=postgres", "--no-vacuum", "--builtin=tpcb-like", f"--client={CLIENTS}",
         "--jobs=1", f"--transactions={TRANSACTIONS}", "postgres"),
        re.compile(r"^tps = ([0-9.]+)", re.MULTILINE),
    ),
}  # fmt: skip


@contextlib.contextmanager
def root_over(tree: RootTree, directory: Path) -> Iterator[str]:
    """Yield a root to chroot to; nothing is left."""
    root = hostroot.mount_root(str(directory), str(tree.path), ROOM_BYTES)
    try:
        yield root
    finally:
        hostroot.unmount_root(str(directory))


def await_port(address: str, port: int) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return
        time.sleep(0.02)
    raise SystemExit(f"{address}:{port}: nobody answers")


def by_hand(case: Case, tree: RootTree, spec: WorkloadSpec, context: RunContext) -> float:
    """Return the tool's own figure."""
    network = _network.of_run(context.token)
    assert network is not None
    place = network.attach_namespace()
    address, env = str(place.address), {**spec.env, "HOME": "/tmp", "LC_ALL": "C"}
    words = [address if word == "HOST" else word.replace("=HOST", f"={address}") for word in case.tool]
    with (
        root_over(tree, context.scratch / "server") as server,
        root_over(tree, context.scratch / "tool") as client,
        (context.scratch / "log").open("wb") as log,
    ):
        user, chroot = f"--userspec={spec.uid}:{spec.gid}", str(process.find_program("chroot"))
        with place.namespace.entered():
            argv = ["env", "-i", *(f"{key}={value}" for key, value in env.items()), chroot, user, server, *spec.argv]
            running = process.start(argv, stderr=log)
        try:
            network.run_inside(lambda: await_port(address, case.port))
            with network.namespace.entered():
                if case.port == CASES["postgres"].port:
                    settle(client, address, env)
                done = process.run(["chroot", client, *words], env=env, timeout_ns=300 * 10**9)
        finally:
            os.killpg(running.pid, 15)
            process.await_end(running, 10 * 10**9)
            place.close()
    found = case.figure.search(done.stdout.decode())
    assert found is not None, done.stdout
    return float(found[1])


def settle(client: str, address: str, env: dict[str, str]) -> None:
    """Wait until the database takes connections, and make the transactions that the harness makes before, too."""
    work = ("--username=postgres", "--no-vacuum", f"--client={CLIENTS}", "--transactions=10", "postgres")
    argv = ["chroot", client, "pgbench", f"--host={address}", *work]
    for _ in range(50):
        with contextlib.suppress(Exception):
            process.run(argv, env=env, timeout_ns=60 * 10**9)
            return
        time.sleep(0.1)


def by_harness(case: Case, plugin: Driven, arm: Arm, tree: RootTree, context: RunContext) -> float:
    """Return what the harness reports for the same work."""
    instance = arm.launch(f"b{secrets.token_hex(3)}")
    try:
        instance.wait("ready", time.monotonic_ns() + 60 * 10**9)
        site = InstanceSite(instance, _network.of_run(context.token), tree, context.scratch / "client")
        with contextlib.closing(site):
            options = plugin.options.model_validate(case.options)
            items = {item.metric.name: item for item in plugin.drive(options, site)}
    finally:
        instance.stop(time.monotonic_ns() + 30 * 10**9)
    found = items[case.metric]
    assert isinstance(found, Measurement)
    return float(found.value)


def measure(kind: str, blocks: int) -> dict[str, list[float]]:
    case, plugin = CASES[kind], plugins.load("workloads", kind)
    token = secrets.token_hex(4)
    context = RunContext("benchmark", token, ownership.claim(token, "benchmark"), cache_dir())
    store = Store(data_dir() / "images")
    tree = resolve_image(ImageRef("build", f"images/packages/{kind}.Containerfile"), ROOT, store)
    spec = plugin.compile(plugin.options.model_validate(case.options), tree.config)
    limits = Limits(float(os.cpu_count() or 1), 2 << 30, 512)
    found: dict[str, list[float]] = {"harness": [], "by hand": []}
    try:
        arm = plugins.load("backends", "process").prepare(
            ArmSpec("process", tree, spec, limits, "bridge"), plugins.load("backends", "process").options(), context
        )
        with contextlib.closing(arm):
            for block in range(blocks):
                for side in random.Random(block).sample(sorted(found), 2):
                    value = (
                        by_hand(case, tree, spec, context)
                        if side == "by hand"
                        else by_harness(case, plugin, arm, tree, context)
                    )
                    found[side].append(value)
    finally:
        shutil.rmtree(context.scratch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(CASES), nargs="?", default="redis")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.kind, options.blocks)
    ratio = paired_ratio([a / b for a, b in zip(found["harness"], found["by hand"], strict=True)])
    if options.json:
        print(json.dumps({"kind": options.kind, "rates_per_s": found, "ratio": asdict(ratio)}))
        return
    for side, values in found.items():
        print(f"  {side:8} median {statistics.median(values):10.1f} /s")
    interval = f"[{ratio.lo:.3f} - {ratio.hi:.3f}]" if ratio.lo and ratio.hi else "(fewer than 6 blocks: no interval)"
    print(f"  {CASES[options.kind].metric}: harness / by hand, paired: {ratio.value:.3f} {interval}")


if __name__ == "__main__":
    main()
