"""The steps of the control: a container's launcher, cgroup, tree and agent, without a container around them."""

from __future__ import annotations

from harness.container import syscalls
from harness.container.frozen import Frozen
from harness.container.plan import MARKS_FD, NO_GROUPS, TREE_FD, Launch, in_cgroup
from harness.container.plan_root import change_root
from harness.container.step import Step, call


class ProcessSpec(Frozen):
    """A process of the host in another root: no namespaces, no loss of privileges. `root` is mounted by the caller."""

    root: str
    attested: str
    network: str | None = None
    """Path of a network namespace to join, None for the host's."""


def process_steps(spec: ProcessSpec, launch: Launch) -> tuple[Step, ...]:
    """Return the steps of the control: the same launcher, cgroup, tree and agent, without a container around them."""
    joined = (Step("namespaces", (hex(syscalls.CLONE_NEWNET), spec.network)),) if spec.network else ()
    unified = str(launch.fd_cgroup + launch.joins.tasks) if launch.joins.unified else "-1"
    return (
        *([Step("trace")] if launch.trace else []),
        Step("mark", (str(MARKS_FD), "runtime.exec")),
        *joined,
        Step("clone", ("0", unified)),
        *in_cgroup(launch),
        call("setsid"),
        NO_GROUPS,
        Step("parent-death"),
        Step("tree", (spec.attested, str(TREE_FD))),
        *change_root(spec.root),
        call("umask", "022"),
        Step("exec-fd"),
    )
