"""A cgroup around a VMM, only to meter it: a guest's limit is the size of its RAM. And the end of a run's groups."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness.container import cgroups
from harness.container.errors import ContainerError
from harness.errors import BackendError, TrialError
from harness.interfaces import CgroupMemory

_END_NS = 10_000_000_000


class Meter:
    """The group `harness-TOKEN/TRIAL` of one VMM; without root or controllers there is none, and nothing to read."""

    def __init__(self, token: str, trial_id: str) -> None:
        layout = cgroups.detect()
        self._layout = layout if os.geteuid() == 0 and not layout.missing() else None
        self._parent = f"harness-{token}"
        self._group = cgroups.Group(layout, f"{self._parent}/{trial_id}") if self._layout else None

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have what the calling thread starts meanwhile in the group. Raises TrialError."""
        if self._group is None or self._layout is None:
            yield
            return
        try:
            cgroups.prepare_parent(self._layout, self._parent)
            self._group.create(None)
        except ContainerError as error:
            raise TrialError(f"cgroup of the VMM: {error}") from error
        with self._group.caller_inside():
            yield

    def memory(self) -> CgroupMemory | None:
        if self._group is None:
            return None
        use = self._group.memory()
        return CgroupMemory(
            use.anon_bytes, use.file_bytes, use.kernel_bytes, use.current_bytes, use.peak_bytes, use.shmem_bytes
        )

    def remove(self) -> None:
        """End what is still in it and remove it. Raises TrialError."""
        if self._group is None:
            return
        deadline_ns = time.monotonic_ns() + _END_NS
        try:
            self._group.kill(deadline_ns)
            self._group.remove(deadline_ns)
        except ContainerError as error:
            raise TrialError(f"cgroup of the VMM: {error}") from error


def release(token: str) -> None:
    """Remove the run's own group, unless another arm has something in it."""
    layout = cgroups.detect()
    if os.geteuid() == 0 and not layout.missing():
        cgroups.remove_parent(layout, f"harness-{token}")


def reap(token: str, *, dry_run: bool) -> list[str]:
    """End the processes in a run's groups and remove the groups; return one line for each thing found.

    It serves every backend that has groups, whoever made them. Raises: BackendError for what does not go away.
    """
    layout, name = cgroups.detect(), f"harness-{token}"
    if name not in cgroups.list_groups(layout, name):
        return []
    groups = cgroups.subgroups(layout, name)
    pids = {pid for group in groups for pid in cgroups.members(layout, group)}
    if not dry_run:
        try:
            cgroups.remove_group(layout, name, time.monotonic_ns() + _END_NS)
        except ContainerError as error:
            raise BackendError(f"reap: {error}") from error
    return [
        *(f"process: pid {pid} in cgroup {name}" for pid in sorted(pids)),
        *(f"cgroup: {group}" for group in groups),
    ]
