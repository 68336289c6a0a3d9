"""How a guest ended is told from what was seen of it, in one message that names who ended what."""

import os
import signal
from dataclasses import replace
from typing import get_args

import pytest

from harness.backends import _endings
from harness.backends._endings import Evidence, explain, last_line, refused
from harness.model.records import ENDINGS

SEEN = Evidence(console=b"", last="kernel", memory_bytes=64 << 20, status=0)
PANIC = b"[ 2.1] Kernel panic - not syncing: System is deadlocked on memory\r\n[ 2.1] CPU: 0 PID: 1\r\n"
ROOT = b"[ 2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n"


@pytest.mark.parametrize(
    ("seen", "kind", "words"),
    [
        (replace(SEEN, console=PANIC), "guest-oom", "out of memory (64.0 MiB): kernel panic: System is deadlocked"),
        (replace(SEEN, console=ROOT), "guest-panic", "kernel panic: VFS: Unable to mount root fs"),
        (replace(SEEN, killed=2), "guest-oom", "its kernel killed 2 of its processes"),
        (replace(SEEN, status=signal.SIGKILL), "vmm-killed", "QEMU was killed by SIGKILL from outside"),
        (replace(SEEN, status=signal.SIGSEGV, log="boom"), "vmm-crashed", "QEMU crashed (SIGSEGV): boom"),
        (replace(SEEN, status=1 << 8, log="boom"), "vmm-failed", "QEMU ended with code 1: boom"),
        (replace(SEEN, ended=False, status=None, paused="emulation failure"), "vmm-paused", "emulation failure"),
        (SEEN, "gone", "switched itself off or was reset; last: kernel"),
        (replace(SEEN, kernel_spoke=False), "gone", "was reset before its kernel said anything"),
        (replace(SEEN, ended=False, status=None, kernel_spoke=False), "guest-silent", "its kernel has said nothing"),
    ],
)
def test_each_ending_has_its_kind_and_words(seen: Evidence, kind: str, words: str) -> None:
    ending = explain(seen)
    assert ending is not None
    assert ending.kind == kind
    assert words in ending.message
    assert "\n" not in ending.message


def test_every_kind_of_ending_is_defined_once() -> None:
    assert set(get_args(_endings.Kind)) <= set(ENDINGS)


def test_a_guest_that_runs_and_has_spoken_is_not_explained_away() -> None:
    assert explain(replace(SEEN, ended=False, status=None)) is None


def test_a_panic_is_told_before_the_reset_that_follows_it_and_before_a_kill_by_the_harness() -> None:
    ending = explain(replace(SEEN, console=PANIC, status=int(signal.SIGKILL)))
    assert ending is not None
    assert ending.kind == "guest-oom"


def test_statuses_are_those_of_waitpid() -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "kill -SEGV $$"], {})
    ending = explain(replace(SEEN, status=os.waitpid(pid, 0)[1]))
    assert ending is not None
    assert ending.kind == "vmm-crashed"


LIBVIRT = "internal error: qemu unexpectedly closed the monitor: "


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (LIBVIRT + "2026-11-25T01:39:05.681748Z qemu-system-x86_64: Error while loading elf kernel",
         "VMM: QEMU did not start: Error while loading elf kernel"),
        (LIBVIRT + '2026-11-25T01:39:14Z qemu-system-x86_64: -blockdev {"driver":"qcow2"}: Unsupported qcow2 version 9',
         "VMM: QEMU did not start: Unsupported qcow2 version 9"),
        (LIBVIRT + "2026-11-25T01:30:13Z qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory",
         "libvirt: memory: the host does not give it: Cannot allocate memory"),
        ("internal error: Unknown CPU model NoSuch", "libvirt: cpu: NoSuch: libvirt knows no such model"),
        ("unsupported configuration: Emulator '/q' does not support machine type 'q99'",
         "libvirt: machine: q99: this QEMU has no such machine"),
        ("Cannot access storage file '/d.erofs': No such file or directory",
         "libvirt: disk: /d.erofs: No such file or directory"),
        ("something new", "libvirt: the domain did not start: something new"),
    ],
)  # fmt: skip
def test_what_libvirt_refuses_is_one_line_without_its_plumbing(said: str, message: str) -> None:
    assert refused(said)[0] == message


def test_the_last_line_of_a_log_is_qemus_own() -> None:
    lines = [
        "2026-11-25 01:00:00.000+0000: starting up libvirt version: 9.0.0",
        "LC_ALL=C \\",
        "/usr/bin/qemu-system-x86_64 \\",
        "-msg timestamp=on",
        "KVM internal error. Suberror: 1",
        "2026-11-25 01:00:09.000+0000: Domain id=4 is tainted: high-privileges",
        "2026-11-25 01:00:10.000+0000: shutting down, reason=crashed",
    ]
    assert last_line(lines) == "KVM internal error. Suberror: 1"
    assert last_line(lines[:4]) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("agent: guest: mount erofs on /lower: Invalid argument", "damaged or cut off"),
        ("agent: guest: mount erofs on /lower: No such device", "no such file system"),
        (
            "agent: guest: /dev/vda: no such device: is the disk attached and its driver loaded?",
            "no driver for the disk",
        ),
        ("agent: guest: module 03-x.ko: Exec format error", "of the same release"),
    ],
)
def test_where_the_agent_could_not_go_on_it_is_said_what_helps(said: str, words: str) -> None:
    assert words in (_endings.agent_hint(said) or "")


def test_other_words_of_the_agent_stay_what_they_are() -> None:
    assert _endings.agent_hint("agent: ready: port 80: something listens on it already") is None
