"""The parts of studies that need no root: contexts, sets of files, what of a disk has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.images.store import Store
from harness.studies import _builders, _image_sets
from harness.studies._image_sets import CLUSTER_BYTES
from harness.studies.build_cache import Options, write_context


def lines(place: Path, change: str, revision: str) -> list[str]:
    write_context(place, Options(steps=5), change, revision=revision, base="base")
    return (place / "Containerfile").read_text().splitlines()


@pytest.mark.parametrize(
    ("change", "changed"), [("cold", []), ("none", []), ("top", [1]), ("middle", [3]), ("end", [5])]
)
def test_one_line_of_a_containerfile_changes_with_the_revision(tmp_path: Path, change: str, changed: list[int]) -> None:
    one, other = lines(tmp_path / "a", change, "b01"), lines(tmp_path / "b", change, "b02")
    assert one[0] == "FROM base"
    assert len(one) == 6
    assert [number for number, pair in enumerate(zip(one, other, strict=True)) if len(set(pair)) > 1] == changed


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(
            "Step 2/3 : RUN a\n ---> Using cache\n ---> 1f\nStep 3/3 : RUN b\n ---> Using cache\n", id="docker"
        ),
        pytest.param("#5 [2/3] RUN a\n#5 CACHED\n\n#6 [3/3] RUN b\n#6 CACHED\n", id="buildkit"),
        pytest.param("STEP 2/3: RUN a\n--> Using cache fe\n--> fe\nSTEP 3/3: RUN b\n--> Using cache 77\n", id="podman"),
    ],
)
def test_cached_steps_are_counted_as_each_engine_prints_them(said: str) -> None:
    assert len(_builders._CACHED.findall(said)) == 2


def test_sets_of_files_are_the_same_in_every_run_and_no_two_images_share_one(tmp_path: Path) -> None:
    one, other = (_image_sets.make_sources(tmp_path / name, 300 << 10, 10 << 10, 2) for name in ("one", "other"))
    first, again = (
        {p.relative_to(s.base): p.read_bytes() for p in s.base.rglob("*") if p.is_file()} for s in (one, other)
    )
    assert first == again
    assert sum(map(len, first.values())) == 300 << 10
    assert len({next(p for p in own.rglob("*") if p.is_file()).read_bytes() for own in one.own}) == 2


def test_images_of_a_set_share_the_layer_of_their_base(tmp_path: Path) -> None:
    sources = _image_sets.make_sources(tmp_path, 300 << 10, 10 << 10, 2)
    store = Store(tmp_path / "store")
    layers = [_image_sets.pack(store, [sources.base]), _image_sets.pack(store, [sources.own[0]])]
    whole = _image_sets.pack(store, [sources.base, sources.own[0]])
    assert _image_sets.pack(store, [sources.base]) == layers[0]
    assert whole.blob.size_bytes > layers[0].blob.size_bytes > layers[1].blob.size_bytes


def test_only_the_clusters_that_differ_are_written(tmp_path: Path) -> None:
    base, changed = bytearray(5 * CLUSTER_BYTES), bytearray(5 * CLUSTER_BYTES + 10)
    changed[CLUSTER_BYTES] = changed[2 * CLUSTER_BYTES] = changed[4 * CLUSTER_BYTES + 7] = 1
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "changed").write_bytes(changed)
    words = _image_sets._writes(tmp_path / "base", tmp_path / "changed", tmp_path)
    assert [word.partition(f"{tmp_path}/")[2] for word in words[1::2]] == [
        f"run-0 {CLUSTER_BYTES} {2 * CLUSTER_BYTES}",
        f"run-1 {4 * CLUSTER_BYTES} {CLUSTER_BYTES + 10}",
    ]
    assert (tmp_path / "run-1").read_bytes() == changed[4 * CLUSTER_BYTES :]
