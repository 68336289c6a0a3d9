import os

import pytest

from harness.images.confine import Confined


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "root"
    (path / "usr" / "lib").mkdir(parents=True)
    (path / "lib").symlink_to("usr/lib")
    (path / "abs").symlink_to("/usr")
    (path / "out").symlink_to("../../..")
    (path / "loop").symlink_to("loop")
    (path / "file").write_text("x")
    (path / "to-file").symlink_to("usr/../file")
    return path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (b"lib", (b"usr", b"lib")),
        (b"/lib/../lib", (b"usr", b"lib")),
        (b"abs/lib", (b"usr", b"lib")),
        (b"out/usr", (b"usr",)),
        (b"to-file", (b"file",)),
        (b"lib/new/deep", (b"usr", b"lib", b"new", b"deep")),
        (b"../../new", (b"new",)),
        (b"", ()),
    ],
)
def test_paths_are_resolved_as_if_the_directory_were_the_root(root, path, names):
    with Confined(root) as confined:
        assert confined.canonical(path) == names


@pytest.mark.parametrize("path", [b"out/usr", b"abs/lib", b"../x", b"abs"])
def test_beneath_refuses_to_leave(root, path):
    with Confined(root, beneath=True) as confined, pytest.raises(OSError, match="leaves the directory"):
        confined.canonical(path)


@pytest.mark.parametrize("path", [b"loop", b"loop/x"])
def test_loops_end(root, path):
    with Confined(root) as confined, pytest.raises(OSError, match="symbolic links"):
        confined.canonical(path)


def test_directory_makes_what_is_missing_inside(root):
    with Confined(root) as confined, confined.directory(b"lib/a/b", make=True) as (fd, names):
        assert names == (b"usr", b"lib", b"a", b"b")
        assert os.path.samestat(os.fstat(fd), (root / "usr/lib/a/b").stat())


def test_a_file_is_no_directory(root):
    with Confined(root) as confined, pytest.raises(NotADirectoryError), confined.directory(b"file/x"):
        pass


def test_open_file_refuses_a_link(root):
    with Confined(root) as confined:
        os.close(confined.open_file((b"file",)))
        with pytest.raises(OSError, match="symbolic links"):
            confined.open_file((b"to-file",))


def test_no_descriptor_is_left_open(root):
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with Confined(root) as confined:
        for path in (b"lib", b"out/usr", b"to-file", b"lib/new/deep"):
            confined.canonical(path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
