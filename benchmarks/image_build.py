"""How long a build takes: ours cold, warm and after one changed line, and the warm builds of docker and podman.

    python -m benchmarks.image_build [--rounds 20] [--json FILE]

Every row builds the same Containerfile from the same context and base: twelve lines, seven of which make a layer. Rows
are interleaved, in random order within a round. `top`, `middle` and `end` change one RUN, so that it and all that
follows is made again. What is measured is the whole command, from its start to its end, as a user has it. The engines
run in mounts of their own, both with overlay; docker with BuildKit where its client has that.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.host.paths import cache_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.store import Store

FILES = 200
FILE = """FROM busybox
ENV LANG=C
LABEL purpose=benchmark
RUN echo {top} > /top
WORKDIR /srv
COPY requirements.txt .
RUN cp requirements.txt installed
COPY app ./app
RUN echo {middle} > middle
COPY conf /etc/conf
RUN echo {end} > /end
CMD ["/bin/sh"]
"""
HARNESS = str(Path(sys.executable).with_name("harness"))
READY_S = 60

Row = Callable[[int], None]


def call(argv: Sequence[str], environment: dict[str, str]) -> None:
    """Run a command. Raises RuntimeError with what it said."""
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()[-600:]}")


class Bench:
    """The context, the base and the commands, below one scratch directory."""

    def __init__(self, scratch: Path, undo: ExitStack) -> None:
        self.context = scratch / "context"
        self._scratch = scratch
        self._undo = undo
        self._environment = {**os.environ, "HARNESS_HOME": str(scratch / "home"), "HOME": str(scratch)}
        self._base = self._make_base(scratch)
        self._make_context()

    def _make_base(self, scratch: Path) -> Path:
        store = Store(scratch / "home" / "data" / "images")
        image = bootstrap_busybox(store, cache_dir())
        return store.blob_path(image.layers[0].blob.digest)

    def _make_context(self) -> None:
        for number in range(FILES):
            path = self.context / "app" / f"d{number % 10}" / f"f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(random.Random(number).randbytes(10_000))
        (self.context / "conf").mkdir()
        for name in ("requirements.txt", "conf/a"):
            (self.context / name).write_text(name)
        self.write()

    def write(self, **changed: int) -> None:
        text = FILE.format(**{"top": 0, "middle": 0, "end": 0, **changed})
        for name in ("Containerfile", "Dockerfile"):
            (self.context / name).write_text(text)

    def ours(self, *options: str) -> None:
        call([HARNESS, "image", "build", "-q", "-t", "made", *options, str(self.context)], self._environment)

    def docker(self) -> Callable[[], None] | None:
        """Start a dockerd and return what builds with it."""
        client = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker")
        if client is None or shutil.which("dockerd") is None:
            return None
        place, socket = self._scratch / "docker", "unix:///run/engine/docker.sock"
        place.mkdir()
        (place / "daemon.json").write_text("{}")
        argv = [
            "dockerd", "--config-file", f"{place}/daemon.json", "--data-root", f"{place}/data", "--exec-root",
            "/run/engine/exec", "--pidfile", "/run/engine/pid", "--host", socket, "--iptables=false",
            "--ip6tables=false", "--bridge=none",
        ]  # fmt: skip
        with (place / "log").open("wb") as log:
            daemon = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        self._undo.callback(daemon.wait)
        self._undo.callback(daemon.terminate)
        environment = {**self._environment, "DOCKER_HOST": socket, "DOCKER_BUILDKIT": "1"}
        deadline_s = time.monotonic() + READY_S
        while subprocess.run([client, "version"], env=environment, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline_s or daemon.poll() is not None:
                raise RuntimeError(f"dockerd: does not answer: {(place / 'log').read_text()[-400:]}")
            time.sleep(0.1)
        call([client, "import", str(self._base), "busybox"], environment)
        build = [client, "build", "--network", "none", "-q", "-t", "made", str(self.context)]
        return lambda: call(build, environment)

    def podman(self) -> Callable[[], None] | None:
        if shutil.which("podman") is None:
            return None
        place = self._scratch / "podman"
        command = [
            "podman", "--root", f"{place}/root", "--runroot", "/run/engine/podman", "--tmpdir", f"{place}/tmp",
            "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
        ]  # fmt: skip
        call([*command, "import", str(self._base), "busybox"], self._environment)
        build = [*command, "build", "--layers", "--isolation", "chroot", "-q", "-t", "made", str(self.context)]
        return lambda: call(build, self._environment)


def rows_of(bench: Bench) -> dict[str, Row]:
    """Return every row by name; each leaves the file as the warm builds have it."""

    def changed(name: str) -> Row:
        def build(number: int) -> None:
            bench.write(**{name: number + 1})
            bench.ours()

        return build

    rows: dict[str, Row] = {"ours cold": lambda _: bench.ours("--no-cache"), "ours warm": lambda _: bench.ours()}
    rows |= {f"ours {name}": changed(name) for name in ("top", "middle", "end")}
    for name, build in (("docker warm", bench.docker()), ("podman warm", bench.podman())):
        if build is not None:
            rows[name] = lambda _, build=build: build()  # type: ignore[misc]
    return rows


def measure(bench: Bench, rows: dict[str, Row], rounds: int) -> dict[str, list[int]]:
    """Return the durations of each row, in ns; the first round warms and is not kept."""
    found: dict[str, list[int]] = {name: [] for name in rows}
    chance = random.Random(0)
    for number in range(rounds + 1):
        for name in chance.sample(sorted(rows), len(rows)):
            bench.write()
            began_ns = time.monotonic_ns()
            rows[name](number)
            spent_ns = time.monotonic_ns() - began_ns
            if number:
                found[name].append(spent_ns)
    return found


def table(found: dict[str, list[int]]) -> str:
    warm = statistics.median(found["ours warm"])
    lines = [f"{'':14}{'median':>9}{'p10':>9}{'p90':>9}   ours warm over it"]
    for name, values in found.items():
        deciles = statistics.quantiles(values, n=10, method="inclusive")
        cells = (statistics.median(values), deciles[0], deciles[-1])
        shown = "".join(f"{value / 1e6:7.0f}ms" for value in cells)
        lines.append(f"{name:14}{shown}   {warm / cells[0]:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if "HARNESS_BENCHMARK_ASIDE" not in os.environ:
        os.environ["HARNESS_BENCHMARK_ASIDE"] = "1"
        setup = 'mount -t tmpfs tmpfs /run && mkdir /run/lock /run/engine && exec "$@"'
        argv = ["unshare", "-m", "sh", "-c", setup, "sh", sys.executable, "-m", "benchmarks.image_build", *sys.argv[1:]]
        os.execvp(argv[0], argv)
    with ExitStack() as undo:
        scratch = Path(tempfile.mkdtemp(prefix="harness-build-"))
        undo.callback(shutil.rmtree, scratch, ignore_errors=True)
        bench = Bench(scratch, undo)
        found = measure(bench, rows_of(bench), options.rounds)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps({"schema": "harness.benchmark.image-build/1", "ns": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
