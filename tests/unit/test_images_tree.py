# Names in a tree are bytes, which pathlib does not take.
# ruff: noqa: PTH101, PTH102, PTH118
import hashlib
import os
import socket

import pytest

from harness.images.tree import root_digest, tree_size_bytes, walk


def _owner():
    return f"{os.getuid()} {os.getgid()}"


def test_digest_is_the_definition_written_out_by_hand(tmp_path):
    (tmp_path / "b").mkdir(mode=0o700)
    (tmp_path / "b" / "file").write_bytes(b"hello")
    (tmp_path / "b" / "file").chmod(0o4755)
    (tmp_path / "a-link").symlink_to("b/file")
    os.mkfifo(tmp_path / "c", 0o600)
    hello = hashlib.sha256(b"hello").hexdigest()
    records = (
        f"a-link\0l 777 {_owner()} 0 b/file\0"
        f"b\0d 700 {_owner()} 0 -\0"
        f"b/file\0f 4755 {_owner()} 5 {hello}\0"
        f"c\0p 600 {_owner()} 0 -\0"
    )
    assert root_digest(tmp_path) == "sha256:" + hashlib.sha256(records.encode()).hexdigest()


def test_names_sort_as_bytes_within_their_directory(tmp_path):
    # As whole paths `a-b` would come before `a/x`; in a directory's own order `a` with all its entries comes first.
    names = [b"a", b"a-b", b"\xc3\xa9", b"\xff\xfe", b"Z"]
    for name in names:
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    (tmp_path / "a" / "x").touch()
    assert [entry.path for entry in walk(tmp_path)] == [b"Z", b"a", b"a/x", b"a-b", b"\xc3\xa9", b"\xff\xfe"]
    assert root_digest(tmp_path).startswith("sha256:")


def test_times_and_link_counts_do_not_count(tmp_path):
    for side in ("one", "two"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "f").write_text("x")
    os.link(tmp_path / "one" / "f", tmp_path / "one" / "g")
    (tmp_path / "two" / "g").write_text("x")
    os.utime(tmp_path / "two" / "f", (1, 1))
    assert root_digest(tmp_path / "one") == root_digest(tmp_path / "two")


@pytest.mark.parametrize("change", ["mode", "content", "name", "target"])
def test_every_part_counts(tmp_path, change):
    (tmp_path / "f").write_text("x")
    (tmp_path / "l").symlink_to("f")
    before = root_digest(tmp_path)
    if change == "mode":
        (tmp_path / "f").chmod(0o600)
    elif change == "content":
        (tmp_path / "f").write_text("y")
    elif change == "name":
        (tmp_path / "f").rename(tmp_path / "g")
    else:
        (tmp_path / "l").unlink()
        (tmp_path / "l").symlink_to("g")
    assert root_digest(tmp_path) != before


def test_socket_and_empty_tree(tmp_path, monkeypatch):
    assert root_digest(tmp_path) == "sha256:" + hashlib.sha256(b"").hexdigest()
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
    os.chmod("s", 0o755)
    record = f"s\0s 755 {_owner()} 0 -\0"
    assert root_digest(tmp_path) == "sha256:" + hashlib.sha256(record.encode()).hexdigest()


def test_size_counts_a_hard_link_once(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    os.link(tmp_path / "f", tmp_path / "g")
    (tmp_path / "h").write_bytes(b"1")
    (tmp_path / "l").symlink_to("a long target that has no size")
    assert tree_size_bytes(tmp_path) == 6
