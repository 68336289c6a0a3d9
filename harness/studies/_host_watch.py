"""What the host's kernel says while a sandbox breaks: is it still the same one, did it kill, did anything fail?

The kernel's log is read from its end (Documentation/ABI/testing/dev-kmsg of the kernel): a record a read, EPIPE where
some were lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LOG = Path("/dev/kmsg")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RECORD_BYTES = 8192
_KILL = re.compile(r"oom-kill:constraint=(?P<why>\w+).*?(?:oom_memcg=(?P<group>[^,]*))?(?:,global_oom)?,task_memcg=")
_TROUBLE = re.compile(
    r"\b(BUG:|Oops|general protection fault|soft lockup|hard LOCKUP|rcu.*stall|blocked for more than)"
)


def boot_id() -> str:
    """Return what tells this boot of the host's kernel from any other kernel."""
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True)
class Told:
    """What the kernel has said. `killed`: own groups in which it killed for memory; `trouble`: what none may cause."""

    killed: tuple[str, ...]
    trouble: tuple[str, ...]


def _is_in(group: str | None, other: str) -> bool:
    return bool(other) and (group == other or (group or "").startswith(f"{other}/"))


def judge(lines: Sequence[str], own: str, neighbour: str) -> Told:
    """Return what lines of the kernel's log say; a kill for memory beyond a group, or in the neighbour's, is trouble.

    `neighbour` is the path of its group, empty where it has none.
    Kills in other groups are those of others on this host: a limit of theirs was reached.
    """
    killed, trouble = [], []
    for line in lines:
        found = _KILL.search(line)
        if found and (found["why"] != "CONSTRAINT_MEMCG" or _is_in(found["group"], neighbour)):
            trouble.append(f"killed for memory: {found['group'] or found['why']}")
        elif found and _is_in(found["group"], own):
            killed.append(found["group"] or "")
        elif not found and _TROUBLE.search(line):
            trouble.append(line)
    return Told(tuple(killed), tuple(trouble))


class HostWatch:
    """The host's kernel from now on. Raises: OSError where its log may not be read."""

    def __init__(self, own: str, neighbour: str) -> None:
        self._own, self._neighbour = own, neighbour
        self._boot_id = boot_id()
        self._fd = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def told(self) -> Told:
        """Return what was said since the last call, or since the beginning."""
        lines: list[str] = []
        lost: tuple[str, ...] = ()
        while True:
            try:
                record = os.read(self._fd, _RECORD_BYTES).decode("utf-8", "replace")
            except BlockingIOError:
                break
            except BrokenPipeError:
                lost = ("lines of the kernel's log were lost",)
                continue
            lines.append(record.partition(";")[2].partition("\n")[0])
        told = judge(lines, self._own, self._neighbour)
        other = () if boot_id() == self._boot_id else ("the host's kernel is another one",)
        return Told(told.killed, (*told.trouble, *lost, *other))

    def close(self) -> None:
        os.close(self._fd)
