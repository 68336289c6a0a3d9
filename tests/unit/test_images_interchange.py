import contextlib
import gzip
import hashlib
import io
import json
import tarfile

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings, strategies

from harness.errors import ImageError, UsageError
from harness.images import oci
from harness.images.build import build_image
from harness.images.interchange import export_image, import_image
from harness.images.repack import Compression, parse_compression
from harness.images.roots import unpack_image
from harness.images.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def other(tmp_path):
    return Store(tmp_path / "other")


@pytest.fixture
def image(store, tmp_path):
    context = tmp_path / "context"
    context.mkdir()
    (context / "f").write_text("f")
    (tmp_path / "Containerfile").write_text('FROM scratch\nCOPY f /a\nCOPY f /b\nCMD ["/a"]\n')
    return build_image(tmp_path / "Containerfile", context, store, name="lab/it:1")


FORMS = ["oci-dir", "oci-archive", "docker-archive"]


@pytest.mark.parametrize("fmt", FORMS)
def test_there_and_back(store, other, image, tmp_path, fmt):
    export_image(store, "lab/it:1", tmp_path / "out", fmt)
    assert import_image(tmp_path / "out", other) == {"lab/it:1": image}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("fmt", FORMS)
@pytest.mark.parametrize("how", ["none", "gzip", "gzip:9", "zstd", "zstd:1"])
def test_packed_layers_hold_the_same_tars(store, other, image, tmp_path, fmt, how):
    made = export_image(store, "lab/it:1", tmp_path / "out", fmt, parse_compression(how))
    (back,) = import_image(tmp_path / "out", other).values()
    assert [layer.diff_id for layer in back.layers] == [layer.diff_id for layer in image.layers]
    assert back.config_blob.digest == image.config_blob.digest
    if fmt != "docker-archive":  # which has no manifest of its own
        assert back.manifest == made.manifest
    suffix = {"none": ".tar", "gzip": "+gzip", "zstd": "+zstd"}[how.partition(":")[0]]
    assert all(layer.blob.media_type.endswith(suffix) for layer in back.layers)
    root = tmp_path / "root"
    root.mkdir()
    unpack_image(other, back, root, owners=False)  # which verifies every digest
    assert (root / "b").read_text() == "f"


def test_packing_twice_gives_the_same_bytes_and_packing_back_the_first_image(store, other, image, tmp_path):
    for name in ("one", "two"):
        export_image(store, "lab/it:1", tmp_path / name, "oci-archive", Compression("zstd", 19))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    import_image(tmp_path / "one", other)
    export_image(other, "lab/it:1", tmp_path / "back", "oci-archive", Compression("none"))
    assert import_image(tmp_path / "back", other)["lab/it:1"] == image


def test_a_layer_that_is_packed_so_already_stays_as_it_is(store, other, image, tmp_path):
    export_image(store, "lab/it:1", tmp_path / "nine", "oci-dir", Compression("gzip", 9))
    (nine,) = import_image(tmp_path / "nine", other).values()
    kept = export_image(other, "lab/it:1", tmp_path / "kept", "oci-dir", Compression("gzip"))
    assert kept.manifest == nine.manifest
    assert export_image(other, "lab/it:1", tmp_path / "any", "oci-dir", Compression("zstd", plain_only=True)) == kept
    assert not any((other.path / "tmp").iterdir())


@pytest.mark.parametrize("text", ["lz4", "", "gzip:0", "gzip:10", "zstd:x", "zstd:23", "none:1", "gzip:-1", "zstd:"])
def test_wrong_compressions(text):
    with pytest.raises(UsageError, match=f"compression: {text}: ") as caught:
        parse_compression(text)
    assert caught.value.hint


@pytest.mark.parametrize("fmt", FORMS[1:])
def test_through_a_pipe(store, other, image, fmt):
    out = io.BytesIO()
    export_image(store, "lab/it:1", out, fmt)
    assert import_image(io.BytesIO(gzip.compress(out.getvalue())), other) == {"lab/it:1": image}
    with pytest.raises(UsageError, match="directory cannot be a stream"):
        export_image(store, "lab/it:1", out, "oci-dir")


def test_a_full_disk_is_no_bug(store, image, tmp_path):
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(ImageError, match="No space left on device"):  # noqa: PTH123
        export_image(store, "lab/it:1", full, "oci-archive")


def test_a_damaged_layer_is_not_packed(store, image, tmp_path):
    path = store.blob_path(image.layers[0].blob.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ImageError, match="damaged"):
        export_image(store, "lab/it:1", tmp_path / "out", "docker-archive", Compression("gzip"))
    assert not (tmp_path / "out").exists()


def test_a_directory_of_skopeo(store, other, image, tmp_path):
    directory = tmp_path / "web"
    directory.mkdir()
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(store.blob_path(image.manifest.digest).read_bytes())
    for blob in (image.config_blob, *(layer.blob for layer in image.layers)):
        (directory / blob.digest[7:]).write_bytes(store.blob_path(blob.digest).read_bytes())
    assert import_image(directory, other) == {"web:latest": image}
    (directory / image.layers[0].blob.digest[7:]).write_bytes(b"x")
    with pytest.raises(ImageError, match="damaged: its bytes have the digest"):
        import_image(directory, Store(tmp_path / "third"))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_packed_archive(store, other, image, tmp_path, pack):
    export_image(store, "lab/it:1", tmp_path / "out.tar", "oci-archive")
    (tmp_path / "packed").write_bytes(pack((tmp_path / "out.tar").read_bytes()))
    assert import_image(tmp_path / "packed", other, name="mine") == {"mine:latest": image}


def test_exporting_twice_gives_the_same_bytes(store, image, tmp_path):
    for name in ("one", "two"):
        export_image(store, "lab/it:1", tmp_path / name, "oci-archive")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_existing_target_is_left_alone(store, image, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        export_image(store, "lab/it:1", tmp_path / "out", "oci-archive")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_damaged_blob_is_not_exported(store, image, tmp_path):
    path = store.blob_path(image.layers[0].blob.digest)
    path.write_bytes(b"x" * image.layers[0].blob.size_bytes)
    with pytest.raises(ImageError, match="damaged"):
        export_image(store, "lab/it:1", tmp_path / "out", "oci-dir")
    assert not (tmp_path / "out").exists()


def archive(path, files, links=()):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def layer_tar(name):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def docker_config(*layers):
    ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}).encode()


def test_docker_save_of_old_with_a_link_between_layers(store, tmp_path):
    # Docker before 25 stores a layer that occurs twice once, and links to it.
    layer = layer_tar("etc/a")
    config = docker_config(layer, layer)
    manifest = [{"Config": "c.json", "RepoTags": ["web:1", "web:latest"], "Layers": ["1/layer.tar", "2/layer.tar"]}]
    files = {
        "1/VERSION": b"1.0",
        "1/layer.tar": layer,
        "c.json": config,
        "manifest.json": json.dumps(manifest).encode(),
    }
    path = archive(tmp_path / "saved.tar", files, [("2/layer.tar", "../1/layer.tar")])
    found = import_image(path, store)
    assert list(found) == ["web:1", "web:latest"]
    assert [layer.blob.digest for layer in found["web:1"].layers] == [oci.sha256_digest(layer)] * 2
    assert found["web:1"].config_blob.digest == oci.sha256_digest(config)


def test_docker_save_with_packed_layers_says_so_in_the_manifest(store, tmp_path):
    layer = layer_tar("a")
    files = {
        "l": gzip.compress(layer),
        "c": docker_config(layer),
        "manifest.json": json.dumps([{"Config": "c", "RepoTags": None, "Layers": ["l"]}]).encode(),
    }
    found = import_image(archive(tmp_path / "Saved.tar", files), store)
    assert list(found) == ["saved:latest"]
    assert found["saved:latest"].layers[0].blob.media_type.endswith(".tar+gzip")


def test_an_index_of_platforms_gives_this_machines_image(store, other, image, tmp_path):
    export_image(store, "lab/it:1", tmp_path / "out", "oci-dir")
    mine = {**image.manifest.document(), "platform": {"os": "linux", "architecture": oci.host_architecture()}}
    alien = {"mediaType": oci.MANIFEST, "digest": "sha256:" + "0" * 64, "size": 1,
             "platform": {"os": "linux", "architecture": "s390x"}}  # fmt: skip
    data = oci.canonical_json({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [alien, mine]})
    blob = tmp_path / "out" / "blobs" / "sha256" / hashlib.sha256(data).hexdigest()
    blob.write_bytes(data)
    top = {"mediaType": oci.INDEX, "digest": oci.sha256_digest(data), "size": len(data)}
    (tmp_path / "out" / "index.json").write_bytes(oci.canonical_json({"schemaVersion": 2, "manifests": [top]}))
    said = list[str]()
    assert import_image(tmp_path / "out", other, log=said.append) == {"out:latest": image}
    assert said == [f"taken: linux/{oci.host_architecture()}; also there: linux/s390x"]


def test_an_image_that_itself_says_it_is_foreign(store, tmp_path):
    layer = layer_tar("a")
    config = docker_config(layer).replace(b"amd64", b"mips64le")
    files = {"l": layer, "c": config, "manifest.json": json.dumps([{"Config": "c", "Layers": ["l"]}]).encode()}
    with pytest.raises(ImageError, match=r"holds no image for linux/.*: only linux/mips64le"):
        import_image(archive(tmp_path / "a.tar", files), store)


def test_only_a_foreign_image_is_told(store, other, image, tmp_path):
    export_image(store, "lab/it:1", tmp_path / "out", "oci-dir")
    entry = {**image.manifest.document(), "platform": {"os": "linux", "architecture": "s390x"}}
    (tmp_path / "out" / "index.json").write_bytes(oci.canonical_json({"manifests": [entry]}))
    with pytest.raises(ImageError, match="holds no image for linux/"):
        import_image(tmp_path / "out", other)


def test_a_changed_blob_is_damaged(store, other, image, tmp_path):
    export_image(store, "lab/it:1", tmp_path / "out", "oci-dir")
    blob = tmp_path / "out" / "blobs" / "sha256" / image.layers[1].blob.digest[7:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(ImageError, match="damaged: its bytes have the digest"):
        import_image(tmp_path / "out", other)
    assert other.names() == {}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The bytes of one image in several forms of archive, small enough to be spoilt at every place."""
    place = tmp_path_factory.mktemp("archives")
    (place / "f").write_text("f")
    (place / "Containerfile").write_text("FROM scratch\nCOPY f /a\n")
    store = Store(place / "store")
    build_image(place / "Containerfile", place, store, name="it")
    found = []
    for fmt, how in (("oci-archive", "gzip"), ("docker-archive", "none"), ("oci-archive", "zstd")):
        out = io.BytesIO()
        export_image(store, "it", out, fmt, parse_compression(how))
        found.append(out.getvalue().rstrip(b"\0") + bytes(1024))
    return [*found, gzip.compress(found[0]), zstandard.compress(found[1])]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data())
def test_a_spoilt_archive_is_refused_or_whole(archives, store, data):
    """Whatever bytes change, there is one clear error, or an image whose every blob is what its digest says."""
    spoilt = bytearray(data.draw(strategies.sampled_from(archives)))
    for _ in range(data.draw(strategies.integers(1, 3))):
        spoilt[data.draw(strategies.integers(0, len(spoilt) - 1))] = data.draw(strategies.integers(0, 255))
    del spoilt[data.draw(strategies.integers(0, len(spoilt))) or len(spoilt) :]
    try:
        found = import_image(io.BytesIO(spoilt), store, name="spoilt")
    except (ImageError, UsageError):
        assert not any((store.path / "tmp").iterdir())
        return
    for image in found.values():
        for blob in (image.manifest, image.config_blob, *(layer.blob for layer in image.layers)):
            assert oci.sha256_digest(store.blob_path(blob.digest).read_bytes()) == blob.digest


KEYS = ["manifests", "mediaType", "digest", "size", "annotations", "platform", "os", "architecture", "Config", "Layers",
        "RepoTags", "rootfs", "diff_ids", "config", "layers", "schemaVersion", "Labels", "history"]  # fmt: skip
LEAVES = strategies.one_of(
    strategies.none(), strategies.booleans(), strategies.integers(-1, 9), strategies.text(max_size=3),
    strategies.sampled_from([oci.MANIFEST, oci.INDEX, "linux", "amd64", "blobs/sha256/x", "sha256:" + "0" * 64]),
)  # fmt: skip
DOCUMENTS = strategies.recursive(
    LEAVES,
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.sampled_from(KEYS), inner),
    max_leaves=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(top=DOCUMENTS, below=DOCUMENTS, config=DOCUMENTS, docker=strategies.booleans())
def test_documents_of_any_shape_are_refused_or_read(store, top, below, config, docker):
    """An index, a manifest and a configuration of whatever shape, with digests that fit."""
    blobs = [json.dumps(document).encode() for document in (below, config)]
    files = {f"blobs/sha256/{hashlib.sha256(data).hexdigest()}": data for data in blobs}
    names = list(files)
    if docker:
        entry = {"Config": names[-1], "Layers": [], **(top if isinstance(top, dict) else {"RepoTags": top})}
        files["manifest.json"] = json.dumps([entry]).encode()
    else:
        entry = {"mediaType": oci.MANIFEST, "digest": f"sha256:{names[0][13:]}", "size": len(blobs[0])}
        entry |= top if isinstance(top, dict) else {"platform": top}
        files |= {"oci-layout": b"{}", "index.json": json.dumps({"manifests": [entry]}).encode()}
    with contextlib.suppress(ImageError, UsageError):
        import_image(archive(store.path / "spoilt.tar", files), store)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a": b"x"}, "neither an OCI layout nor"),
        ({"manifest.json": b"[]"}, "holds no image"),
        ({"manifest.json": b"{"}, "damaged: no JSON"),
        ({"manifest.json": b'[{"Config": "c", "Layers": ["l"]}]'}, "c: missing"),
        ({"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'}, "etc/passwd: missing"),
        ({"manifest.json": b'[{"Layers": 1}]'}, "without a list of layers"),
        ({"oci-layout": b"{}"}, "index.json: missing"),
        ({"oci-layout": b"{}", "index.json": b'{"manifests": [{"digest": "../x"}]}'}, "without a valid size"),
        ({"oci-layout": b"{}", "index.json": b'{"manifests": [{"digest": "../x", "size": 1}]}'}, "not a sha256 digest"),
        ({"blobs/sha256/" + "0" * 64: b"x"}, "damaged: its bytes have the digest"),
    ],
)
def test_hostile_and_damaged_archives(store, tmp_path, files, why):
    with pytest.raises(ImageError, match=why):
        import_image(archive(tmp_path / "a.tar", files), store)
    assert store.names() == {}


def test_a_file_that_is_no_archive(store, tmp_path):
    (tmp_path / "x").write_bytes(b"hello" * 500)
    with pytest.raises(ImageError, match="damaged"):
        import_image(tmp_path / "x", store)


def test_a_directory_that_is_no_layout(store, tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(ImageError, match="no OCI layout"):
        import_image(tmp_path / "d", store)


def test_importing_anew_mends_a_damaged_image(tmp_path, store, image):
    out = tmp_path / "kept"
    export_image(store, "lab/it:1", out, "oci-dir")
    layer = image.layers[-1].blob
    path = store.blob_path(layer.digest)
    path.write_bytes(b"x" * layer.size_bytes)
    with pytest.raises(ImageError, match="damaged"):
        export_image(store, "lab/it:1", tmp_path / "again", "oci-dir")
    import_image(out, store, name="lab/it:1")
    export_image(store, "lab/it:1", tmp_path / "mended", "oci-dir")
    assert oci.sha256_digest(path.read_bytes()) == layer.digest
