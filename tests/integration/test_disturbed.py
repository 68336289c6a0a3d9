"""What must hold when a sandbox disturbs or breaks: orderings and endings, never numbers of speed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.host.paths import cache_dir
from harness.interfaces import RunContext, Study
from harness.model.metrics import Absent, Measurement
from harness.studies.interference import DISK_BYTES_PER_S
from harness.trials import ownership

pytestmark = pytest.mark.needs("root", "overlayfs")
WINDOW_MS = 100
DISTURBED_S = 1.2
"""How long the antagonist of a disk disturbs: the window, and around it."""


@pytest.fixture
def context(busybox: Path) -> Iterator[RunContext]:
    token = secrets.token_hex(4)
    yield RunContext("disturbed", token, ownership.claim(token, "disturbed"), cache_dir())
    ownership.reap(token, [], dry_run=False)


def measured(
    name: str, own: Mapping[str, Any], arm: Mapping[str, Any], context: RunContext
) -> dict[str, Measurement | Absent]:
    study: Study = plugins.load("studies", name)
    prepared = study.prepare("arm", study.options.model_validate(own), study.arm_options.model_validate(arm), context)
    said: list[Measurement | Absent] = []
    try:
        prepared.measure("b00-arm", said.append)
    finally:
        prepared.close()
    return {item.metric.name: item for item in said}


def test_a_limited_antagonist_writes_no_more_than_its_limit(context: RunContext) -> None:
    options = {"window_ms": WINDOW_MS, "kinds": ["disk"], "instances": 2}
    kept = measured("interference", options, {"backend": "builtin", "mode": "limited"}, context)[
        "interference.disk.kept"
    ]
    if isinstance(kept, Absent):
        pytest.skip(kept.reason)
    written_bytes = int(kept.labels["antagonist_did"]) << 20
    assert 0 < written_bytes <= 2 * DISTURBED_S * DISK_BYTES_PER_S


@pytest.mark.needs("qemu", "libvirt", "kernel", "erofs")
def test_a_guest_whose_init_exits_panics_and_its_monitor_says_why(context: RunContext) -> None:
    options = {"beat_ms": 200, "faults": ["memory", "init_exit"]}
    arm = {"backend": "libvirt", "options": {"accel": "tcg"}}
    found = measured("containment", options, arm, context)
    memory, ended, trouble = (found[f"containment.{name}"] for name in ("memory", "init_exit", "host.trouble"))
    assert isinstance(memory, Measurement)
    assert memory.value == 1, memory.labels
    assert isinstance(ended, Measurement)
    assert ended.value == 1, ended.labels
    assert "Attempted to kill init" in ended.labels["seen"]
    assert "SHUTDOWN guest=true reason=guest-reset" in ended.labels["monitor"]
    assert isinstance(found["containment.panic"], Absent)
    assert isinstance(trouble, Absent) or trouble.value == 0
