"""References, what skopeo's errors mean, and that what it hands over is checked again. The registry itself is in
tests/integration/test_images_registry.py; here skopeo is a script that answers from files."""

import json
import os

import pytest

from harness.errors import CommandError, ImageError, UsageError
from harness.images import oci, skopeo
from harness.images.references import parse_reference
from harness.images.registry import login, pull_image, push_image
from harness.images.skopeo import Access
from harness.images.store import Store

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "local"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest", "bitnami/redis:latest"),
        ("docker.io/library/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
        ("docker.io/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
        ("localhost/web", "localhost/web:latest", "localhost/web:latest"),
        ("localhost:5000/lab/web:2", "localhost:5000/lab/web:2", "localhost:5000/lab/web:2"),
        ("quay.io/a/b/c:x", "quay.io/a/b/c:x", "quay.io/a/b/c:x"),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}", f"quay.io/a/b:sha256-{'a' * 64}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx@{DIGEST}", f"nginx:sha256-{'a' * 64}"),
    ],
)
def test_references(text, full, local):
    assert (str(parse_reference(text)), parse_reference(text).local_name) == (full, local)


@pytest.mark.parametrize("text", ["", "A B", "nginx@", "nginx@sha256:12", "nginx@md5:12", "--help", "a//b", "-x/y:1"])
def test_wrong_references(text):
    with pytest.raises(UsageError):
        parse_reference(text)


# As skopeo 1.9.3 said it.
SAID = [
    (r'reading manifest 2 in localhost:5055/a/b: manifest unknown: manifest unknown', "no such image", None),
    (r'pinging container registry r:1: Get \"https://r:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused',
     "cannot be reached: connection refused", "network"),
    (r'pinging container registry r: Get \"http://r/v2/\": dial tcp: lookup r on 10.0.0.1:53: no such host',
     "cannot be reached: no such host", "network"),
    (r'pinging container registry r:1: Get \"https://r:1/v2/\": http: server gave HTTP response to HTTPS client',
     "speaks plain HTTP", "--tls-verify=false"),
    (r'Get \"https://r/v2/\": x509: certificate signed by unknown authority', "not trusted", "--cert-dir"),
    (r'reading manifest 1 in r/a: unauthorized: authentication required', "refuses", "harness image login r.example"),
    (r'copying system image: writing blob: write /x: no space left on device', "disk is full", "harness image gc"),
    ("something new", "something new", None),
]  # fmt: skip


@pytest.mark.parametrize(("said", "message", "hint"), SAID)
def test_what_skopeo_says_is_said_clearly(said, message, hint):
    line = f'time="2026-11-24T21:49:45Z" level=fatal msg="Error parsing image name: {said}"\n'
    error = CommandError(["skopeo", "inspect"], 1, line)
    found = skopeo.explain(error, "pull: r.example/a:1", parse_reference("r.example/a:1"))
    assert found.message.startswith("pull: r.example/a:1: ")
    assert message in found.message
    assert (hint or "") in (found.hint or "")


FAKE = """#!/bin/sh
echo "$@" >>{place}/argv
case "$1 $*" in
*--config*) cat {place}/config ;;
inspect*) cat {place}/manifest ;;
copy*) for word; do case $word in --dest-shared-blob-dir=*) to=${{word#*=}} ;; esac; done
       cp {place}/layer "$to/sha256/$(cat {place}/name)" ;;
login*) cat >{place}/password ;;
esac
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry behind a script: one image of one layer, each part of it a file that a test may spoil."""
    place = tmp_path / "registry"
    place.mkdir()
    layer = b"\0" * 10240  # a tar without entries
    config = {"architecture": oci.host_architecture(), "os": "linux",
              "rootfs": {"type": "layers", "diff_ids": [oci.sha256_digest(layer)]}}  # fmt: skip
    blob = oci.Descriptor(oci.LAYER, oci.sha256_digest(layer), len(layer))
    data = oci.canonical_json(config)
    (place / "layer").write_bytes(layer)
    (place / "name").write_text(blob.digest[7:])
    (place / "config").write_bytes(data)
    document = oci.manifest_document(oci.Descriptor(oci.CONFIG, oci.sha256_digest(data), len(data)), [blob])
    (place / "manifest").write_text(json.dumps(document, indent=3))  # bytes that we would not write so
    (tmp_path / "skopeo").write_text(FAKE.format(place=place))
    (tmp_path / "skopeo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return place


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_pulled_image_has_the_digest_of_the_registry(registry, store):
    name, image = pull_image("r.example/web:1", store)
    assert name == "r.example/web:1"
    assert image.manifest.digest == oci.sha256_digest((registry / "manifest").read_bytes())
    assert store.find(name) == image
    asked = (registry / "argv").read_text().splitlines()
    assert f"docker://r.example/web@{image.manifest.digest}" in asked[1], "what was looked up is what is fetched"


@pytest.mark.parametrize("part", ["layer", "config"])
def test_bytes_that_are_not_their_digests_are_refused(registry, store, part):
    data = (registry / part).read_bytes()
    (registry / part).write_bytes(data[:-1] + b"\1")
    with pytest.raises(ImageError, match="damaged"):
        pull_image("r.example/web:1", store)
    assert store.names() == {}
    assert not any((store.path / "tmp").iterdir())


def test_a_manifest_that_is_not_its_digest_is_refused(registry, store):
    with pytest.raises(ImageError, match="damaged: its bytes have the digest"):
        pull_image(f"r.example/web@{DIGEST}", store)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, "Docker's first form"),
        ({"schemaVersion": 2, "manifests": []}, "holds no image for linux/"),
        ({"schemaVersion": 2, "layers": []}, "expected a descriptor"),
    ],
)
def test_manifests_that_lead_nowhere(registry, store, manifest, message):
    (registry / "manifest").write_text(json.dumps(manifest))
    with pytest.raises(ImageError, match=message):
        pull_image("r.example/web:1", store)


def test_no_secret_is_on_a_command_line(registry, store, tmp_path):
    pull_image("r.example/web:1", store, access=Access(credentials="me:hunter2", tls_verify=False))
    login("r.example", "me", "hunter2", Access(cert_dir=tmp_path))
    words = (registry / "argv").read_text()
    assert "hunter2" not in words
    assert "--src-authfile=" in words
    assert "--src-tls-verify=false" in words
    assert (registry / "password").read_text() == "hunter2"
    authfile = words.partition("--authfile=")[2].split()[0]
    assert not os.path.lexists(authfile)
    with pytest.raises(UsageError, match="USER:PASSWORD"):
        pull_image("r.example/web:1", store, access=Access(credentials="hunter2"))


def test_a_digest_cannot_be_pushed_to(store):
    with pytest.raises(UsageError, match="a digest cannot be chosen"):
        push_image(store, "x", f"r.example/web@{DIGEST}")
