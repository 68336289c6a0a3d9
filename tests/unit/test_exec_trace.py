"""The kernel's trace of what an engine executes, read as milestones."""

from harness.backends._exec_trace import parse
from harness.model.milestones import OCI_EXEC, OCI_START, SHIM_EXEC

# Of Linux 6.18, with a start by another engine before ours.
TRACE = """
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
         dockerd-24001   [000] .....    99.900000: sched_process_exec: filename=/usr/sbin/runc pid=24001 old_pid=24001
         dockerd-24436   [000] ..... 100.250228: sched_process_exec: filename=/usr/bin/containerd-shim-runc-v2 pid=24436 old_pid=24436
 containerd-shim-24437   [001] ..... 100.260000: sched_process_exec: filename=/usr/bin/containerd-shim-runc-v2 pid=24437 old_pid=24437
           <...>-24438   [001] ..... 100.300001: sched_process_exec: filename=/usr/sbin/runc pid=24438 old_pid=24438
           <...>-24440   [001] ..... 100.700000: sched_process_exec: filename=/usr/sbin/runc pid=24440 old_pid=24440
           <...>-24441   [001] ..... 101.500000: sched_process_exec: filename=/usr/sbin/runc pid=24441 old_pid=24441
"""  # noqa: E501


def test_the_first_shim_and_the_first_two_calls_of_the_runtime_are_the_milestones() -> None:
    marks = parse(TRACE, 100 * 10**9, 101 * 10**9)
    assert [(mark.milestone, mark.at_ns) for mark in marks] == [
        (SHIM_EXEC, 100_250_228_000),
        (OCI_EXEC, 100_300_001_000),
        (OCI_START, 100_700_000_000),
    ]
    assert marks[0].detail == "/usr/bin/containerd-shim-runc-v2"


def test_what_was_executed_at_another_time_is_not_ours() -> None:
    assert parse(TRACE, 102 * 10**9, 103 * 10**9) == []
    assert parse("", 0, 10**12) == []
