"""What needs no root: names, hints, refusals. That trees come out right is shown by the integration tests."""

import pytest

from harness.errors import BuildError, CapabilityError, ImageError
from harness.images.resolve import ImageRef, image_outlook, resolve_image
from harness.images.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.mark.parametrize(
    ("ref", "message", "hint"),
    [
        (ImageRef("name", "busybox"), "busybox:latest: not in the store", "harness image bootstrap busybox"),
        (ImageRef("oci", "nginx@sha256:12"), "not of the form NAME@sha256:HEX", None),
        (ImageRef("name", "Bad Name"), r"not of the form NAME\[:TAG\]", "for instance: busybox"),
        (ImageRef("build", "nowhere"), "build:nowhere: no such file or directory", None),
        (ImageRef("build", "."), "no Containerfile there", "a directory with a Containerfile"),
        (ImageRef("layout", "."), "no OCI layout", None),
        (ImageRef("rootfs", "file"), "must be a directory", None),
    ],
)
def test_what_is_missing_is_one_image_error_with_a_hint(store, tmp_path, ref, message, hint):
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=message) as caught:
        resolve_image(ref, tmp_path, store)
    assert hint is None or hint in (caught.value.hint or "")


def test_a_wrong_containerfile_is_a_build_error(store, tmp_path):
    (tmp_path / "Containerfile").write_text("FROM scratch\nMAKE x\n")
    with pytest.raises(BuildError, match="Containerfile:2: MAKE"):
        resolve_image(ImageRef("build", "."), tmp_path, store)


def test_an_image_of_a_registry_needs_skopeo_only_where_it_is_not_in_the_store(store, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CapabilityError, match="skopeo: not found") as caught:
        image_outlook(ImageRef("oci", "registry.example/web:1"), tmp_path, store)
    assert caught.value.hint == "on Debian: apt-get install skopeo"
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    store.add_image(document, [], "registry.example/web:1")
    found = image_outlook(ImageRef("oci", "registry.example/web:1"), tmp_path, store).found
    assert found.startswith("registry.example/web:1 in the store (sha256:")


def test_what_is_to_be_pulled_is_said(store, tmp_path, monkeypatch):
    (tmp_path / "skopeo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "skopeo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    outlook = image_outlook(ImageRef("oci", "web"), tmp_path, store)
    assert (outlook.found, outlook.config) == ("docker.io/library/web:latest, not in the store: to be pulled", None)
