import json
import multiprocessing
import os
import signal
import time

import pytest

from harness.errors import ImageError, UsageError
from harness.images import oci
from harness.images.collection import collect
from harness.images.oci import Layer, full_name
from harness.images.store import Store


def add(store, name, content=b"layer"):
    """Name an image of one layer whose bytes are no tar: the store does not look into layers."""
    blob = store.add_bytes(oci.LAYER, content)
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [blob.digest]}}
    return store.add_image(document, [Layer(blob, blob.digest)], name)


def collected(store):
    return [gone.path for gone in collect(store)]


def test_the_store_is_an_oci_layout(tmp_path):
    store = Store(tmp_path / "s")
    image = add(store, "web:1")
    assert json.loads((store.path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.path / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert index["manifests"] == [
        {
            "mediaType": oci.MANIFEST,
            "digest": image.manifest.digest,
            "size": image.manifest.size_bytes,
            "annotations": {"org.opencontainers.image.ref.name": "web:1"},
        }
    ]
    for path in (store.path / "blobs" / "sha256").iterdir():
        assert oci.sha256_digest(path.read_bytes()) == f"sha256:{path.name}"
    assert list((store.path / "tmp").iterdir()) == []


def test_find_by_name_and_the_tag_is_latest(tmp_path):
    store = Store(tmp_path)
    add(store, "web")
    assert Store(tmp_path).find("web") == store.find("web:latest")


def test_a_missing_image_says_the_nearest_name(tmp_path):
    store = Store(tmp_path)
    add(store, "webserver")
    with pytest.raises(ImageError, match="image: websever:latest: not in the store") as caught:
        store.find("websever")
    assert caught.value.hint == "did you mean 'webserver:latest'?"


def test_missing_busybox_says_how_to_make_it(tmp_path):
    with pytest.raises(ImageError) as caught:
        Store(tmp_path).find("busybox")
    assert caught.value.hint == "make it: harness image bootstrap busybox"


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "../x", "a:", "a/", "-x", "a:b:c"])
def test_bad_names_are_refused(name):
    with pytest.raises(UsageError, match=r"not of the form NAME\[:TAG\]"):
        full_name(name)


def test_good_names():
    names = ["busybox", "lab/web:1.2", "host:5000/a/b", "docker.io/library/x:y", "docker.io/a/b"]
    assert [full_name(name) for name in names] == [
        "busybox:latest", "lab/web:1.2", "host:5000/a/b:latest", "x:y", "a/b:latest",
    ]  # fmt: skip


def test_a_name_moves_and_collect_removes_what_it_left(tmp_path):
    store = Store(tmp_path)
    old, new = add(store, "web", b"old"), add(store, "web", b"new")
    assert list(store.names()) == ["web:latest"]
    gone = collected(store)
    assert f"blobs/sha256/{old.manifest.digest[7:]}" in gone
    assert len(gone) == 3
    assert store.find("web") == new


def test_shared_blobs_stay_until_the_last_name_goes(tmp_path):
    store = Store(tmp_path)
    image = add(store, "a")
    add(store, "b")
    store.remove("a")
    assert collected(store) == []
    store.remove("b")
    assert len(collected(store)) == 3
    assert not store.has_blob(image.manifest)


def test_removing_an_unknown_name_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="image: x:latest: not in the store"):
        Store(tmp_path).remove("x")


def test_equal_bytes_are_one_blob(tmp_path):
    store = Store(tmp_path)
    assert store.add_bytes("t", b"x") == store.add_bytes("t", b"x")
    assert len(list((tmp_path / "blobs" / "sha256").iterdir())) == 1


def test_an_unexpected_digest_stores_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ImageError, match="damaged"):
        store.add_blob("t", lambda writer: writer.write(b"x") and None, expect="sha256:" + "0" * 64)
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_damaged_document_is_seen(tmp_path):
    store = Store(tmp_path)
    image = add(store, "a")
    path = store.blob_path(image.config_blob.digest)
    path.write_bytes(b"x" * image.config_blob.size_bytes)
    with pytest.raises(ImageError, match="damaged: its bytes have another digest"):
        store.find("a")


def test_an_image_with_a_missing_layer_is_not_named(tmp_path):
    store = Store(tmp_path)
    image = add(store, "a")
    store.blob_path(image.layers[0].blob.digest).unlink()
    with pytest.raises(ImageError, match="is missing or has another size"):
        store.add_manifest(image.manifest, "b")
    assert "b:latest" not in store.names()


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "md5:1", "sha256:" + "A" * 64, None])
def test_digests_are_never_paths(tmp_path, digest):
    with pytest.raises(ImageError, match="not a sha256 digest"):
        Store(tmp_path).blob_path(digest)


def _add_many(path, worker):
    store = Store(path)
    for n in range(10):
        with store.adding():
            add(store, f"w{worker}:{n}", f"{worker}-{n}".encode())


def test_many_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_many, args=(tmp_path, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        collected(Store(tmp_path))
    for worker in workers:
        worker.join()
    store = Store(tmp_path)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(store.names()) == 40
    assert all(store.has_blob(layer.blob) for name in store.names() for layer in store.find(name).layers)


def _write_forever(path, started):
    def write(writer):
        started.set()
        while True:
            writer.write(b"x" * 4096)
            time.sleep(0.001)

    store = Store(path)
    with store.adding():
        store.add_blob("t", write)


def test_a_killed_writer_leaves_nothing_visible_and_no_lock(tmp_path):
    store = Store(tmp_path)
    context = multiprocessing.get_context("fork")
    started = context.Event()
    worker = context.Process(target=_write_forever, args=(tmp_path, started))
    worker.start()
    assert started.wait(10)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []
    assert [path.startswith("tmp/") for path in collected(store)] == [True]
    assert collected(store) == []
