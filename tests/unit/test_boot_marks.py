"""What a guest's boot tells on its channels: who spoke first, when the firmware let go, and what a counter means."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.backends._boot_marks import BootSession
from harness.model.milestones import Mark
from harness.probes.boot import PLUGIN
from tests.fakes import FakeInstance

KERNEL_LINE = b"\x01[    0.000000] Linux version 6.1.0\r\n"
SETUP_CODE = b"\x01Probing EDD (edd=off to disable)... ok\r\n"


@pytest.fixture
def boot() -> Iterator[BootSession]:
    session = BootSession(counted=False, tsc_khz=2_000_000)
    yield session
    session.close()


def times(boot: BootSession) -> dict[str, int]:
    return {mark.milestone: mark.at_ns for mark in boot.marks}


def test_firmware_has_the_machine_until_the_kernel_speaks(boot: BootSession) -> None:
    boot._on_firmware(-1, b"SeaBIOS\n", 10)
    boot._on_firmware(-1, b"Booting from ROM..\n", 20)
    boot._on_marks(-1, KERNEL_LINE[:1], 30)
    boot._on_marks(-1, KERNEL_LINE[1:], 31)
    boot._on_firmware(-1, b"a reboot\n", 40)
    assert times(boot) == {"firmware": 10, "handover": 20, "kernel": 30}


def test_a_kernel_that_unpacks_itself_speaks_after_its_decompressor(boot: BootSession) -> None:
    boot._on_marks(-1, SETUP_CODE, 10)
    boot._on_marks(-1, b"\x01", 20)
    assert times(boot) == {}, "whose byte that was only what follows can tell"
    boot._on_marks(-1, KERNEL_LINE, 30)
    assert times(boot) == {"decompress": 20, "kernel": 30}


def test_a_kernel_that_may_talk_says_when_it_unpacks_the_initramfs(boot: BootSession) -> None:
    boot._on_marks(-1, KERNEL_LINE, 10)
    boot._on_marks(-1, b"[    0.4] Trying to unpack rootfs image as ini", 20)
    boot._on_marks(-1, b"tramfs...\r\n", 21)
    assert times(boot) == {"kernel": 10, "initramfs": 21}


def test_a_silent_kernel_has_no_mark_of_its_own(boot: BootSession) -> None:
    boot._on_marks(-1, b"\x1einit 5\n", 10)
    assert times(boot) == {"init": 10}


def test_a_counter_of_known_speed_tells_when_the_first_instruction_was(boot: BootSession) -> None:
    boot._on_marks(
        -1,
        b"\x1einit 5/4000000000\n",
        3 * 10**9 + 500,
    )
    boot._on_marks(-1, b"\x1eexec 5/6000000000\n", 4 * 10**9 + 20)
    assert times(boot)["vcpu"] == 10**9 + 20
    assert all(mark.instructions is None for mark in boot.marks)


def test_a_counter_of_instructions_is_no_clock() -> None:
    boot = BootSession(counted=True, tsc_khz=None)
    boot._on_marks(-1, b"\x1einit 5/568656105\n\x1eready 7/737406726\n", 10)
    boot.close()
    assert "vcpu" not in times(boot)
    told: dict[str, object] = {}
    instance = FakeInstance(boundary="vm", marks=list(boot.marks))
    PLUGIN.conclude(instance, lambda found: told.__setitem__(found.metric.name, getattr(found, "value", None)))
    assert {name: value for name, value in told.items() if value is not None} == {
        "boot.instructions": 737406726,
        "boot.instructions.init": 568656105,
    }


def test_a_start_that_was_counted_says_so_with_ready() -> None:
    told: dict[str, object] = {}
    instance = FakeInstance(boundary="container", marks=[Mark("ready", 10, calls=498)])
    PLUGIN.conclude(instance, lambda found: told.__setitem__(found.metric.name, getattr(found, "value", None)))
    assert {name: value for name, value in told.items() if value is not None} == {"boot.calls": 498}


@pytest.mark.parametrize(("boundary", "word"), [("vm", "icount: true"), ("container", "count: true")])
def test_what_was_not_counted_is_absent_with_what_helps(boundary: str, word: str) -> None:
    reasons: list[str] = []
    instance = FakeInstance(boundary=boundary)  # type: ignore[arg-type]
    PLUGIN.conclude(instance, lambda found: reasons.append(found.reason))  # type: ignore[union-attr]
    assert len(reasons) == len(PLUGIN.metrics)
    assert any(word in reason for reason in reasons)
