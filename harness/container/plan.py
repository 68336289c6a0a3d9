"""The steps in which the launcher makes a container, or a process in one. Pure: nothing here touches the system.

A plan is a sequence of steps; `encode` writes it as the launcher reads it (`csrc/launch/launch.h` lists each step's
name and arity), `describe` as a person does. `container_steps` has the order, with the reason where it is not plain.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.container import syscalls
from harness.container.frozen import Frozen
from harness.container.plan_process import (
    capabilities,
    groups,
    home,
    keyring,
    labels,
    oom_score,
    rlimits,
    scheduling,
    user,
)
from harness.container.plan_root import change_root, is_shared, late_steps, propagate, propagation_of, root_steps
from harness.container.spec import CLONE_FLAGS, ContainerSpec, Detached, Hook, HookPoint, Process
from harness.container.step import Step, call, encode

__all__ = ["Joins", "Launch", "Step", "container_steps", "encode", "exec_steps", "is_shared"]

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38  # include/uapi/linux/prctl.h
_JOINED_BY_UNSHARE = ("cgroup", "time")
MARKS_FD = 4
TREE_FD = 6


class Joins(Frozen):
    """How the process gets into its cgroup: the number of v1 `tasks` fds, and whether a cgroup2 directory follows."""

    tasks: int = 0
    unified: bool = False

    @property
    def count(self) -> int:
        return self.tasks + self.unified


class Launch(Frozen):
    """How a plan is started, and by whom.

    The launcher's fds are, in this order: `kept` for the program, three of its own, those of `joins`, then where wanted
    the seccomp filter, the listening socket on which a created container waits, the process to attach to, and mounts
    that are nowhere yet.
    """

    kept: int = 3
    joins: Joins = Joins()
    agent: bool = False
    """The program is an agent, given as an fd, instead of `Process.args`."""
    dies_with_parent: bool = False
    waits: bool = False
    """After `created` it waits for `start`."""
    seccomp: bool = False
    trace: bool = False
    rootless: bool = False
    keyring: str = ""
    """Name of the session keyring to join or make; empty for the caller's."""

    @property
    def fd_cgroup(self) -> int:
        return self.kept + 3

    @property
    def fd_seccomp(self) -> int:
        return self.fd_cgroup + self.joins.count

    @property
    def fd_last(self) -> int:
        """The listening socket, or the process to attach to."""
        return self.fd_seccomp + self.seccomp

    @property
    def fd_mounts(self) -> int:
        """The first of the detached mounts that a ContainerSpec names."""
        return self.fd_last + self.waits


NO_GROUPS = call("groups", 0, "")
"""Those of the caller go: to drop them later would take a capability that may be gone by then."""
UNDUMPABLE = call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
"""Until exec: nobody inside can trace us, or open our fds in /proc, while some still are the host's."""


# -- into namespaces and cgroups -------------------------------------------------------------------------------------


def _clone(spec: ContainerSpec, launch: Launch) -> Step:
    kinds = [space.kind for space in spec.namespaces if space.path is None and space.kind not in _JOINED_BY_UNSHARE]
    flags = hex(sum(CLONE_FLAGS[kind] for kind in kinds))
    unified = str(launch.fd_cgroup + launch.joins.tasks) if launch.joins.unified else "-1"
    if "user" not in kinds:
        return Step("clone", (flags, unified))
    has_root = any(entry.inside == 0 for entry in spec.uid_maps)
    return Step("clone", (flags, unified, "root" if has_root else ""))


def denies_setgroups(spec: ContainerSpec, *, rootless: bool) -> bool:
    """Without privileges, a map of groups needs setgroups(2) forbidden first (user_namespaces(7))."""
    return rootless and not id_ranges(spec)


def id_ranges(spec: ContainerSpec) -> bool:
    """Return whether more is mapped than one id, which needs privileges, or newuidmap(1) and newgidmap(1)."""
    return any(len(maps) > 1 or maps[0].size > 1 for maps in (spec.uid_maps, spec.gid_maps) if maps)


def _joined(spec: ContainerSpec, *, rootless: bool) -> list[Step]:
    """Who has privileges here has them in every user namespace below, and joins that last; others get theirs by it."""
    joined = [(space.kind, space.path) for space in spec.namespaces if space.path is not None]
    joined.sort(key=lambda space: (space[0] == "user") is not rootless)
    words = tuple(word for kind, path in joined for word in (hex(CLONE_FLAGS[kind]), path))
    return [Step("namespaces", words)] if words else []


def _root_of_joined(spec: ContainerSpec) -> list[Step]:
    """The root of a user namespace that was joined, whoever we were; once we are in the cgroup, which is not its."""
    if not any(space.kind == "user" and space.path for space in spec.namespaces):
        return []
    return [call("setresgid", 0, 0, 0), call("setresuid", 0, 0, 0)]


def _before_clone(spec: ContainerSpec, launch: Launch, sources: list[Step]) -> list[Step]:
    """What needs the caller's own privileges, or decides what the clone inherits."""
    steps = [Step("trace")] if launch.trace else []
    if launch.agent:
        steps.append(Step("mark", (str(MARKS_FD), "runtime.exec")))
    steps.append(Step("proc"))
    if any(space.kind == "pid" and space.path for space in spec.namespaces):
        steps.append(UNDUMPABLE)  # processes are there already that could trace us
    if spec.process.oom_score_adj is not None:
        steps.append(oom_score(spec.process.oom_score_adj))
    if spec.has_new("user"):
        steps += rlimits(spec.process)  # its root may raise none
    steps += [*sources, *_joined(spec, rootless=launch.rootless)]
    if spec.has_new("time"):  # for what is cloned (time_namespaces(7))
        steps.append(call("unshare", hex(syscalls.CLONE_NEWTIME)))
        steps += [Step("write", ("self/timens_offsets", "{} {} {}\n".format(*offset))) for offset in spec.time_offsets]
    return steps


def in_cgroup(launch: Launch) -> list[Step]:
    """Into each cgroup v1 by "0" in its `tasks`.

    A single thread that moves itself needs no cgroup_threadgroup_rwsem; `cgroup.procs` takes it for writing, which on
    an idle host waits for an RCU grace period: 10 to 15 ms for each hierarchy.
    """
    return [call("join", launch.fd_cgroup + number, "0", 1) for number in range(launch.joins.tasks)]


def _born(spec: ContainerSpec, launch: Launch) -> list[Step]:
    """The child, from its first instruction: in its cgroup, in a session of its own, without the caller's groups."""
    steps = in_cgroup(launch)
    if spec.has_new("cgroup"):  # after joining, so that the cgroup's root inside is the container's own group
        steps.append(call("unshare", hex(syscalls.CLONE_NEWCGROUP)))
    steps += [*_root_of_joined(spec), call("setsid")]
    if not denies_setgroups(spec, rootless=launch.rootless):
        steps.append(NO_GROUPS)
    if launch.dies_with_parent:
        steps.append(Step("parent-death"))
    return steps


# -- the process -----------------------------------------------------------------------------------------------------


def _filters_early(process: Process, launch: Launch) -> bool:
    """Without no_new_privs a filter is taken while CAP_SYS_ADMIN is still there."""
    return launch.seccomp and not process.no_new_privs


def _before_start(process: Process, launch: Launch) -> list[Step]:
    """The program is looked for as the user whom it shall have, unless a filter stands between.

    That has to be taken with all privileges, and as late as can be: it need not allow what waiting and looking take.
    """
    if _filters_early(process, launch):
        return [*groups(process), *_program(process, launch)]
    return [*groups(process), *_privileges(process, launch), *_program(process, launch)]


def _after_start(process: Process, launch: Launch) -> list[Step]:
    return [_filter(process, launch), *_privileges(process, launch)] if _filters_early(process, launch) else []


def _privileges(process: Process, launch: Launch) -> list[Step]:
    named = process.uid or process.gid or process.capabilities is not None
    steps = user(process.uid, process.gid) if named else []
    if process.capabilities is not None:
        steps += capabilities(process.capabilities)
    if process.no_new_privs:
        steps.append(call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if launch.dies_with_parent:  # again: a change of credentials may clear it (prctl(2))
        steps.append(Step("parent-death"))
    return steps


def _filter(process: Process, launch: Launch) -> Step:
    assert process.seccomp is not None
    return Step("seccomp", (str(launch.fd_seccomp), hex(process.seccomp.flags)))


def _program(process: Process, launch: Launch) -> list[Step]:
    if launch.agent or not process.args:  # a container without a process can be created, and never started
        return []
    return [
        Step("arguments", process.args),
        Step("environment", process.env),
        *([] if any(entry.startswith("HOME=") and entry != "HOME=" for entry in process.env) else [home(process)]),
        Step("directory", (process.cwd,)),
        Step("find"),
    ]


def _surroundings(process: Process, launch: Launch) -> list[Step]:
    """What the process inherits and no privilege of it could change."""
    return [
        *scheduling(process),
        *([keyring(launch.keyring)] if launch.keyring else []),
        call("umask", f"0{0o022 if process.umask is None else process.umask:o}"),
        *([Step("stdio", (str(process.uid),))] if not launch.agent and not process.terminal else []),
    ]


def _end(process: Process, launch: Launch, hooks: list[Step]) -> list[Step]:
    """The filter late, so that it need allow little. Hooks inside run programs of the image: they have it too."""
    late = [_filter(process, launch)] if launch.seccomp and process.no_new_privs else []
    return [*late, *hooks, Step("exec-fd" if launch.agent else "exec")]


def _hooks(spec: ContainerSpec, point: HookPoint) -> list[Step]:
    return [hook_step(hook) for hook in spec.hooks.get(point, ())]


def hook_step(hook: Hook) -> Step:
    """Return the step that runs a hook; its arguments begin with argv[0], as execve(2) takes them."""
    return Step("hook", (hook.path, str(hook.timeout_s or 0), str(len(hook.args)), *hook.args, *hook.env))


# -- plans -----------------------------------------------------------------------------------------------------------


def _identity(spec: ContainerSpec) -> list[Step]:
    steps = [Step("loopback")] if spec.has_new("network") else []
    if spec.hostname is not None:
        steps.append(call("sethostname", spec.hostname, len(os.fsencode(spec.hostname))))
    if spec.domainname is not None:
        steps.append(call("setdomainname", spec.domainname, len(os.fsencode(spec.domainname))))
    steps += [Step("write", (f"sys/{name}", value)) for name, value in spec.sysctl]
    return steps


def _before_pivot(spec: ContainerSpec) -> list[Step]:
    """The runtime's own hooks run now, on the host; createContainer's run here, where they see the mounts."""
    if not any(spec.hooks.get(point) for point in ("prestart", "createRuntime", "createContainer", "startContainer")):
        return []
    return [Step("sync", ("hooks",)), *_hooks(spec, "createContainer")]


def _console(process: Process, *, bind: bool) -> list[Step]:
    rows, columns = process.console_size or (0, 0)
    size = (str(process.uid), str(rows), str(columns))
    return [Step("terminal", (*size, "console" if bind else ""))] if process.terminal else []


def _attested(spec: ContainerSpec) -> list[Step]:
    name = f"@{spec.attested.fd}" if isinstance(spec.attested, Detached) else spec.attested
    return [Step("tree", (name, str(TREE_FD)))] if name else []


def container_steps(spec: ContainerSpec, launch: Launch) -> tuple[Step, ...]:
    """Return the steps that make a container. Raises ContainerError for what cannot be one."""
    process = spec.process
    sources, root = root_steps(spec, rootless=launch.rootless)
    new = spec.has_new("mount")
    isolated = [propagate("/", propagation_of(spec) | syscalls.MS_REC)] if new else []
    return (
        *_before_clone(spec, launch, sources),
        _clone(spec, launch),
        *_born(spec, launch),
        *isolated,
        *_attested(spec),
        *root,
        *_identity(spec),
        *_console(process, bind=True),
        *late_steps(spec),
        *labels(process),
        *_before_pivot(spec),
        UNDUMPABLE,
        *([Step("pivot")] if new else change_root(f"{spec.workspace}/root")),
        *([Step("readonly", (".", "alone"))] if spec.root_readonly else []),
        *([propagate("/", spec.root_propagation)] if spec.root_propagation and new else []),
        *([] if spec.has_new("user") else rlimits(process)),
        *([call("personality", hex(spec.personality))] if spec.personality is not None else []),
        *_surroundings(process, launch),
        *_before_start(process, launch),
        *([Step("created"), Step("await", (str(launch.fd_last),))] if launch.waits else []),
        *_after_start(process, launch),
        *_end(process, launch, _hooks(spec, "startContainer")),
    )


def exec_steps(process: Process, launch: Launch, namespaces: int) -> tuple[Step, ...]:
    """Return the steps of another process in a container: into its cgroup and namespaces, then as its first one."""
    return (
        *([Step("trace")] if launch.trace else []),
        Step("proc"),
        UNDUMPABLE,
        *([oom_score(process.oom_score_adj)] if process.oom_score_adj is not None else []),
        *rlimits(process),
        call("setns", launch.fd_last, hex(namespaces)),
        Step("clone", ("0", str(launch.fd_cgroup + launch.joins.tasks) if launch.joins.unified else "-1")),
        *in_cgroup(launch),
        call("setsid"),
        *([] if launch.rootless else [NO_GROUPS]),
        *([Step("parent-death")] if launch.dies_with_parent else []),
        *_console(process, bind=False),
        *labels(process),
        *_surroundings(process, launch),
        *_before_start(process, launch),
        *_after_start(process, launch),
        *_end(process, launch, []),
    )


def describe(steps: Sequence[Step]) -> str:
    """Return one numbered line for each step; the launcher's errors name the same numbers."""
    return "\n".join(f"{index:3} {step}" for index, step in enumerate(steps))
