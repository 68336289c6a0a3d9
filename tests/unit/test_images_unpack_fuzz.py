"""Whatever a layer holds: only ImageError leaves the unpacker, and nothing outside the target changes."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ImageError
from harness.images.layers import Budget, LayerReader
from harness.images.lowers import Lowers
from harness.images.tree import walk
from harness.images.unpack import Unpacker
from harness.images.whiteouts import Form
from tests.unit.test_images_unpack import DIR, HARD, LNK, entry, tar

BUDGET = Budget(entries=50, unpacked_bytes=1 << 18, ratio=50, ratio_from_bytes=1 << 16)
PARTS = st.sampled_from(["a", "b", "..", ".", "", "out", ".wh.a", ".wh..wh..opq", ".wh.", "x" * 256, "\udcff"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
TARGETS = st.one_of(PATHS, st.sampled_from(["../outside", "../../outside/file", "/", "/a", "../outside/file"]))
ENTRIES = st.one_of(
    st.builds(lambda name, mode: entry(name, DIR, mode=mode), PATHS, st.sampled_from([0o755, 0o700, 0o7777])),
    st.builds(lambda name, data: entry(name, content=data), PATHS, st.binary(max_size=20)),
    st.builds(lambda name, target: entry(name, LNK, target=target), PATHS, TARGETS),
    st.builds(lambda name, target: entry(name, HARD, target=target), PATHS, TARGETS),
    st.builds(lambda name, kind: entry(name, type=kind), PATHS, st.sampled_from([b"6", b"S", b"Z", b"x", b"g", b"L"])),
)


def outside(base):
    paths = [base, *(p for p in base.rglob("*") if base / "root" not in p.parents and base / "low" not in p.parents)]
    return [(str(p), p.lstat().st_mode, p.lstat().st_size, p.lstat().st_nlink, p.lstat().st_mtime_ns) for p in paths
            if p.name not in {"root", "low"}]  # fmt: skip


def unpack(base, data, form):
    lowers = Lowers([base / "low"], form) if form is not Form.APPLIED else None
    unpacker = Unpacker(base / "root", BUDGET, form=form, lowers=lowers)
    unpacker.apply(LayerReader(io.BytesIO(data), "layer", BUDGET))
    unpacker.finish()


def check(data, form):
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        for name in ("root", "outside", "low/a/b"):
            (base / name).mkdir(parents=True)
        (base / "outside" / "file").write_text("untouched")
        (base / "low" / "a" / "link").symlink_to(base / "outside")
        (base / "low" / "b").symlink_to("../../outside")
        before, low = outside(base), list(walk(base / "low"))
        with contextlib.suppress(ImageError):
            unpack(base, data, form)
        assert outside(base) == before
        assert [e.path for e in walk(base / "low")] == [e.path for e in low]
        assert (base / "outside" / "file").read_text() == "untouched"
        for path, directories, _ in os.walk(base / "root"):
            for name in directories:  # or they cannot be removed without root
                if not (Path(path) / name).is_symlink():
                    (Path(path) / name).chmod(0o700)


@pytest.mark.parametrize("form", [Form.APPLIED, Form.AUFS], ids=["applied", "aufs"])
@settings(max_examples=60)
@given(entries=st.lists(ENTRIES, max_size=8))
def test_random_layers(form, entries):
    check(tar(*entries), form)


@settings(max_examples=150)
@given(
    entries=st.lists(ENTRIES, min_size=1, max_size=3),
    changes=st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 4096),
)
def test_damaged_layers(entries, changes, cut):
    data = bytearray(tar(*entries))
    for at, value in changes:
        data[at % len(data)] = value
    check(bytes(data[: len(data) - cut]), Form.APPLIED)
