"""A backend without a machine: starts take the time that the test says, on a clock that the test reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.errors import TrialError, TrialTimeout
from harness.interfaces import Boundary, CgroupMemory, Emit, ExecResult, Json
from harness.model.metrics import Better, Measurement, Metric, Unit
from harness.model.milestones import Mark
from harness.model.records import Attestation

ATTESTATION = Attestation(
    root_digest="sha256:" + "a" * 64,
    exe_sha256="b" * 64,
    argv=("/bin/true",),
    env={},
    uid=0,
    gid=0,
    cwd="/",
    cpus=1,
    memory_bytes=1 << 28,
    kernel="6.1.0",
    boot_id="boot",
)
LENGTH = Metric("fake.length", Unit.COUNT, Better.NEITHER, "how many marks the instance has")


@dataclass
class FakeInstance:
    """`ready_ns` None: it never gets ready."""

    ready_ns: int | None = 1_000_000
    attestation: Attestation = ATTESTATION
    boundary: Boundary = "container"
    memory_bytes: int = 1 << 28
    seen: Mapping[str, Json] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    stop_error: TrialError | None = None
    own_pids: tuple[int, ...] = ()
    charged: CgroupMemory | None = None

    def __post_init__(self) -> None:
        self.marks.append(Mark("requested", 1000))

    def pids(self) -> tuple[int, ...]:
        return self.own_pids

    def cgroup_memory(self) -> CgroupMemory | None:
        return self.charged

    def wait(self, milestone: str, deadline_ns: int) -> Mark:
        self.log.append(f"wait {milestone}")
        if self.ready_ns is None:
            raise TrialTimeout(f"{milestone}: not reached in time; last: requested")
        self.marks.append(Mark(milestone, 1000 + self.ready_ns))
        return self.marks[-1]

    def inside(self) -> Mapping[str, Json]:
        return self.seen

    def attest(self, deadline_ns: int) -> Attestation:
        self.log.append("attest")
        return self.attestation

    def calibrate(self, count: int, gap_ns: int = 0) -> Sequence[Mark]:
        return [Mark(name, 5000 + i, "40", 4900) for i in range(count) for name in ("cal", "took")]

    def exec(self, argv: Sequence[str], timeout_ns: int) -> ExecResult:
        return ExecResult(0, b"", b"")

    def output(self) -> tuple[bytes, bytes]:
        return b"out\n", b"first\nlast words\n"

    def console(self) -> bytes:
        return b""

    def stop(self, deadline_ns: int) -> None:
        self.log.append("stop")
        self.marks += [Mark("stopping", 10**9), Mark("deleted", 10**9 + 500)]
        if self.stop_error is not None:
            raise self.stop_error


@dataclass
class FakeArm:
    """`make` returns the next instance for a trial id, or raises."""

    make: Callable[[str], FakeInstance]
    accelerator: str | None = None
    facts: Mapping[str, Json] = field(default_factory=dict)
    launched: list[str] = field(default_factory=list)

    def launch(self, trial_id: str) -> FakeInstance:
        self.launched.append(trial_id)
        return self.make(trial_id)

    def close(self) -> None:
        pass


class CountingProbe:
    """Notes when it is entered and left in the instance's own log."""

    name = "fake"
    doc = "for tests"
    metrics = (LENGTH,)

    @contextmanager
    def watch(self, instance: FakeInstance, emit: Emit) -> Iterator[None]:
        instance.log.append("watch")
        yield
        instance.log.append("unwatch")

    def conclude(self, instance: FakeInstance, emit: Emit) -> None:
        instance.log.append("conclude")
        emit(Measurement(LENGTH, len(instance.marks)))
