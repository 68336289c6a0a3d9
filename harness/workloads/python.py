"""A Python interpreter: how long it takes to start, and a task that it computes."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.errors import UsageError
from harness.interfaces import Driven, Site
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import ImageConfig, NetworkKind, WorkloadSpec
from harness.workloads import _driven

START = Metric(
    "python.start", Unit.NS, Better.LOWER, "start the interpreter, run nothing, end; mean, by a clock inside"
)
TASK = Metric(
    "python.task", Unit.NS, Better.LOWER, "count primes with a sieve, sort, hash and parse JSON; by a clock inside"
)
CPU = _driven.cpu_metric("python", "run of the task, its interpreter's start with it")

# The same text for every runtime, and in no file: whatever image has a Python runs it.
CODE = """
import hashlib, json, sys, time
size = int(sys.argv[1])
start = time.perf_counter_ns()
sieve = bytearray([1]) * size
for number in range(2, int(size ** 0.5) + 1):
    if sieve[number]:
        sieve[number * number::number] = bytes(len(range(number * number, size, number)))
primes = [number for number in range(2, size) if sieve[number]]
primes.sort(key=lambda number: number * 7919 % 104729)
text = json.dumps(primes)
digest = hashlib.sha256(text.encode()).hexdigest()
same = json.loads(text) == primes
print(json.dumps({"ns": time.perf_counter_ns() - start, "primes": len(primes), "same": same, "digest": digest}))
"""
PRIMES = {100_000: 9592, 1_000_000: 78498, 10_000_000: 664579}  # the number of primes below (OEIS A006880)


class Options(_driven.InsideOptions):
    """`workload: {kind: python}`"""

    program: str = Field(default="python3", min_length=1, description="the interpreter inside the image")
    starts: int = Field(default=5, ge=1, le=10_000, description="how often it is started")
    below: int = Field(default=1_000_000, description="primes below this are counted: 100000, 1000000 or 10000000")


class _Python:
    name = "python"
    doc = "start a Python interpreter, and a task of computing, sorting, hashing and parsing; the result is checked"
    options = Options
    network: NetworkKind | None = None
    metrics = (START, TASK, CPU)

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, Options)
        if options.below not in PRIMES:
            raise UsageError(f"workload.below: {options.below}: expected {', '.join(map(str, PRIMES))}")
        return _driven.idle(image, options.timeout_ns)

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Everything is measured while it is ready."""
        return ()

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        """The first start, which reads the interpreter from the image, is not counted."""
        assert isinstance(options, Options)
        nothing = (options.program, "-c", "pass")
        _driven.succeeded(site.inside(nothing, options.timeout_ns), options.program)
        starts = _driven.workbench(site, (f"spawn={options.starts}", *nothing), options.timeout_ns)
        task = (options.program, "-c", CODE, str(options.below))
        did, spent = _driven.spending(site, lambda: site.inside(task, options.timeout_ns))
        answer = json.loads(_driven.succeeded(did, options.program).stdout)
        if answer["primes"] != PRIMES[options.below] or answer["same"] is not True:
            raise ValueError(f"{answer['primes']} primes below {options.below}, {PRIMES[options.below]} is right")
        return (
            Measurement(START, _driven.per_operation_ns(starts, "spawn")),
            Measurement(TASK, int(answer["ns"]), {"digest": str(answer["digest"])}),
            spent.per(CPU, 1),
        )


PLUGIN: Driven = _Python()
