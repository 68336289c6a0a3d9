"""The rows that this process starts itself: the bare program, one in the launcher's cgroup, the built-in container."""

from __future__ import annotations

import os
import time

from benchmarks._same import LIMITS, PROGRAM, UPPER_BYTES, Channel, Place, Sample
from harness.container import cgroups, defaults, launcher, plan, seccomp, seccomp_default
from harness.container.cgroups import Group, JoinMethod
from harness.container.runtime import Container
from harness.container.spec import Capabilities, ContainerSpec, Overlay, Process, Seccomp
from harness.container.step import Step

END_NS = 10 * 10**9


class Floor:
    """posix_spawn of the very program, without anything around it."""

    name = "floor"

    def __init__(self, place: Place) -> None:
        self._program = str(place.tree / PROGRAM[1:])
        self._channel = Channel()

    def start(self, number: int) -> Sample:
        with self._channel.pipe() as (reader, writer):
            requested_ns = time.monotonic_ns()
            pid = os.posix_spawn(self._program, [PROGRAM], {}, file_actions=self._channel.actions(writer))
            os.close(writer)
            execed_ns = self._channel.stamp(reader)
            os.waitpid(pid, 0)
            exited_ns = time.monotonic_ns()
        return Sample(0, execed_ns - requested_ns, exited_ns - requested_ns, exited_ns - requested_ns)

    def close(self) -> None:
        self._channel.close()


def container_spec(place: Place, workspace: str) -> ContainerSpec:
    """Return the container of the benchmark: what Docker's containers have, over the common tree."""
    names = defaults.DOCKER_CAPABILITIES
    profile = seccomp_default.default_profile(names)
    program = seccomp.compiled(profile, None)
    return ContainerSpec(
        Overlay((str(place.tree),)),
        Process(
            (PROGRAM,),
            env=("PATH=/bin",),
            capabilities=Capabilities(names, names, names),
            no_new_privs=True,
            seccomp=Seccomp(program, seccomp.flags(profile)),
        ),
        workspace,
        workspace_bytes=UPPER_BYTES,
        namespaces=defaults.NAMESPACES,
        hostname="benchmark",
        mounts=defaults.mounts(),
        masked_paths=defaults.MASKED_PATHS,
        readonly_paths=defaults.READONLY_PATHS,
    )


class Launched:
    """A plan of the library: `Container.start` in a group of its own, deleted at once."""

    def __init__(self, name: str, place: Place, join: JoinMethod = "fast", *, trace: bool = False) -> None:
        self.name = name
        self._layout = cgroups.detect()
        self._parent = place.parent
        self._join: JoinMethod = join
        self._channel = Channel()
        joins = Group(self._layout, f"{place.parent}/any").joins(join)
        self._extra: tuple[int, ...] = ()
        self.steps = self._steps(place, joins, trace=trace)
        self._plan = launcher.plan_memfd(self.steps)

    def _steps(self, place: Place, joins: plan.Joins, *, trace: bool) -> tuple[Step, ...]:
        spec = container_spec(place, str(place.directory(self.name)))
        assert spec.process.seccomp is not None
        self._extra = (launcher.sealed_memfd("seccomp", spec.process.seccomp.program),)
        keyring = f"_ses.{place.parent}"
        return plan.container_steps(spec, plan.Launch(3, joins, seccomp=True, trace=trace, keyring=keyring))

    def start(self, number: int) -> Sample:
        with self._channel.pipe() as (reader, writer):
            requested_ns = time.monotonic_ns()
            container = self.launch(number, writer)
            os.close(writer)
            execed_ns = self._channel.stamp(reader)
            container.wait(END_NS)
            exited_ns = time.monotonic_ns()
            container.delete()
            deleted_ns = time.monotonic_ns()
        trace = tuple(at_ns - requested_ns for at_ns in container.times_ns)
        return Sample(0, execed_ns - requested_ns, exited_ns - requested_ns, deleted_ns - requested_ns, trace)

    def launch(self, number: int, writer: int) -> Container:
        """Return a container that runs; the number makes its group's name."""
        group = Group(self._layout, f"{self._parent}/{self.name}-{number}")
        group.join_method = self._join
        kept = (self._channel.null, writer, self._channel.errors)
        return Container.start(self._plan, kept, group, LIMITS, extra=self._extra)

    def close(self) -> None:
        self._channel.close()
        for fd in (self._plan, *self._extra):
            os.close(fd)


class Control(Launched):
    """The same launcher, group and limits, in a root of its own, without a container around it."""

    def _steps(self, place: Place, joins: plan.Joins, *, trace: bool) -> tuple[Step, ...]:
        launch = plan.Launch(3, joins)
        unified = str(launch.fd_cgroup + joins.tasks) if joins.unified else "-1"
        return (
            Step("clone", ("0", unified)),
            *(Step("join", (str(launch.fd_cgroup + number),)) for number in range(joins.tasks)),
            Step("chroot", (str(place.tree),)),
            Step("arguments", (PROGRAM,)),
            Step("environment", ("PATH=/bin",)),
            Step("find"),
            Step("exec"),
        )
