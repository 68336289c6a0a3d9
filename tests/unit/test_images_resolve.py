"""What needs no root: names, hints, refusals. That trees come out right is shown by the integration tests."""

import pytest

from harness.errors import BuildError, ImageError
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.mark.parametrize(
    ("ref", "message", "hint"),
    [
        (ImageRef("name", "busybox"), "busybox:latest: not in the store", "harness image bootstrap busybox"),
        (ImageRef("oci", "docker.io/library/nginx:1"), "nginx:1: not in the store", "harness image import FILE --name"),
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
    (tmp_path / "Containerfile").write_text("FROM scratch\nRUN x\n")
    with pytest.raises(BuildError, match="Containerfile:2: RUN: not supported yet"):
        resolve_image(ImageRef("build", "."), tmp_path, store)
