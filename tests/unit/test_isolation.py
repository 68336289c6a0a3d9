"""Filters run by hand, answers from inside that are whole, torn or forged, and the number that stands for many."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.analysis import exposure, isolation
from harness.analysis.isolation import USED, Side
from harness.errors import UsageError
from harness.interfaces import Boundary, ExecResult
from harness.model.metrics import Absent, Measurement
from harness.probes import _bracketing, _ftrace, _surface, _syscalls, _traced, boundary, surface
from harness.probes._bpf import KILLED, Call, Program, call_of, codes, parse, verdict
from harness.probes._surface import Finding, Missing
from tests.fakes import FakeInstance

X86_64 = 0xC000003E
ALLOW, ERRNO_EPERM, KILL, TRACE, NOTIFY, LOG = 0x7FFF0000, 0x00050001, 0x80000000, 0x7FF00000, 0x7FC00000, 0x7FFC0000


def refuse(number: int, action: int) -> Program:
    """if (nr == number) return action; return ALLOW."""
    return ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, action), (0x06, 0, 0, ALLOW))


@pytest.mark.parametrize(
    ("action", "code"),
    [(ALLOW, 0), (LOG, 0), (ERRNO_EPERM, -1), (KILL, KILLED - 31), (0, KILLED - 31), (TRACE, -38), (NOTIFY, -38)],
)
def test_what_an_action_means_to_a_call(action: int, code: int) -> None:
    assert verdict([refuse(7, action)], Call(X86_64, 7)) == code
    assert verdict([refuse(7, action)], Call(X86_64, 8)) == 0


def test_the_lowest_action_of_all_filters_wins_and_the_newest_at_a_tie() -> None:
    newest, oldest = refuse(7, 0x00050002), refuse(7, 0x00050001)
    assert verdict([newest, oldest], Call(X86_64, 7)) == -2
    assert verdict([refuse(7, ERRNO_EPERM), refuse(7, KILL)], Call(X86_64, 7)) == KILLED - 31
    assert verdict([refuse(7, LOG), refuse(7, ERRNO_EPERM)], Call(X86_64, 7)) == -1


def test_a_filter_sees_arguments_and_the_way_into_the_kernel() -> None:
    low_word = (
        (0x20, 0, 0, 16),
        (0x54, 0, 0, 0xF0),
        (0x15, 0, 1, 0x40),
        (0x06, 0, 0, ERRNO_EPERM),
        (0x06, 0, 0, ALLOW),
    )
    assert verdict([low_word], Call(X86_64, 1, (0x4F, 0, 0, 0, 0, 0))) == -1
    assert verdict([low_word], Call(X86_64, 1, (0x5F, 0, 0, 0, 0, 0))) == 0
    arch = ((0x20, 0, 0, 4), (0x15, 0, 1, X86_64), (0x06, 0, 0, ALLOW), (0x06, 0, 0, KILL))
    assert codes((arch,), "x86_64", 3) == (0, 0, 0)
    assert codes((arch,), "i386", 2) == (KILLED - 31,) * 2
    assert call_of("x32", 5).number == 0x40000005


def test_a_program_that_no_kernel_would_take_is_refused() -> None:
    with pytest.raises(ValueError, match="no whole number"):
        parse(b"\0" * 7)
    with pytest.raises(ValueError, match="does not end"):
        verdict([((0x05, 0, 0, 0xFFFFFFFF),)], Call(X86_64, 1))
    assert parse(struct.pack("=HBBI", 6, 0, 0, ALLOW)) == ((6, 0, 0, ALLOW),)


def test_both_ways_are_compared_number_by_number() -> None:
    one: Mapping[str, tuple[int, ...]] = {"x86_64": (0, -1, 0), "i386": (0, 0, 0), "x32": (0, 0, 0)}
    other = {**one, "x86_64": (0, -38, -1)}
    assert _surface.differing(one, other) == ["x86_64:2"], "another errno is no disagreement on what is reached"


@pytest.mark.parametrize(
    "runs", [None, [], [[0, 511]], [[0, 10**9]], [["a", 1]], [[0, 512], [0, 1]]], ids=lambda runs: str(runs)[:20]
)
def test_a_forged_list_of_codes_is_an_error_and_not_a_finding(runs: object) -> None:
    answer = {"syscalls": {"method": "x", **{abi: {"codes": runs} for abi in ("x86_64", "i386", "x32")}}}
    found = _surface.oracle_codes(answer)
    if runs == [[0, 10**9]]:
        assert not isinstance(found, Missing), "cut to as many as there are numbers"
    else:
        assert isinstance(found, Missing)
        assert found.status == "error"


def test_refused_absent_and_permitted_are_three_things() -> None:
    found = _surface.tried({"a": 0, "b": 1, "c": 38, "d": 22, "e": KILLED - 31}, frozenset({38}), "operations")
    assert found == Finding(
        2, {"of": "5", "names": "a, d", "denied": "b (EPERM), e (killed by signal 31)", "absent": "c"}
    )
    assert _surface.section({"x": {"killed": 31}}, "x") == Missing(
        "denied", "the probe's child was killed by signal 31 while it took x"
    )
    assert isinstance(_surface.tried({}, frozenset(), "operations"), Missing)


def test_only_what_others_hold_too_counts_as_a_mount_of_the_host() -> None:
    text = """\
1 0 0:1 / / rw - overlay overlay rw
2 1 0:2 / /tmp rw - tmpfs tmpfs rw
3 1 8:1 /var/data /data\\040here rw,relatime - ext4 /dev/sda1 rw
4 1 8:1 /etc/hosts /etc/hosts ro - ext4 /dev/sda1 rw
5 1 0:3 /part /part rw - tmpfs tmpfs rw
6 1 0:4 / /proc rw - proc proc rw
"""
    assert _surface.host_mounts(text) == Finding(2, {"names": "/data here /part"})
    assert isinstance(_surface.host_mounts(""), Missing)
    seen = _surface.visible_mounts(text)
    assert seen == Finding(6, {"kinds": "tmpfs 2, ext4 2, overlay 1, proc 1"})
    assert isinstance(_surface.visible_mounts(""), Missing)


def test_block_devices_by_name() -> None:
    text = " 254       0 vda 9 0 1\n 254       1 vda1 3 0 1\n\n"
    assert _surface.block_devices(text) == Finding(2, {"names": "vda vda1"})
    assert _surface.block_devices("") == Finding(0, {"names": ""}), "a host without any"
    assert isinstance(_surface.block_devices(None), Missing)


@pytest.mark.parametrize(
    ("uid_map", "uid", "is_root", "host_uid"),
    [
        ("0 0 4294967295", 0, 1, "0"),
        ("0 100000 65536", 0, 0, "100000"),
        ("0 0 1", 0, 1, "0"),
        ("0 0 4294967295", 7, 0, "7"),
    ],
)
def test_whose_root_it_is(uid_map: str, uid: int, is_root: int, host_uid: str) -> None:
    found = _surface.root_of_host(uid_map, uid)
    assert isinstance(found, Finding)
    assert (found.value, found.labels["host_uid"]) == (is_root, host_uid)


def test_counters_of_the_host_lie_between_its_own_readings() -> None:
    before = _bracketing.fields({"/proc/stat": "ctxt 5000\nprocesses 2000\nsmall 3\nstill 7000\n"})
    after = _bracketing.fields({"/proc/stat": "ctxt 5100\nprocesses 2010\nsmall 9\nstill 7000\n"})
    inside = _bracketing.fields({"/proc/stat": "ctxt 5050\nprocesses 17\nsmall 5\nstill 7000\n"})
    assert _bracketing.bracketed(before, inside, after) == (1, 2)


def test_what_this_kernel_implements_goes_by_its_own_names() -> None:
    assert _syscalls.implemented(frozenset({"read", "newstat", "umount"})) == {0, 4, 166}
    assert _syscalls.NUMBERS["mseal"] == 462


def test_elsewhere_than_on_x86_64_system_calls_are_unsupported_and_never_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _syscalls.unknown_on("x86_64") == ""
    here = os.uname()
    elsewhere = os.uname_result((here.sysname, here.nodename, here.release, here.version, "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: elsewhere)
    answer = {**ANSWER, "syscalls": {"method": "none", "errno": 95}}
    found = {
        **surface.judged(surface.Observed(answer, True, {}, {})),
        **surface.from_outside(answer, ()),
        **boundary.filtered({1: ()}, frozenset()),
    }
    of_calls = {metric: outcome for metric, outcome in found.items() if ".syscalls." in metric.name}
    assert len(of_calls) == 9
    for outcome in of_calls.values():
        assert isinstance(outcome, Missing)
        assert (outcome.status, outcome.reason[-7:]) == ("unsupported", "aarch64")
    assert found[boundary.UNFILTERED] == Finding(1, {"of": "1"}), "what does not hang on numbers is told all the same"


def test_calls_of_a_trace_are_counted_once_each() -> None:
    text = '12 read(3, "x", 1) = 1\n12 futex(0x1, FUTEX_WAIT <unfinished ...>\n13 <... futex resumed>) = 0\n13 read(4'
    assert _traced.parse(text) == {"read": 2, "futex": 1}


def test_what_qemu_says_of_itself() -> None:
    tree = 'bus: main\n  dev: hpet, id ""\n    timers = 3\n  dev: hpet, id ""\n  dev: fw_cfg_io, id'
    assert boundary.devices_of(tree) == Finding(3, {"kinds": "2", "names": "fw_cfg_io hpet"})
    lines = ["00-03 (prio 0, i/o): hpet\r", "01-02 (prio 0, ram): pc.ram", "03-04 (prio 1, i/o): io @0000000000000010"]
    regions = "".join(f"  {line}\n" for line in lines)
    assert boundary.regions_of(regions).value == 2


KVM_SAYS = """\
provider: kvm\r
    pf_taken (cumulative): 0\r
    halt_exits (cumulative): 40\r
    io_exits (cumulative): 900\r
    exits (cumulative): 1000\r
    halt_poll_success_ns (cumulative, ns): 12\r
"""


@dataclass
class _Machine(FakeInstance):
    """A VM that does the fixed work at once; 500 exits more each time that it is asked."""

    boundary: Boundary = "vm"
    kvm: str = "enabled"
    asked: int = 0

    def monitor(self, command: str) -> str:
        if command == "info kvm":
            return f"kvm support: {self.kvm}\r\n"
        self.asked += 1
        return KVM_SAYS.replace("1000", str(1000 + 500 * self.asked)).replace("900", str(900 + 30 * self.asked))

    def exec(self, argv: Sequence[str], timeout_ns: int) -> ExecResult:
        return ExecResult(0, b"", b"")


def test_exits_of_a_machine_are_those_of_the_work_alone_and_absent_without_kvm() -> None:
    found = boundary.vm_exits(_Machine())
    assert isinstance(found, Finding)
    assert (found.value, found.labels["reasons"]) == (500, "io 30")
    emulated, container = boundary.vm_exits(_Machine(kvm="disabled")), boundary.vm_exits(FakeInstance())
    assert isinstance(emulated, Missing)
    assert emulated.reason.startswith("TCG: there are no VM exits")
    assert isinstance(container, Missing)


def test_exits_as_qemu_tells_them_of_a_machine_on_kvm() -> None:
    told = (Path(__file__).parents[1] / "data" / "qemu-7.2.22" / "info-stats-vcpu").read_text()
    found = boundary.exits_of(told)
    assert found["exits"] > 1000 > found["irq_window_exits"] > 0
    assert "insn_emulation" not in found
    assert boundary.exits_of("") == {}


TRACE = """\
# tracer: function
          sleep-41  [000] ...1.   1.000001: vfs_read <-ksys_read
          sleep-41  [001] d.h1.   1.000002: tick_irq_enter <-irq_enter_rcu
          sleep-41  [000] d..1.   1.000003: vfs_read <-ksys_read
          a [b] c-42  [000] .....   1.000004: do_futex.part.0 <-__x64_sys_futex
CPU:0 [LOST 7 EVENTS]
"""


def test_functions_are_traced_in_an_instance_of_our_own_which_is_removed_whatever_happens(tmp_path: Path) -> None:
    (tmp_path / "instances").mkdir()

    def work() -> None:
        (instance,) = (tmp_path / "instances").iterdir()
        said = {name: (instance / name).read_text() for name in ("set_ftrace_pid", "current_tracer", "tracing_on")}
        assert said == {"set_ftrace_pid": "41 42", "current_tracer": "function", "tracing_on": "1"}
        (instance / "trace").write_text(TRACE)
        (instance / "per_cpu/cpu0").mkdir(parents=True)
        (instance / "per_cpu/cpu0/stats").write_text("entries: 4\noverrun: 7\n")

    def make(instance: Path) -> None:
        (instance / "options").mkdir(parents=True)

    found = _ftrace.during(tmp_path, (41, 42), work, make, shutil.rmtree)
    assert found == _ftrace.Traced(frozenset({"vfs_read", "do_futex.part.0"}), 3, 7)
    with pytest.raises(ZeroDivisionError):
        _ftrace.during(tmp_path, (41,), lambda: print(1 // 0), make, shutil.rmtree)
    assert list((tmp_path / "instances").iterdir()) == []


def test_where_functions_cannot_be_traced_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "available_tracers").write_text("blk nop\n")
    absent, none = _ftrace.place([tmp_path / "nowhere"]), _ftrace.place([tmp_path / "nowhere", tmp_path])
    assert isinstance(absent, Missing)
    assert absent == Missing("absent", "tracefs is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)")
    assert isinstance(none, Missing)
    assert none.status == "unsupported"
    (tmp_path / "available_tracers").write_text("function nop\n")
    assert _ftrace.place([tmp_path]) == tmp_path


# -- the composite -------------------------------------------------------------------------------------------------

BARE = {
    "isolation.kernel.shared": 1,
    "isolation.syscalls.reachable": 360,
    "isolation.privileged_ops": 20,
    "isolation.capabilities.effective": 40,
    "isolation.writable.sysctls": 1000,
    "isolation.host_counter_bracketing": 0.97,
    "isolation.devices.opened": 4,
    "isolation.namespaces.own": 0,
    "isolation.host_root": 1,
    "isolation.lsm": 0,
}


def test_the_bare_process_is_ten_by_construction_and_nothing_is_zero() -> None:
    bare = Side("process", BARE)
    none = Side(
        "none",
        {**dict.fromkeys(BARE, 0), **{"isolation.kernel.shared": 1, "isolation.namespaces.own": 8, "isolation.lsm": 1}},
    )
    assert exposure.exposure(bare, bare).score == 10.0
    assert exposure.exposure(none, bare).score == 0.0


def test_what_acts_on_a_guests_own_kernel_exposes_nothing_but_its_monitor_counts() -> None:
    labels = {key: {"acts_on": "own kernel"} for key in BARE} | {"isolation.kernel.shared": {}}
    guest = {**BARE, "isolation.kernel.shared": 0, "isolation.boundary.syscalls.allowed": 180}
    found = exposure.exposure(Side("vm", guest, labels), Side("process", BARE))
    assert found.parts["system calls"] == 0
    assert found.parts["machine monitor's calls"] == 0.5
    assert found.score == pytest.approx(10 * 2 * 0.5 / 16, abs=0.05)
    assert found.weakest == "machine monitor's calls (50%)"


def test_too_little_measured_is_no_number() -> None:
    few = {key: BARE[key] for key in ("isolation.kernel.shared", "isolation.syscalls.reachable")}
    found = exposure.exposure(Side("half", few), Side("process", BARE))
    assert found.score is None
    assert found.coverage < exposure.COVERAGE_MIN
    lines = exposure.headlines([Side("process", BARE), Side("half", few)], {"process": "process"})
    assert any("half insufficient (21% measured)" in line for line in lines)


def test_an_order_that_hangs_on_the_weights_is_told_from_one_that_does_not() -> None:
    bare = Side("process", BARE)
    half = {key: value / 2 for key, value in BARE.items()} | {"isolation.kernel.shared": 1}
    assert exposure.order_held([bare, Side("half", half)], bare) == exposure.DRAWS
    calls = Side("a", {**half, "isolation.syscalls.reachable": 360, "isolation.privileged_ops": 0})
    assert exposure.order_held([calls, Side("b", half)], bare) < exposure.DRAWS


def test_headlines_tell_a_container_from_a_guest_and_name_the_hole() -> None:
    container = Side(
        "box", {**BARE, "isolation.engine_sockets": 1}, {"isolation.engine_sockets": {"names": "/run/docker.sock"}}
    )
    guest = Side("vm", {"isolation.kernel.shared": 0, "isolation.boundary.syscalls.allowed": 333}, {})
    assert "an engine's socket within reach: /run/docker.sock" in isolation.exposure_line(container)
    assert isolation.exposure_line(guest).startswith("vm: own kernel, none of the host's within direct reach")
    assert "not known" in isolation.exposure_line(Side("dark", {}))


def test_another_weight_changes_the_score_and_says_so_and_a_wrong_one_is_refused() -> None:
    bare, calls = Side("process", BARE), Side("calls", {**dict.fromkeys(BARE, 0), **{"isolation.kernel.shared": 1,
                "isolation.syscalls.reachable": 360, "isolation.namespaces.own": 8, "isolation.lsm": 1}})  # fmt: skip
    usual, other = (
        exposure.exposure(calls, bare),
        exposure.exposure(calls, bare, exposure.weighted({"system-calls": 6})),
    )
    assert (usual.score, other.score) == (2.1, 3.5), "3 of 14, and 6 of 17"
    lines = exposure.headlines([bare, calls], {"process": "process"}, exposure.weighted({"host-root": 0}))
    assert any("weights changed: host's root 0 instead of 1" in line for line in lines)
    assert not any("weights changed" in line for line in exposure.headlines([bare, calls], {"process": "process"}))
    for wrong, words in (({"syscalls": 1.0}, "no such part"), ({"host-root": -1.0}, "not a number from 0 up")):
        with pytest.raises(UsageError, match=words):
            exposure.weighted(wrong)


def test_one_runtime_beside_another_row_by_row() -> None:
    better = {"isolation.a": "lower", "isolation.b": "higher", "isolation.c": "lower", "isolation.d": "neither",
              "isolation.e": "lower", "isolation.own": "lower", USED: "lower"}  # fmt: skip
    one = Side("ours", dict.fromkeys(better, 1.0), {"isolation.own": {"acts_on": "own kernel"}})
    other = Side("docker", {**dict.fromkeys(better, 2.0), "isolation.c": 1.0, "isolation.e": 0.0})
    found = isolation.compared(one, other, better)
    assert (found.less, found.more, found.same) == (("isolation.a",), ("isolation.b", "isolation.e"), 1)
    (line,) = isolation.peer_lines([one, other], {"ours": "builtin", "docker": "docker"}, better)
    assert line == "ours beside docker exposes less: a 1 not 2; more: b 1 not 2, e 1 not 0; 1 rows are the same"
    assert isolation.peer_lines([one, other], {"ours": "builtin", "docker": "podman"}, better) == []


# -- answers that nobody should believe ----------------------------------------------------------------------------

CODES = [[0, 512]]
ANSWER: dict[str, Any] = {
    "identity": {"boot_id": "x", "status": "Uid:\t0\t0\t0\t0\n", "uid_map": "0 0 4294967295", "label": ""},
    "syscalls": {
        "method": "m", "errno": 0, "vectors": [["clone", 0, [56, 0, 0, 0, 0, 0, 0]]],
        **{abi: {"exists": 0, "codes": CODES} for abi in ("x86_64", "i386", "x32")},
    },
    "operations": {"mount": 1},
    "writable": {"sysctls": {"count": 1, "names": ["/proc/sys/a"]}, "pseudo_files": {"count": 0, "names": []}},
    "masked": {"/proc/kcore": "masked"},
    "devices": {"place": "/tmp", "opened": {"null": 0}},
    "leaks": {"syslog": 1},
    "sees": {"sockets": {"count": 0, "names": []}, "processes": 1},
    "files": {"/proc/stat": "cpu0 1\nctxt 5000\n", "/proc/self/mountinfo": "1 0 0:1 / / rw - overlay o rw\n"},
}  # fmt: skip
WEIRD: list[Any] = [None, True, -1, 10**30, 1.5, "x", "\ud800", [], [[]], {}, {"killed": 9}, [None, None]]


def _paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in entries:
        yield (*at, key)
        yield from _paths(below, (*at, key))


def test_a_forged_answer_is_judged_or_refused_and_never_a_crash() -> None:
    for path in _paths(ANSWER):
        for value in WEIRD:
            forged = copy.deepcopy(ANSWER)
            place: Any = forged
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            with contextlib.suppress(ValueError):
                surface.judged(surface.Observed(forged, True, {}, {}))


class _Killed(FakeInstance):
    def exec(self, argv: Sequence[str], timeout_ns: int) -> ExecResult:
        return ExecResult(159, b"", b"")


def test_a_probe_that_was_killed_leaves_errors_and_no_values() -> None:
    found: dict[str, Measurement | Absent] = {}
    with surface.PLUGIN.watch(_Killed(), lambda item: found.update({item.metric.name: item})):
        pass
    assert set(found) == {metric.name for metric in surface.METRICS}
    reachable = found["isolation.syscalls.reachable"]
    assert isinstance(reachable, Absent)
    assert reachable.reason.startswith("error: the probe ended with 159 (signal 31)")
    assert not any(isinstance(item, Measurement) for item in found.values())
