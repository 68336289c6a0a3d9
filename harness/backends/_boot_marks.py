"""What a guest's channels tell of its boot: the firmware's log, the kernel's first messages and the agent's marks.

Nothing is written for it: the firmware and the kernel talk anyhow, and the host notes when.
"""

from __future__ import annotations

from dataclasses import replace

from harness.agent.session import AgentSession
from harness.model.milestones import DECOMPRESS, EXEC, FIRMWARE, HANDOVER, INITRAMFS, KERNEL, VCPU, Mark

_PREAMBLE_MAX_BYTES = 2048
# Each part of a kernel that opens the early console sets its speed, whose low byte is 1 at 115200 baud: a bzImage's
# setup code, its decompressor, the kernel proper. arch/x86/boot/early_serial_console.c, arch/x86/kernel/early_printk.c
_OPENED = 1
_BANNER = b"Linux version"  # init/version.c: linux_banner
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
        self._opened_ns: list[int] = []
        self._read_bytes = 0
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
        """Marks and the kernel's early messages share a port: what is no mark is the kernel's."""
        known = len(self.marks)
        super()._on_marks(_fd, chunk, at_ns)
        self._on_console(at_ns, agent_spoke=len(self.marks) > known)

    def _append(self, mark: Mark) -> None:
        if self._counted and mark.ticks is not None:
            mark = replace(mark, instructions=mark.ticks)
        super()._append(mark)
        if mark.milestone == EXEC and self._tsc_khz:
            self._append_first_instruction(self._tsc_khz)

    def _append_first_instruction(self, tsc_khz: int) -> None:
        """Of all marks so far the one that came with the least delay tells best when the counter was 0."""
        zeros = [mark.at_ns - mark.ticks * 1_000_000 // tsc_khz for mark in self.marks if mark.ticks is not None]
        if zeros:
            super()._append(Mark(VCPU, min(zeros)))

    def _on_console(self, at_ns: int, *, agent_spoke: bool) -> None:
        console = self.parser.console
        new = console[self._read_bytes :]
        self._read_bytes = len(console)
        if not console:
            return
        if self.find(KERNEL) is None:
            self._on_preamble(bytes(new), at_ns, agent_spoke=agent_spoke)
        if not self._unpacks and _UNPACKS in console:
            self._unpacks = True
            self._append(Mark(INITRAMFS, at_ns))

    def _on_preamble(self, new: bytes, at_ns: int, *, agent_spoke: bool) -> None:
        if self._spoke_ns is None:
            self._spoke_ns = at_ns
            if self._firmware_ns is not None:
                self._append(Mark(HANDOVER, self._firmware_ns))
        self._opened_ns += [at_ns] * new.partition(_BANNER)[0].count(_OPENED)
        if agent_spoke or _BANNER in self.parser.console or len(self.parser.console) > _PREAMBLE_MAX_BYTES:
            if len(self._opened_ns) > 1:
                self._append(Mark(DECOMPRESS, self._opened_ns[-2]))
            self._append(Mark(KERNEL, self._opened_ns[-1] if self._opened_ns else self._spoke_ns))
