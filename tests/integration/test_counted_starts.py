"""System calls of a start, counted by the host: those of the workload are in, those of whoever asks later are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.backends import _counters
from harness.interfaces import RunContext
from harness.model.milestones import READY
from tests.container_kit import BOTH, deadline, running, shell

pytestmark = pytest.mark.needs("root", "overlayfs")
LOOP = "i=0; while [ $i -lt 100 ]; do read -r line </proc/self/stat; i=$((i+1)); done"
LOOP_CALLS = 100 * 4
"""Open, dup, read, close and more, each time round."""


def calls(backend: str, tree: Path, context: RunContext, script: str) -> int:
    with running(backend, tree, context, shell(script), {"count": True}) as instance:
        found = instance.wait(READY, deadline()).calls
        instance.exec(["/bin/true"], 10**10)
    assert found is not None
    return found


@BOTH
def test_more_work_is_more_calls_and_the_same_work_is_not(backend: str, tree: Path, context: RunContext) -> None:
    if not (can := _counters.need()).available:
        pytest.skip(can.reason)
    base = calls(backend, tree, context, "true")
    assert abs(calls(backend, tree, context, "true") - base) <= max(4, base // 20)
    assert calls(backend, tree, context, LOOP) >= base + LOOP_CALLS


def test_a_start_that_is_not_counted_says_nothing(tree: Path, context: RunContext) -> None:
    with running("builtin", tree, context, shell("true")) as instance:
        assert instance.wait(READY, deadline()).calls is None
