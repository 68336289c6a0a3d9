import gzip
import shutil
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.host.process import run
from harness.images.initramfs import (
    Entry,
    base_initramfs,
    character_device,
    cpio,
    directory,
    file,
    module_paths,
    spec_archive,
)


def unpack(archive):
    """Read archives as the kernel does: one after the other, up to the end; return the entries with uid, gid, mtime."""
    found, at = [], 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        numbers = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        _, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, _ = numbers
        name = archive[at + 110 : at + 110 + name_size - 1].decode("utf-8", "surrogateescape")
        assert archive[at + 110 + name_size - 1] == 0
        start = (at + 110 + name_size + 3) // 4 * 4
        at = (start + size + 3) // 4 * 4
        if name != "TRAILER!!!":
            found.append((Entry(name, mode, archive[start : start + size], major, minor), uid, gid, mtime))
    return found


letters = st.characters(exclude_characters="\0/", exclude_categories=["Cs"])  # lone surrogates are no file name
paths = st.text(letters, min_size=1, max_size=40).filter(lambda p: p != "TRAILER!!!")
entries = st.one_of(
    st.builds(file, paths, st.binary(max_size=99), st.sampled_from([0o644, 0o755])),
    st.builds(directory, paths),
    st.builds(character_device, paths, st.integers(0, 255), st.integers(0, 255)),
)


@given(st.lists(entries, max_size=5), st.lists(entries, max_size=5))
def test_concatenated_archives_give_back_all_their_entries(first, second):
    archive = cpio(first)
    assert len(archive) % 4 == 0
    assert unpack(archive + cpio(second)) == [(entry, 0, 0, 0) for entry in first + second]


def test_bytes_are_those_of_the_format():
    archive = cpio([file("a", b"xyz", 0o600)])
    header = "070701" + "00000001" + "00008180" + "00000000" * 2 + "00000001" + "00000000" + "00000003"
    header += "00000000" * 4 + "00000002" + "00000000"
    assert archive[:120] == header.encode() + b"a\0" + b"xyz\0" + b"0707"
    assert archive.endswith(b"TRAILER!!!\0\0\0\0")


def test_inodes_differ_so_that_no_two_files_look_like_links():
    archive = cpio([file("a", b"1"), file("b", b"2")])
    assert archive[6:14] != archive[116 + 6 : 116 + 14]


@pytest.mark.parametrize("path", ["", "/init", "a\0b", "TRAILER!!!"])
def test_unusable_path_is_refused(path):
    with pytest.raises(ValueError, match="cpio"):
        cpio([directory(path)])


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_program_agrees(tmp_path):
    archive = cpio([directory("dev"), character_device("dev/console", 5, 1), file("init", b"#!", 0o755)])
    listed = run(["cpio", "-itv", "--quiet"], input=archive, cwd=tmp_path).stdout.decode().splitlines()
    assert [(line.split()[0], line.split()[-1]) for line in listed] == [
        ("drwxr-xr-x", "dev"),
        ("crw-------", "dev/console"),
        ("-rwxr-xr-x", "init"),
    ]


def test_base_holds_agent_and_uncompressed_modules_in_load_order(tmp_path):
    (tmp_path / "virtio.ko").write_bytes(b"first")
    (tmp_path / "virtio-blk.ko.gz").write_bytes(gzip.compress(b"second"))
    modules = [tmp_path / "virtio.ko", tmp_path / "virtio-blk.ko.gz"]
    found = {entry.path: entry for entry, *_ in unpack(base_initramfs(b"AGENT", modules))}
    assert found["init"].content == b"AGENT"
    assert found["init"].mode == stat.S_IFREG | 0o755
    assert (found["dev/console"].major, found["dev/console"].minor) == (5, 1)
    assert (found["dev/null"].major, found["dev/null"].minor) == (1, 3)
    assert {"proc", "sys", "root", "disk"} <= found.keys()
    assert found["modules/00-virtio.ko"].content == b"first"
    assert found["modules/01-virtio_blk.ko"].content == b"second"
    assert module_paths(modules) == ("/modules/00-virtio.ko", "/modules/01-virtio_blk.ko")


def test_directories_come_before_what_they_hold():
    seen = set()
    for entry, *_ in unpack(base_initramfs(b"", [])):
        parent = entry.path.rpartition("/")[0]
        assert parent in seen | {""}
        seen.add(entry.path)


def test_more_than_hundred_modules_still_sort_in_load_order(tmp_path):
    names = module_paths([tmp_path / f"m{index}.ko" for index in range(101)])
    assert list(names) == sorted(names)


def test_specification_is_appended_by_concatenation():
    both = base_initramfs(b"AGENT", []) + spec_archive(b"arg=x\0")
    assert unpack(both)[-1] == (file("spec", b"arg=x\0", 0o600), 0, 0, 0)
