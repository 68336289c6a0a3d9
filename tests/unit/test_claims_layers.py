"""The rows on layers and storage: what a study's run says of them, and the whole table of several runs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness.analysis.claims import whole_table
from harness.analysis.claims_layers import STATEMENTS
from harness.analysis.summary import analyse
from harness.model.records import MetricValue, TrialRecord, TrialSpec
from harness.model.report import Claim, Contrast
from tests.example_run import example_run

LAYERS = {
    "layers": {"form": "layers", "side": "container", "images": 8},
    "flattened": {"form": "flattened", "side": "container", "images": 8},
    "vm-qcow2": {"form": "qcow2", "side": "vm", "images": 8},
}
BUILD = {name: {"change": name, "engine": "harness", "side": "container"} for name in ("cold", "none", "top", "end")}
MOVED = {
    "image": {"form": "oci", "side": "container"},
    "vm-raw": {"form": "raw", "side": "vm", "accelerator": "tcg"},
}
DRIVERS = {
    "overlay": {"driver": "overlay", "in": "host", "depth": 20},
    "aufs": {"driver": "aufs", "in": "host", "depth": 20},
}
Values = Mapping[str, Mapping[str, tuple[float, str]]]


def rows(
    kind: str, arms: Mapping[str, Mapping[str, object]], values: Values, blocks: int = 6, absent: str = "not there"
) -> dict[str, Claim]:
    """Return the rows of a run in which every block of an arm measured the same."""
    names = {metric: unit for own in values.values() for metric, (_, unit) in own.items()}
    metrics = {name: {"unit": unit, "better": "lower", "assume": "nothing", "doc": ""} for name, unit in names.items()}
    run = example_run(
        runtimes=tuple(arms), control=next(iter(arms)), arms=arms, metrics=metrics, image={},
        study={"kind": kind, "doc": "", "options": {}} if kind else {},
    )  # fmt: skip
    trials = [
        TrialRecord(
            TrialSpec(f"b{block:02d}-{arm}", block, place, arm, f"study:{kind}" if kind else "builtin"),
            "ok",
            "2026-03-14T09:15:00.000Z",
            metrics={name: MetricValue(value, unit) for name, (value, unit) in values.get(arm, {}).items()},
            absent={name: absent for name in names if name not in values.get(arm, {})},
        )
        for block in range(blocks)
        for place, arm in enumerate(arms)
    ]
    return {claim.feature: claim for claim in analyse(run, trials).claims}


def disks(layers: int, flattened: int) -> Values:
    return {
        "layers": {"layers.disk": (layers << 20, "bytes"), "layers.cache.second": (0, "bytes")},
        "flattened": {"layers.disk": (flattened << 20, "bytes"), "layers.cache.second": (16 << 20, "bytes")},
        "vm-qcow2": {"layers.disk": (40 << 20, "bytes")},
    }


@pytest.mark.parametrize(("flattened", "verdict"), [(256, "holds"), (65, "fails")])
def test_efficiency_is_the_disk_of_flattened_images_over_that_of_layers(flattened: int, verdict: str) -> None:
    row = rows("layers", LAYERS, disks(64, flattened))["Layers: efficiency"]
    assert row.verdict == verdict
    assert "8 images on one base: 64.0 MiB with shared layers" in row.measured_container
    assert "adds 0 B to the page cache, not 16.0 MiB" in row.measured_container
    assert row.measured_vm == "disks of 8 VMs: vm-qcow2 40.0 MiB"


def test_few_blocks_are_no_verdict() -> None:
    assert rows("layers", LAYERS, disks(64, 256), blocks=5)["Layers: efficiency"].verdict == "not shown"


def built(seconds: float, ran: int) -> dict[str, tuple[float, str]]:
    return {
        "build.duration": (seconds * 1e9, "ns"),
        "build.steps.run": (ran, "count"),
        "build.steps.cached": (9 - ran, "count"),
    }


def test_changes_and_caching_are_told_apart() -> None:
    values = {"cold": built(2, 9), "none": built(0.25, 0), "top": built(2, 9), "end": built(0.5, 1)}
    found = rows("build-cache", BUILD, values)
    changes, caching = found["Layers: changes"], found["Layers: caching"]
    assert changes.verdict == caching.verdict == "holds"
    assert changes.reason == "building all of it takes 4.00x [4.00 - 4.00] as long as after a change of its last line"
    assert "end: 500 ms, 1 of 9 steps made" in changes.measured_container
    assert changes.remark == "a change of the first line does build all of it anew"
    assert caching.reason == "a build without the cache takes 8.00x [8.00 - 8.00] as long"


def test_portability_is_judged_by_bytes_and_names_what_hosts_need() -> None:
    def moved(size: int) -> dict[str, tuple[float, str]]:
        times = {f"portability.{name}": (1e6, "ns") for name in ("export", "import", "first")}
        return {"portability.bytes": (size, "bytes"), **times}

    row = rows("portability", MOVED, {"image": moved(1 << 20), "vm-raw": moved(16 << 20)})["Portability"]
    assert (row.verdict, row.reason) == ("holds", "the VM ships 16.0x [16.0 - 16.0] the bytes")
    assert row.measured_vm.startswith("vm-raw (tcg): 16.0 MiB to ship, packed in 1.00 ms")
    assert row.claim_vm == "limited"


def test_a_driver_that_the_kernel_lacks_is_not_shown_with_its_reason() -> None:
    names = ("prepare", "mount", "copy_up.1m")
    values = {"overlay": {f"driver.{name}": (1e6, "ns") for name in names}}
    found = rows("storage", DRIVERS, values, absent="this kernel has no aufs")
    assert (found["OverlayFS"].verdict, found["aufs"].verdict) == ("holds", "not shown")
    assert found["aufs"].reason == "this kernel has no aufs"
    assert "Device Mapper" not in found


def test_containers_that_wrote_to_their_roots_show_overlayfs() -> None:
    arms = {
        "overlay": {"boundary": "container", "storage": {"driver": "overlay", "depth": 3}},
        "btrfs": {"boundary": "container", "storage": {"driver": "btrfs", "depth": 3}},
        "vm": {"boundary": "vm", "storage": "qcow2", "accelerator": "tcg"},
        "volume": {"boundary": "container", "storage": {"driver": "overlay"}, "mounts": [{"type": "volume"}]},
    }
    written = {f"storage.first_write.{size}": (at, "ns") for size, at in (("4k", 1e6), ("1m", 2e6), ("16m", 9e6))}
    row = rows("", arms, dict.fromkeys(arms, written))["OverlayFS"]
    assert row.verdict == "holds"
    assert "overlay: 4k 1.00 ms, 1m 2.00 ms, 16m 9.00 ms; btrfs: " in row.measured_container
    assert "volume" not in row.measured_container
    assert row.measured_vm.startswith("first write to a file by its size: vm")
    del arms["overlay"], arms["volume"]
    assert "OverlayFS" not in rows("", arms, dict.fromkeys(arms, written))


def test_the_whole_table_takes_each_row_from_the_run_that_shows_it() -> None:
    few = tuple(rows("layers", LAYERS, disks(64, 256), blocks=2).values())
    more = tuple(rows("layers", LAYERS, disks(64, 256)).values())
    table = {row.feature: row for row in whole_table([("few", few), ("more", more)])}
    assert list(table)[5:] == list(STATEMENTS)
    assert (table["Layers: efficiency"].verdict, table["Layers: efficiency"].run_id) == ("holds", "more")
    assert table["Volumes"].reason == "no run here measured it"
    assert table["Volumes"].remark == "harness run scenarios/volumes.yaml does"


def test_of_runs_that_show_a_row_the_one_with_most_blocks_speaks() -> None:
    six = tuple(rows("layers", LAYERS, disks(64, 256)).values())
    eight = tuple(rows("layers", LAYERS, disks(64, 65), blocks=8).values())
    for order in ([("six", six), ("eight", eight)], [("eight", eight), ("six", six)]):
        row = next(row for row in whole_table(order) if row.feature == "Layers: efficiency")
        assert (row.run_id, row.blocks, row.verdict) == ("eight", 8, "fails")
        assert "another run says: holds" in row.remark


def test_a_row_says_what_it_is_judged_by_and_which_scenario_measures_it() -> None:
    row = rows("layers", LAYERS, disks(64, 256))["Layers: efficiency"]
    assert row.contrast == Contrast("layers.disk, flattened / shared layers", 4.0, 4.0, 4.0, 6)
    assert (row.short_vm, row.short_container) == ("vm-qcow2 40.0 MiB", "64.0 MiB, not 256 MiB")
    assert row.scenario == "layers"
    assert [one.contrast for one in whole_table([]) if one.contrast] == []
