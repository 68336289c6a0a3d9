"""The store when programs are killed, work at once, or the disk is full: what is visible is whole."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.container import syscalls
from harness.errors import ImageError
from harness.images.collection import collect
from harness.images.roots import open_tree
from harness.images.stack import open_stack
from harness.images.store import Store
from tests.integration.layer_kit import DIR, entry, stored_image

pytestmark = pytest.mark.needs("root")

_WRITER = """
import sys
from pathlib import Path
from harness.images.collection import collect
from harness.images.roots import open_tree
from harness.images.stack import open_stack
from harness.images.store import Store
from tests.integration.layer_kit import DIR, entry, stored_image
place, own, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("go", flush=True)
for number in range(rounds):
    store = Store(place)
    files = [entry(f"d/{n}", content=b"%d" % number * 500) for n in range(20)]
    with store.adding():
        image = stored_image(store, f"{own}:{number % 3}", [entry("d", DIR), entry("shared")], files)
    open_stack(store, image)
    open_tree(store, image)
    if number % 3 == 2:
        store.remove(f"{own}:{number % 2}")
        del store
        collect(Store(place))
"""


def writer(place, own, rounds):
    # A process of its own, so that locks, pins and kill are real.
    argv = [sys.executable, "-c", _WRITER, str(place), own, str(rounds)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."})


def check_whole(place):
    """Every visible image has all its blobs, unpacks to its digests, and its record is sound."""
    store = Store(place)
    for name in store.names():
        image = store.find(name)
        assert all(store.has_blob(layer.blob) for layer in image.layers)
        assert open_tree(store, image).path.is_dir()
        assert len(open_stack(store, image).directories) == len(image.layers)
    return len(store.names())


def test_whenever_a_writer_is_killed_what_is_visible_is_whole(tmp_path):
    moments, seen = random.Random(7), 0
    for _ in range(8):
        process = writer(tmp_path / "store", "w", 1000)
        assert process.stdout.readline() == b"go\n"
        time.sleep(moments.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        seen += check_whole(tmp_path / "store")
    assert seen  # some rounds got that far
    collect(Store(tmp_path / "store"))
    assert not list((tmp_path / "store" / "tmp").iterdir())
    check_whole(tmp_path / "store")


def test_many_build_remove_and_collect_at_once(tmp_path):
    processes = [writer(tmp_path / "store", f"w{number}", 6) for number in range(4)]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert errors == [""] * 4
    assert check_whole(tmp_path / "store") == 8  # three names each, one removed


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 4 MiB that no other process sees: a detached mount, gone with its fd."""
    fs = syscalls.fsopen("tmpfs")
    syscalls.fsconfig(fs, 1, "size", "4m")
    syscalls.fsconfig(fs, 6)
    mount = syscalls.fsmount(fs, 0)
    os.close(fs)
    yield f"/proc/self/fd/{mount}/"
    os.close(mount)


def test_a_full_disk_leaves_the_store_as_it_was(small_disk):
    store = Store(Path(small_disk) / "store")
    stored_image(store, "old", [entry("kept", content=b"k")])
    image = stored_image(store, "big", [entry("big", DIR), entry("big/f", content=bytes(1_500_000))])
    filler = Path(small_disk) / "filler"
    filler.write_bytes(bytes(1_500_000))
    for open_it in (open_stack, open_tree):
        with pytest.raises(ImageError, match="No space left on device"):
            open_it(store, image)
    with pytest.raises(ImageError, match="No space left on device"):
        stored_image(store, "more", [entry("m", content=os.urandom(2_000_000))])
    assert list(store.names()) == ["big:latest", "old:latest"]
    assert not list((store.path / "tmp").iterdir())
    assert not list((store.path / "trees").iterdir())
    assert not list((store.path / "layers").iterdir())
    filler.unlink()
    assert (open_tree(store, image).path / "big" / "f").stat().st_size == 1_500_000
