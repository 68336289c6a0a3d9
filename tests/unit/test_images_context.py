import os

import pytest

from harness.images.context import Context, ContextError, open_context, parse_ignore


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "context"
    for name in ("a.txt", "b.txt", "src/x.py", "src/deep/y.py", "src/deep/z.md", "docs/z.md", "node_modules/m/i.js"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    (tmp_path / "secret").write_text("s")
    return path


def files(root, ignore=""):
    with Context(root, parse_ignore(ignore)) as context:
        return [path for path in context.entries if (root / path).is_file()]


def found(context, source):
    return [one.path for one in context.find(source)]


def test_everything_without_an_ignore_file(root):
    assert len(files(root)) == 7


@pytest.mark.parametrize(
    ("ignore", "left_out"),
    [
        ("*.txt", {"a.txt", "b.txt"}),
        ("# a.txt\n\n/a.txt", {"a.txt"}),
        ("**/*.md", {"docs/z.md", "src/deep/z.md"}),
        ("*.md", set()),
        ("node_modules", {"node_modules/m/i.js"}),
        ("src\n!src/deep/y.py", {"src/x.py", "src/deep/z.md"}),
        ("?.txt\n!b.txt", {"a.txt"}),
        ("[a].txt", {"a.txt"}),
        ("[^a].txt", {"b.txt"}),
        ("src/**/y.py", {"src/deep/y.py"}),
        ("./docs/../docs/", {"docs/z.md"}),
    ],
)
def test_ignore_patterns(root, ignore, left_out):
    assert set(files(root)) - set(files(root, ignore)) == left_out


def test_find_by_pattern_and_name(root):
    with Context(root) as context:
        assert found(context, "*.txt") == ["a.txt", "b.txt"]
        assert found(context, "/src/./deep/") == ["src/deep"]
        assert found(context, ".") == [""]
        assert found(context, "src/*/*.py") == ["src/deep/y.py"]


@pytest.mark.parametrize("source", ["../secret", "src/../../secret", "out", "out/x", "absolute", "climb/secret"])
def test_nothing_outside_is_ever_found(root, source):
    (root / "out").symlink_to("../secret")
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "climb").symlink_to("src/../..")
    with Context(root) as context, pytest.raises(ContextError) as caught:
        context.find(source)
    assert "leaves the directory" in str(caught.value) or "leads out" in str(caught.value)


def test_a_link_inside_is_followed_when_it_is_named(root):
    (root / "link").symlink_to("src/deep")
    with Context(root) as context:
        assert found(context, "link/y.py") == ["src/deep/y.py"]


def test_a_directory_that_becomes_a_link_is_not_followed(root):
    with Context(root) as context:
        os.rename(root / "src", root / "old")  # noqa: PTH104
        (root / "src").symlink_to("..")
        with pytest.raises(OSError, match="leaves the directory"):
            context.open("src/secret")


def test_missing_files_have_a_hint(root):
    (root / ".dockerignore").write_text("docs\n")
    with open_context(root, root / "Containerfile") as context:
        with pytest.raises(ContextError) as caught:
            context.find("a.tx")
        assert caught.value.hint == "did you mean 'a.txt'?"
        with pytest.raises(ContextError) as caught:
            context.find("docs/z.md")
        assert caught.value.hint == "the ignore file leaves it out"


def test_the_containerfiles_own_ignore_file_wins(root):
    (root / ".dockerignore").write_text("a.txt\n")
    (root / "My.dockerignore").write_text("b.txt\n")
    with open_context(root, root / "My") as context:
        assert "a.txt" in context.entries
        assert "b.txt" not in context.entries


def test_a_broken_pattern_is_told(root):
    (root / ".dockerignore").write_text("[a\n")
    with pytest.raises(ContextError, match="never closed"):
        open_context(root, root / "Containerfile")
