"""What `builtin` and `process` share: the kit of an arm, the timed start, the instance, and reaping."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from harness.agent import prepared as requests
from harness.agent.program import PATH as AGENT_PATH
from harness.agent.program import agent_memfd, encode_spec, sealed_memfd
from harness.agent.session import AgentSession
from harness.backends import _counters, _metering, _network
from harness.backends._started import Started
from harness.container import cgroups, launcher, mountinfo, plan, syscalls
from harness.container.cgroups import Group
from harness.container.errors import ContainerError
from harness.container.runtime import Container
from harness.errors import AgentError, BackendError, CapabilityError
from harness.host.paths import runtime_dir
from harness.images import trial_volumes
from harness.interfaces import ArmSpec, Boundary, Capability, CgroupMemory, ExecResult, Json, RunContext
from harness.model.milestones import DELETED, INIT, REQUESTED, RETURNED, STOPPING, Mark
from harness.model.records import Attestation
from harness.model.units import format_bytes

_ANSWER_NS = 30_000_000_000
_EXIT_NS = 2_000_000_000
_GROUP = re.compile(r"harness-([0-9a-f]{8})")
_BUILD_HINT = "scripts/setup builds it (or: python hatch_build.py)"


@contextmanager
def translated(runtime: str) -> Iterator[None]:
    """Turn a ContainerError into the BackendError that names the runtime."""
    try:
        yield
    except ContainerError as error:
        raise BackendError(f"{runtime}: {error}") from error


# -- prepared once ---------------------------------------------------------------------------------------------------


class Kit:
    """What every start of an arm shares, made before any clock runs."""

    def __init__(self, spec: ArmSpec, boundary: Boundary, context: RunContext) -> None:
        self.runtime = spec.runtime
        self.boundary = boundary
        self.context = context
        self.memory_bytes = spec.limits.memory_bytes
        self.limits = cgroups.Limits(spec.limits.memory_bytes, spec.limits.cpus, spec.limits.pids)
        self.layout = cgroups.detect()
        self.cgroup_join: cgroups.JoinMethod = "fast"
        self.parent = f"harness-{context.token}"
        self.workload = encode_spec(spec.workload)
        self.seccomp = "unconfined"
        self.extra: tuple[int, ...] = ()
        self.call_event: int | None = None
        with ExitStack() as undo:
            self.agent = agent_memfd()
            undo.callback(os.close, self.agent)
            self.stdin = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            undo.callback(os.close, self.stdin)
            try:
                cgroups.prepare_parent(self.layout, self.parent)
            except ContainerError as error:
                raise CapabilityError(f"{spec.runtime}: {error}", hint=_v2_hint(error)) from error
            self._undo = undo.pop_all()

    def filter(self, program: bytes, name: str) -> None:
        """Have every start take a seccomp filter."""
        self.seccomp = name
        fd = launcher.sealed_memfd("seccomp", program)
        self._undo.callback(os.close, fd)
        self.extra = (fd,)

    def group(self, trial_id: str) -> Group:
        """Return the group of one start."""
        group = Group(self.layout, f"{self.parent}/{trial_id}")
        group.join_method = self.cgroup_join
        return group

    def launch(self, *, seccomp: bool = False, keyring: str = "") -> plan.Launch:
        """How a plan of this arm is started. The agent's seventh fd is the tree that it attests."""
        kept = launcher.AGENT_FDS + 1
        joins = self.group("any").joins()
        return plan.Launch(kept, joins, agent=True, dies_with_parent=True, seccomp=seccomp, keyring=keyring)

    def facts(self) -> dict[str, Json]:
        return {
            "boundary": self.boundary,
            "cgroup_mode": self.layout.mode,
            "cgroup_join": self._joined_by(),
            "count": self.call_event is not None,
            "launcher_sha256": _sha256(Path(launcher.PROGRAM)),
            "agent_sha256": _sha256(AGENT_PATH),
            "seccomp": self.seccomp,
        }  # fmt: skip

    def _joined_by(self) -> list[Json]:
        if self.cgroup_join == "procs":
            return ["cgroup.procs"]
        joins = self.layout.joins
        return [name for name, used in (("tasks", joins.tasks), ("CLONE_INTO_CGROUP", joins.unified)) if used]

    def close(self) -> None:
        """Let go of it; the group of the run goes with the last arm that has nothing in it."""
        self._undo.close()
        with translated(self.runtime):
            cgroups.remove_parent(self.layout, self.parent)


def _v2_hint(error: ContainerError) -> str:
    if error.errno == errno.EBUSY:
        root = "/sys/fs/cgroup"
        return (
            "processes are in the group that shall hand controllers down, as in a container; move them below it first: "
            f"mkdir {root}/init; xargs -rn1 <{root}/cgroup.procs >{root}/init/cgroup.procs"
        )
    return "harness doctor shows the cgroup controllers of this host"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- the timed path --------------------------------------------------------------------------------------------------


def start(
    kit: Kit,
    steps: int,
    trial_id: str,
    requested_ns: int,
    on_deleted: Callable[[], None],
    mounts: Sequence[int] = (),
) -> LocalInstance:
    """Start one instance by a plan's memfd. `on_deleted` removes what the caller made for it.

    `mounts` are the detached ones that the plan names. Raises: BackendError.
    """
    session = AgentSession() if kit.call_event is None else _counters.CountingSession(kit.call_event)
    session.marks.append(Mark(REQUESTED, requested_ns))
    with ExitStack() as undo, ExitStack() as theirs:
        undo.callback(session.close)
        fds = _channels(kit, session, theirs)
        session.start()
        group = kit.group(trial_id)
        with translated(kit.runtime):
            extra = (*kit.extra, *mounts)
            container = Container.start(steps, [*fds, steps], group, kit.limits, program=kit.agent, extra=extra)
        session.mark(RETURNED)
        undo.pop_all()
    return LocalInstance(kit, session, container, on_deleted)


def _channels(kit: Kit, session: AgentSession, theirs: ExitStack) -> list[int]:
    """Return the agent's fds 0 to 5, which `theirs` closes; our ends go to the session."""
    ours, control = socket.socketpair()
    theirs.callback(control.close)
    writers = []
    for add in (session.add_stdout, session.add_stderr, session.add_marks):
        reader, writer = os.pipe2(os.O_CLOEXEC)
        theirs.callback(os.close, writer)
        add(reader)
        writers.append(writer)
    session.add_control(ours)
    workload = sealed_memfd("spec", kit.workload)
    theirs.callback(os.close, workload)
    return [kit.stdin, writers[0], writers[1], workload, writers[2], control.fileno()]


class LocalInstance:
    """A container or a process as an Instance."""

    def __init__(self, kit: Kit, session: AgentSession, container: Started, on_deleted: Callable[[], None]) -> None:
        self.boundary = kit.boundary
        self.memory_bytes = kit.memory_bytes
        self._runtime = kit.runtime
        self._session = session
        self._container = container
        self._on_deleted = on_deleted
        self._stopped = False
        self.locate: Callable[[], str | None] = lambda: None  # for an address that the runtime gives it when it starts
        self._address: str | None = None
        self.helpers: tuple[int, ...] = ()
        """Processes of the host that serve it alone."""
        self.complaint: Callable[[], str | None] = lambda: None
        """What a runtime said that failed instead of starting it."""
        self.boot_id: str | None = None  # said instead of what the agent read, where a runtime covers the kernel's

    @property
    def marks(self) -> Sequence[Mark]:
        return self._session.marks

    @property
    def address(self) -> str | None:
        if self._address is None:
            self._address = self.locate()
        return self._address

    @address.setter
    def address(self, address: str | None) -> None:
        self._address = address

    @property
    def pid(self) -> int:
        """The host pid of the agent."""
        return self._container.pid

    def pids(self) -> tuple[int, ...]:
        return (*self._container.pids(), *self.helpers)

    def cgroup_memory(self) -> CgroupMemory | None:
        with translated(self._runtime):
            use = self._container.memory()
        return CgroupMemory(
            use.anon_bytes, use.file_bytes, use.kernel_bytes, use.current_bytes, use.peak_bytes, use.shmem_bytes
        )

    def wait(self, milestone: str, deadline_ns: int) -> Mark:
        try:
            return self._session.wait(milestone, deadline_ns)
        except AgentError as error:
            said = self.complaint()
            if said is not None:
                raise BackendError(f"{self._runtime}: {said}", ending="not-started") from None
            raise self._out_of_memory() or error from None

    def _out_of_memory(self) -> AgentError | None:
        """Return what is told of one whose memory limit had the kernel kill a process, None where it did not."""
        group = self._container.group if isinstance(self._container, Container) else None
        kills = group.stats().memory.oom_kills_count if group is not None else None
        if not kills:
            return None
        size = format_bytes(self.memory_bytes)
        what = f"{self.boundary}: out of memory ({size}): the kernel killed {kills} of its processes"
        return AgentError(what, hint="raise limits.memory", ending="cgroup-oom")

    def inside(self) -> Mapping[str, Json]:
        seen = self._session.inside(time.monotonic_ns() + _ANSWER_NS)
        return {**seen, "boot_id": self.boot_id} if self.boot_id else seen

    def attest(self, deadline_ns: int) -> Attestation:
        attested = self._session.attest(deadline_ns)
        return replace(attested, boot_id=self.boot_id) if self.boot_id else attested

    def calibrate(self, count: int, gap_ns: int = 0) -> Sequence[Mark]:
        return self._session.calibrate(count, time.monotonic_ns() + _ANSWER_NS, gap_ns)

    def go(self, deadline_ns: int) -> None:
        requests.go(self._session, deadline_ns)

    def again(self, deadline_ns: int) -> Mark:
        return requests.again(self._session, deadline_ns)

    def touch(self, deadline_ns: int) -> int:
        return requests.touch(self._session, deadline_ns)

    def pause(self, deadline_ns: int) -> None:
        with translated(self._runtime):
            self._freezable().freeze(deadline_ns)

    def resume(self) -> None:
        with translated(self._runtime):
            self._freezable().thaw()

    def _freezable(self) -> Group:
        if not isinstance(self._container, Container):
            raise BackendError(f"{self._runtime}: another runtime's container is not paused by the harness")
        return self._container.group

    def exec(self, argv: Sequence[str], timeout_ns: int) -> ExecResult:
        return ExecResult(*self._session.exec(argv, timeout_ns))

    def output(self) -> tuple[bytes, bytes]:
        return bytes(self._session.stdout), bytes(self._session.stderr)

    def console(self) -> bytes:
        return b""

    def stop(self, deadline_ns: int) -> None:
        """Ask the agent, then wait, then kill; remove the rest. Raises TrialError for what went wrong or is left."""
        if self._stopped:
            return
        self._stopped = True
        self._session.mark(STOPPING)
        try:
            self._ask_to_end(deadline_ns)
        finally:
            try:
                self._remove()
            finally:
                self._session.close()

    def _ask_to_end(self, deadline_ns: int) -> None:
        if self._session.find("error") is not None:  # it has said why it ends
            self._container.wait(_EXIT_NS)
            return
        ended = self._container.wait(0)
        if ended is not None:
            raise AgentError(f"agent: ended with code {ended.returncode} before it was asked to")
        if self._session.find(INIT) is None:  # nobody is there who could be asked
            return
        if time.monotonic_ns() < deadline_ns:
            self._session.finish(deadline_ns)
            self._container.wait(_EXIT_NS)

    def _remove(self) -> None:
        with translated(self._runtime):
            try:
                self._container.delete()
            finally:
                self._on_deleted()
        self._session.mark(DELETED)


# -- what must be there ----------------------------------------------------------------------------------------------


def needs() -> tuple[Capability, ...]:
    """Return what both backends need, asked and not guessed from versions."""
    root = os.geteuid() == 0
    needed = [
        Capability("root", root, "" if root else f"uid {os.geteuid()}", None if root else "run as root"),
        _program("launcher", Path(launcher.PROGRAM)),
        _program("agent", AGENT_PATH),
    ]
    return (*needed, *([_need_overlay(), _need_kernel()] if root else []), _need_cgroups())


def _program(name: str, path: Path) -> Capability:
    if path.exists():
        return Capability(name, available=True, reason=str(path))
    return Capability(name, available=False, reason="not built", hint=_BUILD_HINT)


def _need_overlay() -> Capability:
    try:
        found = syscalls.has_filesystem("overlay")
    except OSError as error:
        return Capability("overlay", available=False, reason=f"fsopen: {error.strerror}", hint="needs CAP_SYS_ADMIN")
    if found:
        return Capability("overlay", available=True, reason="the kernel has overlayfs")
    return Capability("overlay", available=False, reason="the kernel has no overlayfs", hint="modprobe overlay")


def _need_kernel() -> Capability:
    missing = syscalls.missing_features()
    if not missing:
        return Capability("kernel", available=True, reason=", ".join(syscalls.FEATURES))
    reason = f"refused: {', '.join(missing)}"
    return Capability(
        "kernel", available=False, reason=reason, hint="Linux 5.12 has all; a seccomp filter may refuse them"
    )


def _need_cgroups() -> Capability:
    layout = cgroups.detect()
    if layout.mode is None:
        return Capability(
            "cgroups", available=False, reason="no cgroup tree is mounted", hint="mount one, or use systemd"
        )
    if layout.missing():
        reason = f"{layout.mode} without {', '.join(layout.missing())}"
        return Capability(
            "cgroups", available=False, reason=reason, hint="see cgroup_enable= of the kernel's command line"
        )
    return Capability("cgroups", available=True, reason=layout.mode)


# -- what a dead run left --------------------------------------------------------------------------------------------


def tokens() -> set[str]:
    """Return the tokens of all runs of which a cgroup, a mount or a process in their network is here."""
    groups = cgroups.list_groups(cgroups.detect(), "harness-")
    found = {match[1] for name in groups if (match := _GROUP.fullmatch(name))} | _network.tokens()
    found |= trial_volumes.tokens()
    base = str(runtime_dir())
    return found | {Path(point).relative_to(base).parts[0] for point in mountinfo.below(base) if point != base}


def reap(token: str, *, dry_run: bool) -> Sequence[str]:
    """End the processes of a dead run and remove its groups and mounts; return one line for each thing found."""
    lines = [*_metering.reap(token, dry_run=dry_run), *_network.reap(token, dry_run=dry_run)]
    for point in mountinfo.below(str(runtime_dir() / token)):
        lines.append(f"mount: {point}")
        if not dry_run:
            syscalls.umount2(point, syscalls.MNT_DETACH)
    return [*lines, *trial_volumes.reap(token, dry_run=dry_run)]
