"""Layers as hostile registries write them, and as good ones do. Everything here belongs to the user who runs it."""

import gzip
import hashlib
import io
import os
import stat
import tarfile

import pytest
import zstandard

from harness.errors import ImageError
from harness.images.layers import Budget, LayerReader
from harness.images.unpack import Unpacker

SMALL = Budget(entries=50, unpacked_bytes=1 << 20, ratio=50, ratio_from_bytes=1 << 16)


def entry(name, kind=tarfile.REGTYPE, content=b"", target="", mode=None, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), target
    info.mode = mode if mode is not None else (0o755 if kind == tarfile.DIRTYPE else 0o644)
    info.uid, info.gid, info.mtime = os.getuid(), os.getgid(), 7
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def tar(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for info, content in entries:
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def root(tmp_path):
    """A root inside a directory whose other contents must never change."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("untouched")
    path = tmp_path / "root"
    path.mkdir()
    yield path
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["file"]
    assert (tmp_path / "outside" / "file").read_text() == "untouched"
    assert (tmp_path / "outside" / "file").stat().st_nlink == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "root"]


def unpack(root, *layers, budget=SMALL, pack=bytes):
    unpacker = Unpacker(root, budget)
    for data in layers:
        packed = pack(data)
        reader = LayerReader(io.BytesIO(packed), "layer", budget)
        unpacker.apply(reader)
        reader.verify(digest(packed), digest(data))
    unpacker.finish()


DIR, LNK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_content_modes_links_and_times(root, pack):
    layer = tar(
        entry("bin", DIR, mode=0o555),
        entry("bin/tool", content=b"#!", mode=0o4755),
        entry("bin/same", HARD, target="bin/tool"),
        entry("sh", LNK, target="bin/tool"),
        entry("pipe", tarfile.FIFOTYPE, mode=0o600),
    )
    unpack(root, layer, pack=pack)
    assert stat.S_IMODE((root / "bin").stat().st_mode) == 0o555
    tool = (root / "bin" / "tool").stat()
    assert (stat.S_IMODE(tool.st_mode), tool.st_nlink, tool.st_mtime) == (0o4755, 2, 7)
    assert (root / "sh").readlink().as_posix() == "bin/tool"
    assert (root / "pipe").is_fifo()
    assert (root / "bin").stat().st_mtime == 7


def test_later_layers_replace_and_whiteouts_hide(root):
    lower = tar(entry("d", DIR), entry("d/old", content=b"1"), entry("d/kept", content=b"1"), entry("f", content=b"1"))
    upper = tar(entry("d/.wh.old"), entry("f", DIR), entry("f/inside", content=b"2"))
    unpack(root, lower, upper)
    assert sorted(p.name for p in root.rglob("*")) == ["d", "f", "inside", "kept"]


def test_a_whiteout_never_hides_what_its_own_layer_wrote(root):
    lower = tar(entry("d", DIR), entry("d/low", content=b"1"), entry("e", DIR), entry("e/low", content=b"1"))
    upper = tar(entry("d/new", content=b"2"), entry("d/.wh..wh..opq"), entry("e/new", content=b"2"), entry(".wh.e"))
    unpack(root, lower, upper)
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*")) == ["d", "d/new", "e", "e/new"]


def test_opaque_hides_all_of_the_lower_layers(root):
    lower = tar(entry("d", DIR), entry("d/a", DIR), entry("d/a/x", content=b"1"), entry("d/b", content=b"1"))
    unpack(root, lower, tar(entry("d", DIR), entry("d/.wh..wh..opq"), entry("d/c", content=b"2")))
    assert [p.name for p in (root / "d").iterdir()] == ["c"]


def test_whiteout_in_a_directory_that_never_was_makes_none(root):
    unpack(root, tar(entry("never/.wh.x")))
    assert list(root.iterdir()) == []


def test_links_to_directories_of_a_lower_layer_are_followed_inside(root):
    lower = tar(entry("usr/lib", DIR), entry("lib", LNK, target="/usr/lib"), entry("up", LNK, target="../../usr"))
    unpack(root, lower, tar(entry("lib/a.so", content=b"a"), entry("up/b", content=b"b")))
    assert (root / "usr" / "lib" / "a.so").read_bytes() == b"a"
    assert (root / "usr" / "b").read_bytes() == b"b"


def test_a_link_to_the_host_leads_into_the_tree(root):
    outside = root.parent / "outside"
    unpack(root, tar(entry("evil", LNK, target=str(outside)), entry("evil/file", content=b"owned")))
    assert (root / str(outside / "file").lstrip("/")).read_bytes() == b"owned"


def test_a_file_is_never_written_through_a_link(root):
    target = str(root.parent / "outside" / "file")
    unpack(root, tar(entry("f", LNK, target=target), entry("f", content=b"owned")))
    assert not (root / "f").is_symlink()
    assert (root / "f").read_bytes() == b"owned"


def test_absolute_names_and_absolute_hard_links_start_at_the_root(root):
    unpack(root, tar(entry("/etc/a", content=b"a"), entry("b", HARD, target="/etc/a")))
    assert (root / "etc" / "a").stat().st_nlink == 2


def test_hard_link_through_a_link_stays_inside(root):
    target = str(root.parent / "outside")
    with pytest.raises(ImageError, match="no such file in the image"):
        unpack(root, tar(entry("out", LNK, target=target), entry("h", HARD, target="out/file")))


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        pytest.param([entry("../outside/file")], "climbs out", id="dot-dot"),
        pytest.param([entry("a/../../outside/file")], "climbs out", id="dot-dot-inside"),
        pytest.param([entry("h", HARD, target="../outside/file")], "climbs out", id="hard-link-out"),
        pytest.param([entry("h", HARD, target="missing")], "no such file", id="hard-link-to-nothing"),
        pytest.param([entry("d", DIR), entry("h", HARD, target="d")], "no such file", id="hard-link-to-directory"),
        pytest.param([entry("f"), entry("f", HARD, target="f")], "no such file", id="hard-link-to-itself"),
        pytest.param([entry("/", LNK, target="outside")], "root replaced", id="root-becomes-a-link"),
        pytest.param([entry(".wh.")], "whiteout of nothing", id="bare-whiteout"),
        pytest.param([entry("d/.wh...", DIR), entry("d", DIR), entry("d/.wh...")], "whiteout of nothing", id="wh-dots"),
        pytest.param([entry("l", LNK, target="l"), entry("l/x")], "symbolic links", id="link-loop"),
        pytest.param([entry("a" * 300)], "too long", id="name-too-long"),
        pytest.param([entry("a/" * 2100 + "b")], "levels: refused", id="path-too-long"),
        pytest.param([entry("a/" * 300 + "b")], "levels: refused", id="too-deep"),
        pytest.param([entry(f"f{n}") for n in range(60)], "more than 50 entries", id="too-many"),
        pytest.param([entry("f", content=b"x" * (1 << 20)), entry("g", content=b"x")], "more than 1048576", id="big"),
        pytest.param([entry("x", type=b"Z")], "unknown type", id="unknown-type"),
        pytest.param([entry("f", gid=2**32 - 1)], "out of range", id="owner-minus-one"),
        pytest.param([entry("f", DIR), entry("f", uid=2**40)], "out of range", id="absurd-owner"),
    ],
)
def test_hostile_layers_are_refused_with_one_line(root, entries, why):
    with pytest.raises(ImageError, match=why) as caught:
        unpack(root, tar(*entries))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 5000


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_bombs_are_refused_by_their_ratio(root, pack):
    with pytest.raises(ImageError, match="more than 50 times its size"):
        unpack(root, tar(entry("zeros", content=bytes(900_000))), pack=pack)


def test_bytes_after_the_end_mark_count_too(root):
    with pytest.raises(ImageError, match="more than 1048576 bytes"):
        unpack(root, tar(entry("f")) + os.urandom(1 << 20))


def test_an_endless_extended_header_is_refused(root):
    header = bytearray(tar(entry("f"))[:512])
    header[156:157] = tarfile.XHDTYPE
    header[124:136] = b"%011o\0" % (1 << 30)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ImageError, match="header of 1073741824 bytes"):
        unpack(root, bytes(header) + bytes(1 << 16))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_truncated_layers_are_damaged(root, pack):
    data = tar(entry("f", content=os.urandom(20_000)))
    with pytest.raises(ImageError, match="damaged"):
        unpack(root, data, pack=lambda data: pack(data)[:9_000])


def test_another_digest_is_damaged(root):
    data = tar(entry("f", content=b"x"))
    reader = LayerReader(io.BytesIO(data), "layer", SMALL)
    Unpacker(root, SMALL).apply(reader)
    with pytest.raises(ImageError, match="damaged: diff_id is"):
        reader.verify(digest(data), digest(b""))


def test_names_need_not_be_text(root):
    name = b"caf\xe9\n\xff".decode("utf-8", "surrogateescape")
    unpack(root, tar(entry(name, content=b"x")))
    assert os.listdir(os.fsencode(root)) == [b"caf\xe9\n\xff"]  # noqa: PTH208 - as bytes


def test_attributes_of_the_user_are_kept_and_those_of_the_machine_are_not(root):
    headers = {"SCHILY.xattr.user.note": "ok", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    try:
        os.setxattr(root, "user.probe", b"")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    unpack(root, tar(entry("f", content=b"x", pax_headers=headers)))
    assert os.listxattr(root / "f") == ["user.note"]
    assert os.getxattr(root / "f", "user.note") == b"ok"


def sparse(name, content, extents, size):
    """An old GNU sparse entry: a map of (offset, size) in the header, then the data alone."""
    header = bytearray(tar(entry(name, content=content))[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[257:265] = b"ustar  \0"
    header[345:512] = bytes(167)
    for number, (offset, count) in enumerate(extents):
        at = 386 + 24 * number
        header[at : at + 24] = b"%011o\0%011o\0" % (offset, count)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512) + bytes(1024)


def test_a_sparse_file_gets_its_holes(root):
    unpack(root, sparse("f", b"abcd", [(2, 2), (10, 2)], 14))
    assert (root / "f").read_bytes() == b"\0\0ab" + bytes(6) + b"cd\0\0"


@pytest.mark.parametrize(
    ("extents", "size", "why"),
    [
        pytest.param([(8, 4), (0, 4)], 64, "out of its place", id="backwards"),
        pytest.param([(0, 4), (2, 4)], 64, "out of its place", id="overlapping"),
        pytest.param([(60, 8)], 64, "out of its place", id="beyond-the-end"),
        pytest.param([(0, 4)], 1 << 19, "more than 50 times", id="bomb-of-zeros"),
        pytest.param([(0, 4)], 1 << 32, "more than 1048576", id="larger-than-the-budget"),
    ],
)
def test_hostile_sparse_files_are_refused(root, extents, size, why):
    with pytest.raises(ImageError, match=why):
        unpack(root, sparse("f", b"12345678", extents, size))


def test_a_damaged_header_in_the_middle_is_no_end(root):
    data = bytearray(tar(entry("a", content=b"a"), entry("b", content=b"b")))
    data[1024 + 10] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        unpack(root, bytes(data))


def test_a_device_that_overlayfs_takes_for_a_whiteout_is_refused(root):
    with pytest.raises(ImageError, match="whiteout: refused"):
        unpack(root, tar(entry("gone", tarfile.CHRTYPE, devmajor=0, devminor=0)))


def test_marks_of_union_file_systems_never_come_from_an_archive(root):
    try:
        os.setxattr(root, "user.probe", b"")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    headers = {
        f"SCHILY.xattr.user.{name}": "y" for name in ("overlay.opaque", "overlay.whiteout", "fuseoverlayfs.opaque")
    }
    unpack(root, tar(entry("d", DIR, pax_headers=headers)))
    assert os.listxattr(root / "d") == []


def test_depth_by_links_is_bounded(root):
    deep = "/".join("d" * 150)
    with pytest.raises(ImageError, match="deep"):
        unpack(root, tar(entry(deep, DIR), entry("l", LNK, target=deep), entry(f"l/{deep}/x")))
