"""What a guest's channels tell of its boot: the firmware's log, the kernel's first messages and the agent's marks.

Nothing is written for it: the firmware and the kernel talk anyhow, and the host notes when.
"""

from __future__ import annotations

import re
from dataclasses import replace

from harness.agent.session import AgentSession
from harness.model.milestones import DECOMPRESS, FIRMWARE, HANDOVER, INIT, INITRAMFS, KERNEL, VCPU, Mark

_LINE_MAX_BYTES = 128
# arch/x86/boot/compressed/misc.c: extract_kernel(), with an early console
_DECOMPRESSOR = re.compile(rb"\s*(early console in extract_kernel|Decompressing Linux|\.\.\. )|\s*input_data:")
_BOOTED = re.compile(rb"Booting the kernel[^\n]*\n\s*\S")
_UNPACKS = b"unpack rootfs image as initramfs"  # init/initramfs.c: do_populate_rootfs(), at KERN_INFO


class BootSession(AgentSession):
    """The session of a guest. `counted`: the guest's counter shows instructions; else `tsc_khz` is its speed.

    `tsc_khz` None: the counter does not start with the vCPU, and nothing follows from it.
    """

    def __init__(self, *, counted: bool, tsc_khz: int | None) -> None:
        super().__init__()
        self._counted = counted
        self._tsc_khz = tsc_khz
        self._firmware_ns: int | None = None
        self._spoke_ns: int | None = None
        self._unpacks = False

    def add_firmware(self, fd: int) -> None:
        self._register(fd, self._on_firmware)

    def _on_firmware(self, _fd: int, _chunk: bytes, at_ns: int) -> None:
        """Note the first and the last byte of the firmware's log; its text is dropped."""
        if self._firmware_ns is None:
            self._append(Mark(FIRMWARE, at_ns))
        if self.find(KERNEL) is None:
            self._firmware_ns = at_ns

    def _on_marks(self, _fd: int, chunk: bytes, at_ns: int) -> None:
        """Marks and the kernel's early messages share a port: the first byte that is no mark is not the agent's."""
        known = len(self.marks)
        super()._on_marks(_fd, chunk, at_ns)
        self._on_console(at_ns, agent_spoke=len(self.marks) > known)

    def _append(self, mark: Mark) -> None:
        if self._counted and mark.ticks is not None:
            mark = replace(mark, instructions=mark.ticks)
        super()._append(mark)
        if mark.milestone == INIT and mark.ticks is not None and self._tsc_khz:
            super()._append(Mark(VCPU, mark.at_ns - mark.ticks * 1_000_000 // self._tsc_khz))

    def _on_console(self, at_ns: int, *, agent_spoke: bool) -> None:
        console = self.parser.console
        if not console:
            return
        if self._spoke_ns is None:
            self._spoke_ns = at_ns
            self._hand_over()
        if self.find(KERNEL) is None:
            self._who_spoke(bytes(console[:_LINE_MAX_BYTES]), at_ns, agent_spoke=agent_spoke)
        elif not self._unpacks and _UNPACKS in console:
            self._unpacks = True
            self._append(Mark(INITRAMFS, at_ns))

    def _hand_over(self) -> None:
        if self._firmware_ns is not None:
            self._append(Mark(HANDOVER, self._firmware_ns))

    def _who_spoke(self, first: bytes, at_ns: int, *, agent_spoke: bool) -> None:
        """The first line is the decompressor's or the kernel's: which, its words tell."""
        assert self._spoke_ns is not None
        if self.find(DECOMPRESS) is not None:
            if _BOOTED.search(self.parser.console):
                self._append(Mark(KERNEL, at_ns))
        elif _DECOMPRESSOR.match(first):
            self._append(Mark(DECOMPRESS, self._spoke_ns))
        elif agent_spoke or b"\n" in first.lstrip() or len(first) >= _LINE_MAX_BYTES:
            self._append(Mark(KERNEL, self._spoke_ns))
