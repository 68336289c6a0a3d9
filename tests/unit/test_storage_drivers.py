"""What storage drivers decide without a kernel: branches of aufs, forms of layers, options of a scenario."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness import plugins
from harness.backends import _storage
from harness.errors import CapabilityError
from harness.images.storage import applying, aufs, kinds, padding, usage
from harness.images.tree import root_digest


def test_aufs_puts_the_writable_branch_first():
    (call,) = aufs.branch_options(Path("/rw"), [Path("/top"), Path("/base")])
    assert call == "dio,xino=/dev/shm/aufs.xino,br=/rw=rw:/top=ro+wh:/base=ro+wh"


def test_aufs_without_a_writable_branch():
    (call,) = aufs.branch_options(None, [Path("/top"), Path("/base")])
    assert call.endswith("br=/top=ro+wh:/base=ro+wh")


def test_aufs_appends_what_one_page_of_options_cannot_hold():
    layers = [Path("/" + "long" * 30 + f"/{number:03}") for number in range(100)]
    calls = aufs.branch_options(Path("/rw"), layers)
    assert len(calls) > 2
    assert all(len(call) < 4096 for call in calls)
    assert all(call.startswith("append=") for call in calls[1:])
    assert [part for call in calls for part in call.split("ro+wh")[:-1]][-1].endswith("/099=")
    assert sum(call.count("=ro+wh") for call in calls) == 100


def test_aufs_says_how_many_branches_it_stacks():
    with pytest.raises(CapabilityError, match="127 layers: it stacks 127 branches at most"):
        aufs.branch_options(Path("/rw"), [Path(f"/{number}") for number in range(127)])


def test_a_layer_over_another_replaces_and_merges(tmp_path):
    base, top = tmp_path / "base", tmp_path / "top"
    (base / "both").mkdir(parents=True)
    (base / "both" / "old").write_text("old")
    (base / "link").symlink_to(tmp_path)
    (base / "file").write_text("old")
    (top / "both").mkdir(parents=True)
    (top / "both" / "new").write_text("new")
    (top / "link").mkdir()
    (top / "link" / "inside").write_text("new")
    (top / "file").write_text("new")
    applying.apply_layer(top, base)
    assert sorted(path.name for path in (base / "both").iterdir()) == ["new", "old"]
    assert (base / "file").read_text() == "new"
    assert not (base / "link").is_symlink()
    assert not (tmp_path / "inside").exists()


def test_padding_restates_the_top_of_the_tree(tmp_path):
    tree = tmp_path / "tree"
    (tree / "bin" / "deep").mkdir(parents=True)
    (tree / "etc").mkdir(mode=0o700)
    (tree / "file").write_text("x")
    expected = root_digest(tree)
    layers = padding.pad(tree, 2, tmp_path / "padding")
    assert [sorted(path.name for path in layer.iterdir()) for layer in layers] == [["bin", "etc"], ["bin", "etc"]]
    for layer in layers:
        applying.apply_layer(layer, tree)
    assert root_digest(tree) == expected


def test_allocated_bytes_count_a_file_with_two_names_once(tmp_path):
    (tmp_path / "one").write_bytes(b"x" * 10_000)
    alone = usage.allocated_bytes(tmp_path)
    os.link(tmp_path / "one", tmp_path / "two")
    assert usage.allocated_bytes(tmp_path) == alone > 0


def test_short_form_of_a_scenario():
    options = plugins.load("backends", "builtin").options
    assert options.model_validate({"storage": "btrfs"}).storage == _storage.Storage(driver="btrfs")
    assert options.model_validate({"storage": {"driver": "overlay", "depth": 60}}).storage.depth == 60
    assert options().storage.in_memory


@pytest.mark.parametrize(
    "storage",
    [
        pytest.param("btrsf", id="unknown"),
        pytest.param({"driver": "overlay", "depth": 501}, id="deeper than overlay stacks"),
        pytest.param({"driver": "vfs", "writable": "memory"}, id="a driver of disks in memory"),
    ],
)
def test_what_a_scenario_may_not_say(storage):
    with pytest.raises(ValidationError):
        plugins.load("backends", "builtin").options.model_validate({"storage": storage})


def test_names_in_scenarios_are_those_of_the_drivers():
    from typing import get_args

    assert {*get_args(_storage.DriverName)} == {*kinds.KINDS}
