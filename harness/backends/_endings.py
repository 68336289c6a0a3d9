"""How a guest ended, or why it never began, by what its kernel, QEMU and libvirt said: one message each. Pure."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.agent.marks import printable
from harness.model.units import format_bytes

Kind = Literal[
    "guest-oom", "guest-panic", "vmm-killed", "vmm-crashed", "vmm-failed", "vmm-paused", "guest-silent", "gone"
]

_PANIC = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)")
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d[T ][\d:.]+(Z|\+\d{4}):? ?")
_EMULATOR = re.compile(r"^qemu-system-\w+: (-[\w-]+ (\{.*\}|\S+): )?")
_VARIABLE = re.compile(r"[A-Z_]+=")
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}
_LIBVIRTS_OWN = (
    "shutting down",
    "starting up",
    "Domain id=",
    "char device redirected",
    "terminating",
)
_MORE_MEMORY = "raise limits.memory, or the runtime's memory:"
_DAMAGED = "its disk is damaged or cut off: remove it below data/images/disks, the next run makes it anew"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a guest that did not come as far as it should.

    `status` is QEMU's as waitpid(2) gives it, None while it runs or where it is a daemon's. `last` is the last
    milestone, `log` QEMU's own last line, `paused` why QEMU has stopped the guest, `killed` how many processes the
    guest's kernel has killed for memory.
    """

    console: bytes
    last: str
    memory_bytes: int
    status: int | None = None
    log: str | None = None
    paused: str | None = None
    ended: bool = True
    kernel_spoke: bool = True
    killed: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a guest: a kind for machines (of `records.ENDINGS`), a line for people, and what helps."""

    kind: Kind
    message: str
    hint: str | None = None


def explain(seen: Evidence) -> Ending | None:
    """Return what happened, None where nothing is known beyond what the agent itself has said."""
    panic = _PANIC.search(seen.console)
    size = format_bytes(seen.memory_bytes)
    if seen.killed:
        what = f"guest: out of memory ({size}): its kernel killed {seen.killed} of its processes"
        return Ending("guest-oom", what, _MORE_MEMORY)
    if panic is not None:
        return _panicked(printable(panic[1]), size)
    if seen.paused is not None:
        return Ending("vmm-paused", f"VMM: QEMU has stopped the guest: {seen.paused}", "accel: tcg does without KVM")
    if seen.status:
        return _vmm_ended(seen.status, seen.log)
    return _without_a_word(seen, size)


def _without_a_word(seen: Evidence, size: str) -> Ending | None:
    if seen.ended and seen.kernel_spoke:
        return Ending("gone", f"guest: switched itself off or was reset; last: {seen.last}")
    if seen.ended:
        what = f"guest: was reset before its kernel said anything; last: {seen.last}"
        return Ending("gone", what, f"{size} may be too little for this kernel: {_MORE_MEMORY}")
    if not seen.kernel_spoke:
        hint = "a kernel for another machine, or far too little memory; another firmware: or machine:"
        return Ending("guest-silent", f"guest: its kernel has said nothing; last: {seen.last}", hint)
    return None


def _panicked(words: str, size: str) -> Ending:
    if "memory" in words.lower():
        return Ending("guest-oom", f"guest: out of memory ({size}): kernel panic: {words}", _MORE_MEMORY)
    hint = "the kernel found no initramfs or root that it can use" if "root fs" in words or "init" in words else None
    return Ending("guest-panic", f"guest: kernel panic: {words}", hint)


def _vmm_ended(status: int, log: str | None) -> Ending:
    words = f": {log}" if log else ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in {*signal.Signals} else str(number)
        if number in _CRASHES:
            return Ending(
                "vmm-crashed", f"VMM: QEMU crashed ({name}){words}", "that is a bug of QEMU's; its log says more"
            )
        hint = (
            "the host's kernel kills so when memory is short: dmesg says whether it did" if name == "SIGKILL" else None
        )
        return Ending("vmm-killed", f"VMM: QEMU was killed by {name} from outside", hint)
    return Ending("vmm-failed", f"VMM: QEMU ended with code {os.WEXITSTATUS(status)}{words}")


def last_line(lines: Sequence[str]) -> str | None:
    """Return the last line of a guest's log that is QEMU's own, without time and program name."""
    for line in reversed(lines):
        words = _EMULATOR.sub("", _STAMP.sub("", line)).strip()
        if words and not words.startswith(("-", "/", *_LIBVIRTS_OWN)) and not _VARIABLE.match(words):
            return words
    return None


_AGENT_HINTS = (
    (
        re.compile(
            r"mount \w+ on /(lower|root|l\d+): (Invalid argument|Structure needs|Input/output|Bad message|Protocol)"
        ),
        _DAMAGED,
    ),
    # EUCLEAN, which musl has no words for
    (re.compile(r"mount \w+ on \S+: (No error information|Input/output error)"), _DAMAGED),
    (
        re.compile(r"mount \w+ on \S+: No such device"),
        "the guest's kernel has no such file system: another kernel: or disk:",
    ),
    (re.compile(r"module \S+: "), "the module does not fit this kernel: modules: must be of the same release"),
    (
        re.compile(r"no such (device|disk)"),
        "the kernel has no driver for the disk's bus (disk_bus:), or the disk is not there",
    ),
    (re.compile(r"Cannot allocate memory|No space left"), _MORE_MEMORY),
)


def agent_hint(message: str) -> str | None:
    """Return what helps where the guest's agent could not go on."""
    return next((hint for pattern, hint in _AGENT_HINTS if pattern.search(message)), None)


CPU_HINT = "virsh cpu-models x86_64 lists them; host and max are known too"
_LESS_HINT = "less memory:, or prealloc: false"
_HUGE_HINT = "mount -t hugetlbfs none /dev/hugepages, and sysctl vm.nr_hugepages"
_REFUSALS = (
    (r"Unknown CPU model (\S+)", r"cpu: \1: libvirt knows no such model", CPU_HINT),
    (r"does not support machine type '([^']+)'", r"machine: \1: this QEMU has no such machine", "another machine:"),
    (r"hugetlbfs filesystem is not mounted", "hugepages: this host has no hugetlbfs", _HUGE_HINT),
    (r"cannot set up guest memory '[^']*': (.*)", r"memory: the host does not give it: \1", _LESS_HINT),
    (r"Cannot access storage file '([^']+)'[^:]*: (.*)", r"disk: \1: \2", None),
    (r"unable to map backing store for guest RAM: (.*)", r"hugepages: the host has not enough of them: \1", _HUGE_HINT),
    (r"(?:Could not|Failed to) open '([^']+)': (.*)", r"disk: \1: \2", None),
    (r"could not (?:load|open) kernel '?([^':]+)'?:? ?(.*)", r"kernel: \1: cannot be loaded \2", None),
)  # fmt: skip


def refused(text: str) -> tuple[str, str | None]:
    """Return what libvirt or QEMU did not want, and what helps, from libvirt's error."""
    words = text.removeprefix("internal error: ")
    for pattern, message, hint in _REFUSALS:
        match = re.search(pattern, words)
        if match:
            return f"libvirt: {match.expand(message).strip()}", hint
    for start in ("qemu unexpectedly closed the monitor: ", "process exited while connecting to monitor: "):
        if words.startswith(start):
            said = last_line(words.removeprefix(start).splitlines())
            return f"VMM: QEMU did not start: {said or 'it said nothing'}", None
    return f"libvirt: the domain did not start: {text}", None
