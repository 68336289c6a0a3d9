"""What studies must find, whatever the machine: orderings, never numbers of speed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from harness.host.paths import cache_dir
from harness.interfaces import RunContext
from harness.model.metrics import Absent, Measurement
from harness.studies import _pagecache
from harness.studies.layers import PLUGIN as LAYERS
from harness.trials import ownership

pytestmark = pytest.mark.needs("root", "overlayfs")
OPTIONS = {"images": 3, "base": "1MiB", "own": "256KiB"}


@pytest.fixture
def context() -> Iterator[RunContext]:
    token = secrets.token_hex(4)
    yield RunContext("studies", token, ownership.claim(token, "studies"), cache_dir())
    ownership.reap(token, [], dry_run=False)


def measured(form: str, context: RunContext) -> dict[str, float]:
    arm = LAYERS.prepare(
        form, LAYERS.options.model_validate(OPTIONS), LAYERS.arm_options.model_validate({"form": form}), context
    )
    said: list[Measurement | Absent] = []
    arm.measure("b00", said.append)
    arm.close()
    return {item.metric.name: item.value for item in said if isinstance(item, Measurement)}


def test_shared_layers_are_on_the_disk_and_in_the_page_cache_once(context: RunContext) -> None:
    shared, flat = measured("layers", context), measured("flattened", context)
    assert flat["layers.disk"] > 2 * shared["layers.disk"]
    assert shared["layers.cache.first"] == flat["layers.cache.first"] == flat["layers.cache.second"] == 1 << 20
    assert shared["layers.cache.second"] == 0
    assert shared["layers.saved"] > 0.4
    assert flat["layers.saved"] < 0.1


@pytest.mark.needs("qemu", "erofs")
def test_disks_of_vms_on_a_base_hold_what_differs(context: RunContext) -> None:
    whole, chained = measured("raw", context), measured("qcow2", context)
    assert whole["layers.disk.marginal"] > 1 << 20
    assert 256 << 10 < chained["layers.disk.marginal"] < 1 << 20
    assert measured("erofs-layers", context)["layers.disk.marginal"] < 320 << 10


def test_reading_brings_a_file_into_the_cache_and_evicting_takes_it_out(context: RunContext) -> None:
    context.work.mkdir(parents=True)
    (context.work / "file").write_bytes(bytes(1 << 20))
    root = os.open(context.work, os.O_RDONLY)
    _pagecache.evict(["file"], root)
    with (context.work / "file").open("rb") as file:
        assert _pagecache.resident_bytes(file.fileno()) == 0
    assert _pagecache.read_all(["file"], root) == (1 << 20, 1 << 20)
    assert _pagecache.read_all(["file"], root) == (1 << 20, 0)
    os.close(root)
