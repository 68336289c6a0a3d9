"""Volumes and mounts of containers by hand, from the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.container import syscalls
from harness.images.bootstrap import bootstrap_busybox
from harness.images.build import build_image
from harness.images.store import Store

pytestmark = pytest.mark.needs("root", "overlayfs")
Harness = Callable[..., "subprocess.CompletedProcess[str]"]
CONTAINERFILE = """\
FROM busybox
COPY --chown=33:33 --chmod=640 data /app/data
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with busybox, and `my-container`, which has files where its volume goes."""
    home = tmp_path_factory.mktemp("home")
    store = Store(home / "data" / "images")
    bootstrap_busybox(store, Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "harness")
    context = tmp_path_factory.mktemp("context")
    (context / "data").mkdir()
    (context / "data" / "given").write_text("by the image\n")
    (context / "Containerfile").write_text(CONTAINERFILE)
    build_image(context / "Containerfile", context, store, name="my-container")
    return home


def _here(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main.run(arguments)
    return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture
def harness(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    for name, value in (("HARNESS_HOME", home), ("HARNESS_RUNTIME", tmp_path / "run"), ("CI", 1)):
        monkeypatch.setenv(name, str(value))

    def run(line: str, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `harness LINE WORDS...`, the line split at blanks as the shell would."""
        arguments = [*line.removeprefix("harness ").split(), *map(str, words)]
        argv = [sys.executable, "-m", "harness", *arguments]
        if arguments[0] == "volume":  # needs no process of its own
            done = _here(arguments)
        else:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False,
                                  stdin=subprocess.DEVNULL)  # fmt: skip
        assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
        return done

    yield run
    left = [path.name for path in (home / "data" / "containers").glob("[!.]*")]
    if left:
        run("container rm -f", *left)
    shutil.rmtree(home / "data" / "volumes", ignore_errors=True)


def test_the_example_word_for_word(harness: Harness) -> None:
    """Data survives the container, is shared between two, is listed and inspected, and stays while it is used."""
    harness("harness volume create app-data")
    harness("harness container run -v app-data:/app/data my-container", "sh", "-c", "echo mine >/app/data/kept")
    second = harness("container run --name second -v app-data:/data my-container", "cat", "/data/kept", "/data/given")
    assert second.stdout == "mine\nby the image\n"
    (listed,) = json.loads(harness("volume ls --json").stdout)["volumes"]
    assert listed["name"] == "app-data"
    assert {user["target"] for user in listed["used_by"]} == {"/app/data", "/data"}
    assert listed["used_bytes"] > 0
    assert "used by  second at /data" in harness("volume inspect app-data").stdout
    for command in ("volume rm app-data", "volume rm -f app-data"):
        assert "volume: app-data: is used by" in harness(command, code=2).stderr
    harness("container rm -f", *harness("container ps -aq").stdout.split())
    assert harness("volume rm app-data").stdout == "app-data\n"


def test_two_that_run_at_once_see_each_others_files(harness: Harness) -> None:
    harness("container run -d --name first -v shared:/s busybox", "sleep", "100")
    harness("container run --rm -v shared:/t busybox", "sh", "-c", "echo hello >/t/f")
    assert harness("container exec first cat /s/f").stdout == "hello\n"


def test_an_empty_volume_gets_the_images_files_with_their_owners_unless_told_not_to(harness: Harness) -> None:
    shown = ("stat", "-c", "%u:%g %a %n", "/app/data/given")
    assert harness("container run --rm -v new:/app/data my-container", *shown).stdout == "33:33 640 /app/data/given\n"
    harness("container run --rm -v bare:/app/data:nocopy my-container", *shown, code=1)
    long = "type=volume,src=long,dst=/app/data,volume-nocopy"
    assert harness("container run --rm --mount", long, "my-container", "ls", "/app/data").stdout == ""
    assert harness("container run --rm -v new:/app/data/ro:ro my-container", "ls", "/app/data/ro").stdout == "given\n"


def test_binds_are_mapped_to_other_owners(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").touch()
    for path in (tmp_path / "d", tmp_path / "d" / "f"):
        os.chown(path, 1000, 1000)
    script = "stat -c %u:%g /d/f; touch /d/new"
    mount = f"{tmp_path}/d:/d:idmap=uids=1000-0-1;gids=1000-0-1"
    assert harness("container run --rm -v", mount, "busybox", "sh", "-c", script).stdout == "0:0\n"
    status = (tmp_path / "d" / "new").stat()
    assert (status.st_uid, status.st_gid) == (1000, 1000)


def test_a_mount_of_the_host_reaches_a_slave_alone(harness: Harness, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "below").mkdir(parents=True)
    bind = f"type=bind,src={place},bind-propagation"
    syscalls.mount(str(place), str(place), None, syscalls.MS_BIND)
    try:
        syscalls.mount("none", str(place), None, syscalls.MS_SHARED)
        mounts = ("--mount", f"{bind}=rslave,dst=/slave", "--mount", f"{bind}=rprivate,dst=/private")
        harness("container run -d --name watcher", *mounts, "busybox", "sleep", "100")
        syscalls.mount("tmpfs", f"{place}/below", "tmpfs", 0, "size=64k")
        (place / "below" / "late").touch()
        seen = harness("container exec watcher ls /slave/below /private/below").stdout
        harness("container rm -f watcher")
        syscalls.umount2(f"{place}/below")
    finally:
        syscalls.umount2(str(place))
    assert seen.split() == ["/private/below:", "/slave/below:", "late"]


def test_a_bind_without_what_is_mounted_below_it(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "p" / "below").mkdir(parents=True)
    syscalls.mount("tmpfs", f"{tmp_path}/p/below", "tmpfs", 0, "size=64k")
    try:
        (tmp_path / "p" / "below" / "f").touch()
        seen = [harness("container run --rm -v", f"{tmp_path}/p:/p:{word}", "busybox", "ls", "/p/below").stdout
                for word in ("rbind", "bind")]  # fmt: skip
    finally:
        syscalls.umount2(f"{tmp_path}/p/below")
    assert seen == ["f\n", ""]


def test_tmpfs_in_both_forms(harness: Harness) -> None:
    mounts = ("--tmpfs", "/a:size=1m,mode=700", "--mount", "type=tmpfs,dst=/b,tmpfs-size=2m")
    script = "grep -E ' /(a|b) ' /proc/mounts | cut -d' ' -f2-4; stat -c %a /a"
    *mounted, mode = harness("container run --rm", *mounts, "busybox", "sh", "-c", script).stdout.splitlines()
    sizes = {line.split()[0]: line.rpartition("size=")[2].split(",")[0] for line in mounted}
    assert (sizes, mode) == ({"/a": "1024k", "/b": "2048k"}, "700")


def test_volumes_without_a_name_go_with_their_container_and_prune_takes_what_is_left(harness: Harness) -> None:
    harness("container run --rm -v /data busybox true")
    assert harness("volume ls -q").stdout == ""
    harness("container run --name stays -v /data busybox true")
    (name,) = harness("volume ls -q").stdout.split()
    assert harness("volume prune --json").stdout.count(name) == 0
    harness("container rm stays")
    assert harness("volume ls -q").stdout == ""
