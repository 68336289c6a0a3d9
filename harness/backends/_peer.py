"""What the backends of other runtimes share: a prepared arm, the timed start, the container as the host sees it.

A `Recipe` is what one runtime knows: its command line, what it must be told to remove. Everything else is here, and is
the same as for the built-in runtime: agent, marks, image, limits. See docs/add-a-runtime.md.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from harness.agent.program import PATH as AGENT_PATH
from harness.agent.session import AgentSession
from harness.backends import _exec_trace, _local, _mounts, _network
from harness.backends._aside import Aside
from harness.backends._command import Running
from harness.backends._door import Door
from harness.backends._exec_trace import ExecTrace
from harness.backends._peer_container import PeerContainer
from harness.container import cgroups, hostroot, syscalls
from harness.container.cgroups import Group
from harness.container.runtime import end_group
from harness.errors import BackendError, CapabilityError, HarnessError
from harness.host import process
from harness.host.process import find_program
from harness.interfaces import Arm, ArmSpec, Capability, Instance, Json, RunContext
from harness.model.milestones import INIT, REQUESTED, RETURNED, RUNTIME_EXEC, Mark
from harness.model.spec import Limits, MountSpec, NetworkKind

DEFAULT_NETWORK: NetworkKind = "none"
_UNSAID = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Start:
    """One start, as a recipe sees it. `name` is unique on this host; `scratch` is a directory of its own.

    `door` is to be mounted read-only at `_door.INSIDE`. `root` is the mounted root where the recipe wants one,
    `network` the path of a namespace to join, `volumes` the directories of this trial's volumes.
    """

    name: str
    scratch: Path
    door: Path
    root: Path
    network: str | None
    volumes: Mapping[str, Path]


class Recipe(Protocol):
    """One runtime of one run, ready to start containers. All of it is called with the mounts of `aside`."""

    @property
    def tree(self) -> Path:
        """The directory that is really below the containers' roots: what the agent attests."""
        ...

    @property
    def facts(self) -> Mapping[str, Json]: ...
    def ready(self, start: Start) -> None:
        """Write what is not timed."""
        ...

    def start(self, start: Start) -> Running: ...
    def remove(self, start: Start) -> None:
        """Remove a container by force: after a failure. Must not fail for one that is not there."""
        ...

    def address(self, start: Start) -> str | None:
        """Return the address that the runtime gave a container; None where it joined a network by path, or has none."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wants:
    """What the harness does for a runtime that does not itself.

    `root`: mount the root. `group`: start it `inside` a cgroup with the limits, or make one `above` the container's.
    `owner` is the user who starts it. `joins`: it can join a network by its namespace's path. `boot_id`: the runtime
    covers the kernel's with one of the container's own, so say the host's: the agent's pid here proves that the kernel
    is the same. `trace`: have the kernel note which programs an engine executes.
    """

    root: bool = False
    group: Literal["", "inside", "above"] = ""
    owner: int = 0
    boot_id: bool = False
    joins: bool = True
    trace: bool = False


# -- one arm ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ground:
    """What every start of an arm stands on, made before its recipe: where, with which limits, mounts and network.

    `layout` are the cgroup trees that are seen aside.
    """

    spec: ArmSpec
    kit: _local.Kit
    aside: Aside
    layout: cgroups.Layout
    network: NetworkKind

    @property
    def context(self) -> RunContext:
        return self.kit.context

    @property
    def parent(self) -> str:
        """The path of the cgroup below which a runtime shall make those of its containers."""
        return f"/{self.kit.parent}"

    @property
    def limits(self) -> Limits:
        return self.spec.limits


class PeerArm:
    """A prepared runtime: every launch asks its recipe."""

    accelerator: str | None = None

    def __init__(self, ground: Ground, recipe: Recipe, places: _network.Places, wants: Wants) -> None:
        self._ground, self._recipe, self._places, self._wants = ground, recipe, places, wants
        kit = ground.kit
        self._volumes = _mounts.Volumes(ground.spec, kit.context.token)
        self._home = Path(os.path.realpath(kit.context.scratch)) / f"p.{_UNSAID.sub('-', kit.runtime)}"
        self._home.mkdir(mode=0o755)
        self._agent = self._home / "agent"
        self._agent.write_bytes(AGENT_PATH.read_bytes())
        self._agent.chmod(0o755)
        self._tree = ground.aside.run(syscalls.clone_mount, str(recipe.tree))
        self._trace = ground.aside.run(ExecTrace, kit.context.token, kit.runtime) if wants.trace else None
        self.facts: Mapping[str, Json] = {
            "boundary": kit.boundary,
            "cgroup_mode": kit.layout.mode,
            "agent_sha256": hashlib.sha256(AGENT_PATH.read_bytes()).hexdigest(),
            "network": _network.facts(ground.network, "veth"),
            "mounts": self._volumes.facts(),
            **recipe.facts,
        }

    def launch(self, trial_id: str) -> Instance:
        with ExitStack() as undo:
            place = self._places.take()
            undo.callback(place.close)
            volumes = self._volumes.take(trial_id)
            undo.callback(self._volumes.drop, trial_id)
            scratch = self._home / _UNSAID.sub("-", trial_id)
            scratch.mkdir(mode=0o755)
            undo.callback(_remove_directory, scratch)
            session = AgentSession()
            undo.callback(session.close)
            door = Door(scratch / "d", self._agent, session, self._wants.owner)
            undo.callback(door.close)
            name = f"{self._ground.kit.parent}-{scratch.name}"
            start = Start(name, scratch, door.directory, scratch / "r" / "root", place.path, volumes)
            session.start()
            door.open(self._ground.kit.stdin, self._ground.kit.workload, self._tree)
            started = self._ground.aside.run(self._launch, start, session, door)
            undo.pop_all()

        def remove() -> None:
            self._add_trace(session)
            self._ground.aside.run(self._take_down, start)
            place.close()
            self._volumes.drop(trial_id)
            _remove_directory(scratch)

        instance = _local.LocalInstance(self._ground.kit, session, started, remove)
        instance.address = place.address
        instance.locate = lambda: self._recipe.address(start)
        instance.boot_id = _boot_id() if self._wants.boot_id else None
        instance.complaint = lambda: started.running.complaint() if door.pid is None else None
        return instance

    def _launch(self, start: Start, session: AgentSession, door: Door) -> PeerContainer:
        """The timed path, in the thread that has the mounts. Raises: BackendError; nothing is left then."""
        ground, wants = self._ground, self._wants
        self._recipe.ready(start)
        if self._trace:
            self._trace.clear()
        with ExitStack() as undo, _local.translated(ground.kit.runtime):
            session.marks.append(Mark(REQUESTED, time.monotonic_ns()))
            undo.callback(self._take_down, start)
            if wants.root:
                hostroot.mount_overlay(
                    str(start.root.parent), str(ground.spec.tree.path), ground.limits.memory_bytes // 2
                )
            group = Group(ground.layout, f"{ground.kit.parent}/{start.scratch.name}") if wants.group else None
            with ExitStack() as inside:
                if group is not None:
                    group.create(ground.kit.limits)
                    undo.callback(end_group, group)
                    if wants.group == "inside":
                        inside.enter_context(group.caller_inside())
                try:
                    running = self._recipe.start(start)
                except OSError as error:
                    raise BackendError(f"{ground.kit.runtime}: {error.strerror or error}") from error
            if running.pid is not None:  # vfork(2): its program runs; a daemon says nothing of when it does so
                session.mark(RUNTIME_EXEC)
            session.mark(RETURNED)
            undo.pop_all()
        container = PeerContainer(running, door, ground.kit.layout, group)
        container.inside = wants.group == "inside"
        container.force = lambda: ground.aside.run(self._recipe.remove, start)
        _watch(session, running, door)
        return container

    def _add_trace(self, session: AgentSession) -> None:
        requested, init = session.find(REQUESTED), session.find(INIT)
        if self._trace and requested and init:
            found = self._ground.aside.run(self._trace.marks, requested.at_ns, init.at_ns)
            session.marks[1:1] = found
            session.marks.sort(key=lambda mark: mark.at_ns)

    def _take_down(self, start: Start) -> None:
        if self._wants.root and start.root.parent.is_dir():
            with _local.translated(self._ground.kit.runtime):
                hostroot.unmount_root(str(start.root.parent))

    def close(self) -> None:
        with ExitStack() as undo:
            undo.callback(self._ground.kit.close)
            undo.callback(sweep_groups, self._ground.kit)
            undo.callback(self._ground.aside.close)
            undo.callback(self._ground.aside.run, self._recipe.close)
            if self._trace:
                undo.callback(self._ground.aside.run, self._trace.close)
            undo.callback(_remove_directory, self._home)
            undo.callback(self._places.close)
            undo.callback(os.close, self._tree)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _watch(session: AgentSession, running: Running, door: Door) -> None:
    """A runtime that ends before its agent came has failed: whoever waits shall learn of it at once."""
    fd = running.fileno()

    def ended() -> None:
        with suppress(OSError):  # it was closed in the same moment
            session.unwatch(fd)
        if door.pid is None:
            door.abandon()

    session.watch(fd, ended)


def _remove_directory(path: Path) -> None:
    """Remove what we wrote; nothing is mounted there where this thread looks."""
    shutil.rmtree(path, ignore_errors=True)


def sweep_groups(kit: _local.Kit) -> None:
    """Remove the empty groups that runtimes made below the run's, in hierarchies that we have no use for."""
    for group in cgroups.subgroups(kit.layout, kit.parent):
        for hierarchy in kit.layout.hierarchies:
            with suppress(OSError):
                Path(hierarchy.path, group).rmdir()


# -- what a backend's four methods do --------------------------------------------------------------------------------


class RefusedArm:
    """A runtime that could not be made ready: each of its trials fails and says why; others go on."""

    accelerator: str | None = None

    def __init__(self, error: CapabilityError, ground: ExitStack) -> None:
        self._error, self._ground = error, ground
        self.facts: Mapping[str, Json] = {"refused": error.message}

    def launch(self, trial_id: str) -> Instance:
        raise BackendError(self._error.message, hint=self._error.hint)

    def close(self) -> None:
        self._ground.close()


def prepare(
    spec: ArmSpec,
    context: RunContext,
    make: Callable[[Ground], Recipe],
    *,
    wants: Wants,
    refused: Mapping[NetworkKind, str] | None = None,
    without_unified: bool = False,
) -> Arm:
    """Return an arm whose recipe `make` returns; it is called with the mounts of the arm's own thread.

    What an engine refuses by then (its daemon, the image) is the failure of this runtime alone.

    Raises: CapabilityError for what cannot be had here.
    """
    kind = _network.choose(spec, DEFAULT_NETWORK, refused or {})
    with ExitStack() as undo:
        kit = _local.Kit(spec, "container", context)
        undo.callback(kit.close)
        undo.callback(sweep_groups, kit)
        aside = Aside(without_unified=without_unified)
        undo.callback(aside.close)
        layout = aside.run(cgroups.detect)
        with _local.translated(spec.runtime):
            cgroups.prepare_parent(layout, kit.parent)
        ground = Ground(spec, kit, aside, layout, kind)
        try:
            recipe = aside.run(make, ground)
        except CapabilityError as error:
            return RefusedArm(error, undo.pop_all())  # other arms may stand in the run's group
        undo.callback(aside.run, recipe.close)
        places = _network.Places(kind, context.token, ("bridge",) if wants.joins else ())
        undo.callback(places.close)
        arm = PeerArm(ground, recipe, places, wants)
        undo.pop_all()
    return arm


def needs(*programs: str, trace: bool = False) -> tuple[Capability, ...]:
    """Return what every peer needs, its programs, and what a trace needs."""
    traced = (_exec_trace.need(),) if trace else ()
    return (*_local.needs(), *(_need_program(name) for name in programs), *traced)


def _need_program(name: str) -> Capability:
    try:
        return Capability(name, available=True, reason=str(find_program(name)))
    except HarnessError as error:
        return Capability(name, available=False, reason="not installed", hint=error.hint)


def mount_needs(mounts: Sequence[MountSpec]) -> tuple[Capability, ...]:
    return _mounts.needs(mounts)


def tokens() -> set[str]:
    return _local.tokens() | _exec_trace.tokens()


def reap(token: str, *, dry_run: bool) -> Sequence[str]:
    return [*_local.reap(token, dry_run=dry_run), *_exec_trace.reap(token, dry_run=dry_run)]


def program_facts(program: str, *version: str) -> dict[str, Json]:
    """Return path, digest and version of a program; `version` are the arguments that make it tell."""
    path = find_program(program)
    said = process.run([str(path), *(version or ("--version",))], timeout_ns=20 * 10**9).stdout.decode(errors="replace")
    return {
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "version": (said.strip().splitlines() or ["unknown"])[0],
    }
