"""A container as an instance needs it, whoever made it: our own runtime, or what another one started."""

from __future__ import annotations

from typing import Protocol

from harness.container.cgroups import MemoryUse
from harness.container.runtime import Exit


class Started(Protocol):
    """`harness.container.runtime.Container`, or `_peer_container.PeerContainer`."""

    @property
    def pid(self) -> int: ...
    def pids(self) -> tuple[int, ...]: ...
    def memory(self) -> MemoryUse: ...
    def wait(self, timeout_ns: int) -> Exit | None: ...
    def delete(self) -> None: ...
