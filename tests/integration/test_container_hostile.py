"""Images that try to lead a mount astray, and destinations behind links."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.container import defaults, syscalls
from harness.container.spec import Mount, Overlay
from harness.errors import BackendError
from harness.interfaces import RunContext
from tests.container_kit import BOTH, SLEEPER, output_of, run_plan, running

pytestmark = pytest.mark.needs("root", "overlayfs")


def bind(source: Path, destination: str, attrs: int = 0) -> Mount:
    return Mount(destination, source=str(source), bind=True, recursive=True, attrs=attrs)


@BOTH
@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("target", ["/outside", "../../../../outside", "etc"])
def test_link_in_place_of_a_mount_point_is_refused(
    backend: str, name: str, target: str, tree: Path, context: RunContext
) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    if (tree / name).is_dir():
        shutil.rmtree(tree / name)
    (tree / name).symlink_to(target)
    with pytest.raises(BackendError, match=r"mount|root"), running(backend, tree, context, SLEEPER):
        pytest.fail("it started")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("below", ["dev/null", "dev/pts", "dev/shm", "dev/ptmx", "proc/sys"])
def test_what_the_image_has_at_our_mount_points_is_hidden(below: str, tree: Path, context: RunContext) -> None:
    victim = tree.parent / "victim"
    victim.write_text("untouched")
    (tree / below).parent.mkdir(exist_ok=True)
    if (tree / below).is_dir():
        shutil.rmtree(tree / below)
    (tree / below).symlink_to(victim)
    script = f"echo changed > /dev/null; stat -c %t:%T /dev/null; readlink /{below}; ls -d /dev/pts/ptmx /dev/shm"
    lines = output_of("builtin", tree, context, script)
    assert lines[0] == "1:3"
    assert str(victim) not in lines
    assert victim.read_text() == "untouched"


def test_bind_destination_behind_a_link_stays_in_the_root(tree: Path, context: RunContext) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    (tree / "trap").symlink_to(outside)
    (tree / str(outside)[1:]).mkdir(parents=True)  # there is such a path inside, too
    (tree / "abs").symlink_to("/etc")
    source = tree.parent / "volume"
    source.mkdir()
    (source / "file").write_text("from the host")
    binds = (bind(source, "/trap/a/b", syscalls.MOUNT_ATTR_RDONLY), bind(source, "/abs/deep/er"))
    script = (
        f"cat /etc/deep/er/file; echo; echo new > /etc/deep/er/new; cat {outside}/a/b/file; echo; "
        f"touch {outside}/a/b/x || echo read-only"
    )
    lines = run_plan(tree, context, script, mounts=(*defaults.mounts(), *binds))
    assert lines[:3] == ["from the host", "from the host", "read-only"]
    assert list(outside.iterdir()) == []
    assert (source / "new").read_text() == "new\n"


def test_layers_lie_over_each_other_whatever_their_paths_contain(tree: Path, context: RunContext) -> None:
    upper = tree.parent / "a:b,c\\d e"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc" / "layer").write_text("top\n")
    lines = run_plan(tree, context, "cat /etc/layer; ls /bin/busybox", root=Overlay((str(upper), str(tree))))
    assert lines == ["top", "/bin/busybox"]


def test_bind_destination_behind_a_dangling_link_is_made_inside(tree: Path, context: RunContext) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    (tree / "trap").symlink_to(outside)
    mounts = (*defaults.mounts(), bind(Path("/usr"), "/trap/a"))
    assert run_plan(tree, context, f"ls -d {outside}/a/bin", mounts=mounts) == [f"{outside}/a/bin"]
    assert list(outside.iterdir()) == []


def test_links_in_a_circle_are_refused(tree: Path, context: RunContext) -> None:
    (tree / "one").symlink_to("/two")
    (tree / "two").symlink_to("/one")
    with pytest.raises(BackendError, match=r"\(bind\): /one/a: Too many levels"):
        run_plan(tree, context, "true", mounts=(*defaults.mounts(), bind(Path("/usr"), "/one/a")))
