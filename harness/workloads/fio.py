"""Sequential and random I/O by fio, which the image must have: fixed work, one job after the other, on one file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from harness.interfaces import Workload
from harness.model.fields import DurationNs, SizeBytes, Strict, to_tuple
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import ImageConfig, Ready, WorkloadSpec
from harness.workloads._options import DEFAULT_PATH, AbsolutePath

Job = Literal["write", "read", "randwrite", "randread"]
Fsync = Literal["end", "each", "never"]

JOBS: dict[str, str] = {
    "write": "sequential writes of 1 MiB",
    "read": "sequential reads of 1 MiB",
    "randwrite": "random writes of 4 KiB",
    "randread": "random reads of 4 KiB",
}
_FSYNC: dict[Fsync, tuple[str, ...]] = {"end": ("--end_fsync=1",), "each": ("--fsync=1",), "never": ()}
_PERCENTILES = {"p50": "50.000000", "p99": "99.000000"}


def _rate(job: str, text: str) -> Metric:
    if job.startswith("rand"):
        return Metric(
            f"fio.{job}.iops", Unit.PER_S, Better.HIGHER, f"{text}: operations a second, with the fsync asked for"
        )
    name, doc = f"fio.{job}.bandwidth", f"{text}: bytes a second, with the fsync asked for"
    return Metric(name, Unit.BYTES_PER_S, Better.HIGHER, doc)


RATES = {job: _rate(job, text) for job, text in JOBS.items()}
LATENCIES = {
    (job, name): Metric(
        f"fio.{job}.latency.{name}", Unit.NS, Better.LOWER, f"{text}: {name} of the completion latency of one"
    )
    for job, text in JOBS.items()
    for name in _PERCENTILES
}


class Options(Strict):
    """`workload: {kind: fio, directory: /data}`"""

    directory: AbsolutePath = Field(description="where its file is, inside; it must be there and writable")
    jobs: Annotated[tuple[Job, ...], BeforeValidator(to_tuple)] = Field(
        default=("write", "read", "randwrite", "randread"), min_length=1, description="what is done, in this order"
    )
    size_bytes: SizeBytes = Field(default=64 << 20, ge=1 << 20, alias="size", description="size of the file")
    random_bytes: SizeBytes = Field(
        default=8 << 20, ge=4096, alias="random", description="bytes that a random job moves, in pieces of 4 KiB"
    )
    direct: bool = Field(default=False, description="past the page cache (O_DIRECT), where the file system can")
    fsync: Fsync = Field(default="end", description="after the last write, after each, or never")
    program: str = Field(default="fio", min_length=1, description="fio inside the image")
    timeout_ns: DurationNs = Field(default=120_000_000_000, gt=0, alias="timeout", description="how long all may take")


class _Fio:
    name = "fio"
    doc = "fio inside the image: bandwidth, operations a second, latency percentiles; ready when it is done"
    options = Options
    metrics = tuple(metric for job in JOBS for metric in (RATES[job], *(LATENCIES[job, name] for name in _PERCENTILES)))

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, Options)
        return WorkloadSpec(
            argv=(options.program, *_arguments(options)),
            env={"PATH": image.env.get("PATH", DEFAULT_PATH)},
            ready=Ready("exit"),
            timeout_ns=options.timeout_ns,
        )

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Return what fio measured; a job that was not asked for is Absent. Raises: ValueError."""
        answer = _answer(stdout)
        asked = _mapping(answer, "global options")
        labels = {"direct": str(asked.get("direct", "0")), "fsync": _policy(asked)}
        jobs = answer.get("jobs")
        if not isinstance(jobs, list) or not jobs:
            raise ValueError("no jobs")
        found = {item.metric.name: item for job in jobs for item in _measured(job, asked, labels)}
        return [found.get(metric.name, Absent(metric, "not asked for in this scenario")) for metric in self.metrics]


def _arguments(options: Options) -> Iterator[str]:
    """Yield fio's arguments: what holds for all jobs, then the jobs, each after the one before it has ended.

    The reads follow the writes on the same file; fio drops its pages from the cache before each job (`invalidate`).
    """
    yield from ("--output-format=json", f"--directory={options.directory}", "--filename=harness-fio")
    yield from (f"--size={options.size_bytes}", f"--direct={options.direct:d}", *_FSYNC[options.fsync])
    yield from ("--ioengine=psync", "--thread", "--fallocate=none", "--randseed=7", "--refill_buffers")
    yield "--percentile_list=50:99"
    for place, job in enumerate(options.jobs, 1):
        yield from (f"--name={job}", f"--rw={job}", "--stonewall")
        yield from (f"--bs={4 << 10}", f"--io_size={options.random_bytes}") if "rand" in job else (f"--bs={1 << 20}",)
        if place == len(options.jobs):
            yield "--unlink=1"


def _answer(stdout: bytes) -> Mapping[str, Any]:
    """Return fio's document; before it fio writes notes, such as that it lays out the file."""
    start = 0 if stdout.startswith(b"{") else stdout.find(b"\n{") + 1
    try:
        answer = json.loads(stdout[start:])
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(answer, dict) or not str(answer.get("fio version", "")).startswith("fio-"):
        raise ValueError("no JSON of fio")
    return answer


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key}: missing")
    return value


def _number(document: Mapping[str, Any], key: str) -> float:
    value = document.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1 << 63:
        raise ValueError(f"{key}: expected a number above 0, got {value!r}")
    return value


def _policy(asked: Mapping[str, Any]) -> str:
    return "end" if "end_fsync" in asked else "each" if "fsync" in asked else "never"


def _measured(job: Any, asked: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Measurement]:
    name = job.get("jobname") if isinstance(job, dict) else None
    if name not in RATES:
        raise ValueError(f"{name!r}: an unknown job")
    if job.get("error") != 0:
        raise ValueError(f"{name}: error {job.get('error')!r}")
    side = _mapping(job, "write" if name.endswith("write") else "read")
    wanted, done = _wanted(job, asked), side.get("io_bytes")
    if done != wanted:
        raise ValueError(f"{name}: {done} bytes moved, {wanted} asked for")
    rate = RATES[name]
    yield Measurement(rate, round(_number(side, "bw_bytes" if rate.unit is Unit.BYTES_PER_S else "iops")), labels)
    percentiles = _mapping(_mapping(side, "clat_ns"), "percentile")
    for percentile, key in _PERCENTILES.items():
        yield Measurement(LATENCIES[name, percentile], round(_number(percentiles, key)), labels)


def _wanted(job: Mapping[str, Any], asked: Mapping[str, Any]) -> int:
    """Return the bytes that a job was told to move: the file's size, rounded down to whole blocks, or `io_size`."""
    own = _mapping(job, "job options")
    size, block = int(own.get("io_size", asked.get("size", 0))), int(own.get("bs", 0))
    if size < 1 or block < 1:
        raise ValueError(f"{job.get('jobname')}: it does not say how much it was to move")
    return size // block * block


PLUGIN: Workload = _Fio()
