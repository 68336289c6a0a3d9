"""Known times and a known amount of memory, found again in a container and in a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import plugins
from harness.interfaces import RunContext
from harness.trials import selftest
from tests.container_kit import BOTH, MIB, deadline, running

pytestmark = pytest.mark.needs("root", "overlayfs")


@BOTH
def test_the_ledger_finds_what_was_touched_and_the_clock_what_was_waited(
    backend: str, tree: Path, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "DELAYS", {100_000_000: 6})
    monkeypatch.setattr(selftest, "TOUCHED_BYTES", 24 * MIB)
    with running(backend, tree, context, selftest.WORKLOAD) as instance:
        instance.wait("ready", deadline())
        memory = list(selftest.accounts(instance, plugins.load("probes", "memory")))
        times = list(selftest.times(instance))
    assert [check.what for check in memory if check.holds] == ["memory.pss", "memory.cgroup.anon"], memory
    assert times[0].found is not None
    assert times[0].found > 90_000_000
