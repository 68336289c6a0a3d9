"""Every seam of the harness on one page: start reading here.

    Backend.prepare(...) -> Arm          once a run and runtime: disks, trees, checks; not timed
    Arm.launch(trial_id)  -> Instance    the timed path: from `requested` to the agent's marks
    Probe.watch(instance, emit)          around the time in which the instance is ready
    Workload.compile(options, image)     what to run and when it is ready: the same for every backend
    Workload.parse(stdout, stderr)       what the workload says about itself, when it has ended
    Driven.drive(options, site)          work that is asked of an instance once it is ready, and what came of it
    Study.prepare(...) -> StudyArm       a comparison that starts no instances of one image: builds, sizes, transfers
    StudyArm.measure(trial_id, emit)     one trial of it
    Renderer.render(report)              a finished analysis as text

A probe sees an Instance, never a backend, so that N backends and M probes stay N + M pieces of code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from harness.model.metrics import Absent, Measurement, Metric
from harness.model.milestones import Mark
from harness.model.records import Attestation
from harness.model.report import Report
from harness.model.spec import ImageConfig, Limits, NetworkKind, RootTree, WorkloadSpec
from harness.model.work import Did, Load, Served

if TYPE_CHECKING:
    from pydantic import BaseModel

    from harness.model.spec import MountSpec

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Emit = Callable[[Measurement | Absent], None]
Boundary = Literal["process", "container", "vm"]
SavedForm = Literal["file", "internal", "external"]
"""A guest's state: a file for which it ends, a snapshot inside its disk, or one beside it that it goes on after."""


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether something that a backend needs is there. `reason` says why not (or what was found), `hint` what helps."""

    name: str
    available: bool
    reason: str = ""
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """Memory charged to an instance's cgroup, in bytes; None where this cgroup version does not tell.

    `shmem_bytes` is the part of `file_bytes` that is tmpfs and other shared memory.
    """

    anon_bytes: int | None
    file_bytes: int | None
    kernel_bytes: int | None
    current_bytes: int | None
    peak_bytes: int | None
    shmem_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A command run inside an instance; `returncode` is 128 + n after signal n."""

    returncode: int
    stdout: bytes
    stderr: bytes


def _say_nothing(_text: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where one run may put things: everything it creates carries `token` (8 hex digits of the run id).

    `scratch` is a short path on the host for sockets and per-trial files, `cache` survives runs. `say` tells people why
    preparing takes long. `base_dir` is what paths in the scenario count from.
    """

    run_id: str
    token: str
    scratch: Path
    cache: Path
    say: Callable[[str], None] = _say_nothing
    base_dir: Path = Path()

    @property
    def work(self) -> Path:
        """Where the run may put what is large: a directory on disk that goes with the run. Whoever writes makes it."""
        return self.cache / "runs" / self.token


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """Everything a backend must know to prepare one runtime of a scenario; `network` None: the backend's default."""

    runtime: str
    tree: RootTree
    workload: WorkloadSpec
    limits: Limits
    network: NetworkKind | None = None
    mounts: tuple[MountSpec, ...] = ()


class Instance(Protocol):
    """One started system under test, seen from the host. Every call may raise TrialError."""

    @property
    def boundary(self) -> Boundary: ...
    @property
    def memory_bytes(self) -> int:
        """The memory limit that it was started with: a VM's RAM, a cgroup's limit."""
        ...

    @property
    def address(self) -> str | None:
        """Its IPv4 address on the run's bridge; None where it has another network."""
        ...

    @property
    def marks(self) -> Sequence[Mark]: ...
    def pids(self) -> tuple[int, ...]:
        """Return the host pids of the instance: its processes, or the VMM with its helpers; what is inside first."""
        ...

    def cgroup_memory(self) -> CgroupMemory | None: ...
    def wait(self, milestone: str, deadline_ns: int) -> Mark:
        """Return the milestone's mark, or raise TrialError at `deadline_ns` (monotonic) or when it cannot come."""
        ...

    def inside(self) -> Mapping[str, Json]:
        """Return what the agent sees from inside: kernel, namespaces, capabilities, devices, memory (read now)."""
        ...

    def attest(self, deadline_ns: int) -> Attestation: ...
    def calibrate(self, count: int, gap_ns: int = 0) -> Sequence[Mark]:
        """Return `count` marks sent only to measure the marker channel; they are not part of `marks`.

        With `gap_ns` each is sent so long after the one before, by the sender's clock.
        """
        ...

    def exec(self, argv: Sequence[str], timeout_ns: int) -> ExecResult: ...
    def output(self) -> tuple[bytes, bytes]:
        """Return the workload's stdout and stderr so far (bounded; complete after `stop`)."""
        ...

    def console(self) -> bytes:
        """Return what firmware and kernel wrote; empty where there are none."""
        ...

    def stop(self, deadline_ns: int) -> None:
        """End everything and remove it; afterwards `marks` holds `deleted`. Calling it again does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Before:
    """What was done for a start before it was asked for, and what that keeps until then.

    `took_ns`: all of it; of `restored`, once a run, with `saving_ns` for the file. `held_bytes`: PSS of what waits.
    """

    start: str
    took_ns: int
    held_bytes: int = 0
    saved_bytes: int = 0
    saving_ns: int = 0


@runtime_checkable
class Preparable(Protocol):
    """What an instance can whose start can be prepared. Every call may raise TrialError."""

    def pause(self, deadline_ns: int) -> None:
        """Stop everything in it; its memory stays."""
        ...

    def resume(self) -> None: ...
    def go(self, deadline_ns: int) -> None:
        """Let the workload run that was held (`WorkloadSpec.hold`)."""
        ...

    def again(self, deadline_ns: int) -> Mark:
        """Return when the workload is ready again, after it stood still."""
        ...

    def touch(self, deadline_ns: int) -> int:
        """Have every page of the workload's processes read; return how many bytes."""
        ...


class Arm(Protocol):
    """One runtime of one run, prepared. `facts` go into run.json (versions, machine type, accelerator, command)."""

    @property
    def facts(self) -> Mapping[str, Json]: ...
    @property
    def accelerator(self) -> str | None: ...
    def launch(self, trial_id: str) -> Instance: ...
    def close(self) -> None: ...


@runtime_checkable
class Saving(Arm, Protocol):
    """An arm whose instances can be saved to a file, and started from it."""

    def save(self, instance: Instance, file: Path, form: SavedForm) -> None:
        """Write a ready instance to a file. It has ended then, but what it was made of stays until it is stopped."""
        ...

    def restore(self, saved: Instance, file: Path, form: SavedForm, trial_id: str) -> Instance: ...


class Backend(Protocol):
    """A system under test: one file in `harness.backends` that exports PLUGIN."""

    @property
    def name(self) -> str: ...
    @property
    def doc(self) -> str: ...
    @property
    def options(self) -> type[BaseModel]: ...
    def needs(self, options: BaseModel) -> Sequence[Capability]:
        """Return what it needs here and whether it is there; cheap, starts nothing."""
        ...

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        """Return what it needs besides for a scenario's mounts; cheap too."""
        ...

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm: ...
    def tokens(self) -> set[str]:
        """Return the tokens of all runs, living or dead, of which this backend finds something on this host."""
        ...

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        """Remove what the dead run `token` left behind; return one line for each thing found."""
        ...


class Probe(Protocol):
    """One family of metrics: one file in `harness.probes` that exports PLUGIN."""

    @property
    def name(self) -> str: ...
    @property
    def doc(self) -> str: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...
    def watch(self, instance: Instance, emit: Emit) -> AbstractContextManager[None]:
        """Entered when the instance is ready, left before it is stopped."""
        ...

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Called after `stop`, when all marks are in."""
        ...


class Workload(Protocol):
    """One kind of workload: one file in `harness.workloads` that exports PLUGIN."""

    @property
    def name(self) -> str: ...
    @property
    def doc(self) -> str: ...
    @property
    def options(self) -> type[BaseModel]: ...
    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What it reports about itself in its output; empty for most."""
        ...

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec: ...
    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Return its metrics from its complete output, once the instance has stopped.

        Raises: ValueError where the output does not show that the work was done; the trial has failed then.
        """
        ...


class Site(Protocol):
    """A ready instance, as a workload sees it that is asked to work. Every call may raise TrialError.

    The client's side is in the run's network namespace, outside the instance and its limits: the same for all runtimes.
    """

    @property
    def address(self) -> str | None:
        """The instance's address on the run's bridge; None where it has another network."""
        ...

    def inside(self, argv: Sequence[str], timeout_ns: int) -> Did:
        """Run a command inside, as the workload's user; return it whatever its code is."""
        ...

    def client(self, argv: Sequence[str], timeout_ns: int) -> Did:
        """Run a program of the image as client of the instance. Raises: TrialError unless it ends with 0."""
        ...

    def client_file(self, path: str) -> bytes:
        """Return what a client has written to `path` (absolute, in the client's own root)."""
        ...

    def serve(self, load: Load) -> Served:
        """Put a load on the instance, by the harness' own client."""
        ...

    def cpu_ns(self) -> int | None:
        """Return the host's CPU time that the instance has used up to now, the VMM and helpers with it."""
        ...


@runtime_checkable
class Driven(Workload, Protocol):
    """A workload that works when it is asked to: its metrics come from `drive`, not from `parse`."""

    @property
    def network(self) -> NetworkKind | None:
        """The network that its instances need; None where any will do."""
        ...

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        """Have the work done and return every metric once.

        Raises: ValueError where what came back does not show that the work was done; TrialError.
        """
        ...


class StudyArm(Protocol):
    """One arm of a study in one run, prepared. `facts` go into run.json; a resumed run must find the same."""

    @property
    def facts(self) -> Mapping[str, Json]: ...
    @property
    def accelerator(self) -> str | None:
        """What a VM of this arm runs on; None where it starts none."""
        ...

    def measure(self, trial_id: str, emit: Emit) -> None:
        """Make one trial and say every metric once, as Measurement or Absent. Raises: TrialError."""
        ...

    def close(self) -> None: ...


class Study(Protocol):
    """A comparison of something else than starts of one image: one file in `harness.studies` that exports PLUGIN.

    `metrics` are all that its arms measure, the one that people ask for first. `backends` can find what a dead run of
    it left; all else is below the run's `scratch` and `work`. No trial bears the flags of noise that it `disturbs`.
    """

    @property
    def name(self) -> str: ...
    @property
    def doc(self) -> str: ...
    @property
    def options(self) -> type[BaseModel]: ...
    @property
    def arm_options(self) -> type[BaseModel]: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...
    @property
    def backends(self) -> tuple[str, ...]: ...
    @property
    def disturbs(self) -> frozenset[str]: ...
    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        """Return what one arm cannot do without, and whether it is there; cheap, starts nothing.

        What an arm may lack (an engine that is not installed) is no need: its `measure` says Absent with the reason.
        """
        ...

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> StudyArm:
        """Make what the arm's trials need; once a run, not timed."""
        ...


class Renderer(Protocol):
    """One report format: one file in `harness.report` that exports PLUGIN."""

    @property
    def name(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    @property
    def doc(self) -> str: ...
    def render(self, report: Report) -> str: ...
