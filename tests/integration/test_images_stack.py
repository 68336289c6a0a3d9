"""A stack of layers, seen through OverlayFS, is the tree that the same layers make in one directory."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.errors import ImageError
from harness.images.collection import collect
from harness.images.layers import Budget
from harness.images.roots import unpack_image
from harness.images.stack import open_stack, unpack_layer
from harness.images.store import Store
from harness.images.tree import walk
from harness.images.whiteouts import Form
from tests.integration.layer_kit import CHR, DIR, HARD, LNK, entry, overlay, stored_image

pytestmark = pytest.mark.needs("root", "overlayfs")

USR = [
    entry("usr", DIR, mode=0o2750, uid=5, gid=6, mtime=11),
    entry("usr/lib", DIR, mode=0o700, mtime=12),
    entry("usr/lib/a", content=b"aaa", mode=0o4711, uid=3, gid=4, mtime=13),
    entry("lib", LNK, target="/usr/lib"),
    entry("dev", DIR),
    entry("dev/null", CHR, devmajor=1, devminor=3, mode=0o666),
]
CASES = {
    "a file in a directory of the layer below": [USR, [entry("usr/lib/b", content=b"b")]],
    "through a link of the layer below": [USR, [entry("lib/b", content=b"b"), entry("lib", DIR)]],
    "hard link to a file of the layer below": [USR, [entry("b", HARD, target="usr/lib/a")]],
    "hard links to a link and a device": [USR, [entry("l", HARD, target="lib"), entry("n", HARD, target="dev/null")]],
    "hard link to what is hidden before": [USR, [entry("usr/x", HARD, target="lib/a"), entry("usr/.wh.lib")]],
    "whiteout, then the same name again": [USR, [entry("usr/.wh.lib"), entry("usr/lib/new", content=b"n")]],
    "the same name, then its whiteout": [USR, [entry("usr/lib/new", content=b"n"), entry("usr/.wh.lib")]],
    "opaque": [USR, [entry("usr/lib/n", content=b"n"), entry("usr/.wh..wh..opq"), entry("usr/m", content=b"m")]],
    "an opaque root": [USR, [entry("n", content=b"n"), entry(".wh..wh..opq")]],
    "directory, file, directory": [USR, [entry("usr", content=b"x")], [entry("usr", DIR), entry("usr/z")]],
    "file and directory in one layer": [USR, [entry("usr", content=b"x"), entry("usr", DIR), entry("usr/z")]],
    "whiteout through a link": [USR, [entry("lib/.wh.a")]],
    "whiteouts of whiteouts": [USR, [entry("usr/lib/.wh.a"), entry("usr/.wh.lib"), entry(".wh.usr")]],
    "whiteout of nothing and in nothing": [USR, [entry(".wh.no"), entry("no/.wh.no"), entry("usr/.wh.no")]],
    "a link becomes a directory": [USR, [entry("lib/b"), entry("lib", DIR), entry("lib/c"), entry("usr/lib/d")]],
    "the root's own mode and owner": [[entry("./", DIR, mode=0o711, uid=9), *USR], [entry("f")], [entry("./", DIR)]],
}


def facts(root):
    """Everything that programs inside see, with times of what the layers named and links between names."""
    seen = {}
    for e in walk(Path(root)):
        s, path = e.status, os.fsencode(root) + b"/" + e.path
        content = Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(s.st_mode) else None
        target = os.readlink(path) if stat.S_ISLNK(s.st_mode) else None  # noqa: PTH115 - bytes
        seen[e.path] = (s.st_mode, s.st_uid, s.st_gid, s.st_rdev, int(s.st_mtime) if s.st_mtime < 1e6 else "now",
                        content, target)  # fmt: skip
    s = Path(root).stat()
    return seen, (stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid)


def both(directory, layers):
    """Return what the merged tree and what the mounted stack of the same layers hold."""
    store = Store(directory / "store")
    image = stored_image(store, "case", *layers)
    tree = directory / "tree"
    tree.mkdir()
    unpack_image(store, image, tree)
    with overlay(open_stack(store, image).directories) as mounted:
        return facts(tree), facts(mounted)


@pytest.mark.parametrize("layers", CASES.values(), ids=CASES)
def test_the_stack_shows_the_merged_tree(tmp_path, layers):
    merged, stacked = both(tmp_path, layers)
    assert stacked == merged


NAMES = st.sampled_from(["a", "b", "a/b", "a/a", "b/a", "a/b/a", "b/a/b"])
TARGETS = st.sampled_from(["a", "b", "/a", "a/b", "../a", "b/a", "."])


def whiteout(name):
    parent, _, last = name.rpartition("/")
    return entry(f"{parent}/.wh.{last}" if parent else f".wh.{last}")


ENTRY = st.one_of(
    NAMES.map(lambda name: entry(name, DIR)),
    st.builds(lambda name, n: entry(name, content=b"%d" % n), NAMES, st.integers(0, 9)),
    st.builds(lambda name, target: entry(name, LNK, target=target), NAMES, TARGETS),
    st.builds(lambda name, target: entry(name, HARD, target=target), NAMES, NAMES),
    NAMES.map(whiteout),
    NAMES.map(lambda name: entry(f"{name}/.wh..wh..opq")),
    st.just(entry(".wh..wh..opq")),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([[entry("a/b", DIR)], [whiteout("a/b"), entry("a/.wh..wh..opq")]])
@example([[entry("a/b/a", DIR)], [entry("a/b", DIR), whiteout("a/b/a"), entry("a/.wh..wh..opq")]])
@given(layers=st.lists(st.lists(ENTRY, max_size=6), min_size=1, max_size=4))
def test_any_layers_stack_as_they_merge(tmp_path_factory, layers):
    directory = tmp_path_factory.mktemp("case")
    try:
        merged, stacked = both(directory, layers)
    except ImageError:  # refused in one form: then in the other too
        store = Store(directory / "store")
        image = store.find("case")
        (directory / "again").mkdir()
        with pytest.raises(ImageError):
            unpack_image(store, image, directory / "again")
        with pytest.raises(ImageError):
            open_stack(store, image)
    else:
        assert stacked == merged


def test_aufs_files_and_a_snapshot_give_the_same_tree(tmp_path):
    """A driver that adds layer by layer: over copies of the tree below, and with the whiteouts of aufs."""
    store = Store(tmp_path / "store")
    image = stored_image(store, "x", USR, [entry("usr/.wh.lib"), entry("usr/n"), entry("usr/lib/k", content=b"k")])
    (tmp_path / "whole").mkdir()
    unpack_image(store, image, tmp_path / "whole")
    (tmp_path / "step").mkdir(mode=0o755)
    branches = [tmp_path / "branch0", tmp_path / "branch1"]
    for number, layer in enumerate(image.layers):
        unpack_layer(store, layer, tmp_path / "step", (), form=Form.APPLIED)
        branches[number].mkdir()
        unpack_layer(store, layer, branches[number], branches[:number], form=Form.AUFS)
    assert facts(tmp_path / "step") == facts(tmp_path / "whole")
    assert sorted(e.path for e in walk(branches[1])) == [b"usr", b"usr/lib", b"usr/lib/.wh..wh..opq", b"usr/lib/k", b"usr/n"]  # fmt: skip  # noqa: E501


def test_images_share_directories_and_collect_takes_what_nobody_uses(tmp_path):
    store = Store(tmp_path / "store")
    one = open_stack(store, stored_image(store, "one", USR, [entry("x")]))
    two = open_stack(store, stored_image(store, "two", USR, [entry("y")]))
    assert one.directories[0] == two.directories[0]
    assert one.directories[1] != two.directories[1]
    disks = [
        store.path / "disks" / f"{path.name}{suffix}" for path in one.directories for suffix in (".erofs", ".vmdk")
    ]
    for disk in disks:  # of VMs: one for each layer
        disk.touch()
    other = Store(store.path)
    other.remove("one")
    assert not [gone for gone in collect(other) if gone.path.startswith("layers/")]  # in use by `store`
    assert all(disk.exists() for disk in disks)
    del one, two, store
    gone = [gone.path for gone in collect(other) if gone.path.startswith("layers/")]
    assert len(gone) == 1
    assert len([path for path in (other.path / "layers").iterdir() if path.is_dir()]) == 2
    assert [disk.exists() for disk in disks] == [True, True, False, False]


def test_an_image_without_layers_is_one_empty_directory(tmp_path):
    stack = open_stack(Store(tmp_path), stored_image(Store(tmp_path), "scratch"))
    assert [list(path.iterdir()) for path in stack.directories] == [[]]


def test_the_budget_is_the_images_not_the_layers(tmp_path):
    store = Store(tmp_path)
    image = stored_image(store, "big", *[[entry(f"f{n}", content=bytes(400))] for n in range(3)])
    with pytest.raises(ImageError, match="more than 0 entries"):
        open_stack(store, image, budget=Budget(entries=2))


def test_a_changed_layer_is_refused_and_a_copied_store_is_read_once(tmp_path):
    store = Store(tmp_path / "store")
    image = stored_image(store, "x", USR)
    layer = open_stack(store, image).directories[0]
    note = layer.with_suffix(".stat")
    note.write_text("of another place")
    open_stack(store, image)  # all content read, found sound
    assert note.read_text() != "of another place"
    os.setxattr(layer / "usr", "trusted.overlay.opaque", b"y")
    with pytest.raises(ImageError, match="changed since it was unpacked"):
        open_stack(store, image)
