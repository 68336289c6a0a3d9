"""What every study promises, whatever it compares: one test file for all of them, each in a small variant."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.cli._known import load_scenarios
from harness.errors import ImageError
from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.store import Store
from harness.interfaces import RunContext, Study
from harness.model.metrics import Absent, Measurement
from harness.trials import ownership

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SMALL = [
    pytest.param(
        "layers",
        {"images": 2, "base": "1MiB", "own": "256KiB"},
        [{"form": form} for form in ("layers", "flattened", "raw", "qcow2", "erofs-layers")],
        id="layers",
    ),
    pytest.param(
        "build-cache",
        {"steps": 3, "loops": 0, "step_size": "4KiB"},
        [{"change": "cold"}, {"change": "end"}],
        id="build-cache",
    ),
    pytest.param(
        "storage", {"depth": 2}, [{"driver": "overlay"}, {"driver": "btrfs"}, {"driver": "aufs"}], id="storage"
    ),
    pytest.param("portability", {}, [{"form": "oci-zstd"}], id="portability"),
    pytest.param("interference", {"window_ms": 100}, [{"backend": "builtin"}], id="interference"),
    pytest.param(
        "containment",
        {"beat_ms": 200, "faults": ["memory", "disk", "init_exit", "init_memory"]},
        [{"backend": "builtin"}],
        id="containment",
    ),
    pytest.param(
        "portability",
        {},
        [{"form": "qcow2-zstd", "accel": "tcg"}],
        id="portability-vm",
        marks=pytest.mark.needs("qemu", "libvirt", "kernel", "erofs"),
    ),
]
"""Options and arms that take a second or two, a VM four."""


@pytest.fixture(scope="session")
def _busybox() -> None:
    """The base that studies build on and ship, unless it is there already."""
    store = Store(data_dir() / "images")
    try:
        store.find("busybox")
    except ImageError:
        bootstrap_busybox(store, cache_dir())


@pytest.fixture
def context() -> Iterator[RunContext]:
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "contract")
    yield RunContext("contract", token, scratch, cache_dir())
    ownership.reap(token, [], dry_run=False)


@pytest.mark.parametrize("name", plugins.names("studies"))
def test_it_says_what_it_is(name: str) -> None:
    study: Study = plugins.load("studies", name)
    assert study.name == name
    assert study.doc
    names = [metric.name for metric in study.metrics]
    assert len(set(names)) == len(names)
    assert {metric.partition(".")[0] for metric in names} == {names[0].partition(".")[0]}
    assert set(study.backends) <= set(plugins.names("backends"))


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_scenarios_are_right(path: Path) -> None:
    assert load_scenarios(path)


@pytest.mark.needs("root", "overlayfs")
@pytest.mark.usefixtures("_busybox")
@pytest.mark.parametrize(("name", "own", "arms"), SMALL)
def test_every_arm_measures_all_it_names_and_leaves_nothing(
    name: str, own: dict[str, Any], arms: list[dict[str, Any]], context: RunContext
) -> None:
    study: Study = plugins.load("studies", name)
    options = study.options.model_validate(own)
    for number, words in enumerate(arms):
        arm = f"arm-{number}"
        arm_options = study.arm_options.model_validate(words)
        assert all(need.available for need in study.needs(options, arm_options))
        prepared = study.prepare(arm, options, arm_options, context)
        for trial in (f"b00-{arm}", f"b01-{arm}")[: 2 if name == "layers" else 1]:
            said: list[Measurement | Absent] = []
            prepared.measure(trial, said.append)
            assert sorted(item.metric.name for item in said) == sorted(metric.name for metric in study.metrics)
        prepared.close()
    left = [path for path in context.work.rglob("*") if path.is_file()] if context.work.exists() else []
    assert left == []
    for backend in study.backends:
        assert plugins.load("backends", backend).reap(context.token, dry_run=True) == []
