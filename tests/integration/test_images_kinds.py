"""Every kind of image reference gives the same root tree for the same files."""

import pytest

from harness.images.interchange import export_image
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.images.tree import root_digest

pytestmark = pytest.mark.needs("root")


def test_all_kinds_agree(tmp_path):
    store = Store(tmp_path / "store")
    context = tmp_path / "My Image"
    (context / "bin").mkdir(parents=True)
    (context / "bin" / "tool").write_text("tool")
    (context / "Containerfile").write_text('FROM scratch\nCOPY bin /bin\nENV A=1\nCMD ["/bin/tool"]\n')
    built = resolve_image(ImageRef("build", "My Image"), tmp_path, store)
    assert built.config.cmd == ("/bin/tool",)
    (name,) = store.names()
    assert name.startswith("build/my-image-")
    export_image(store, name, tmp_path / "layout", "oci-dir")
    refs = [ImageRef("layout", "layout"), ImageRef("name", name), ImageRef("rootfs", str(built.path))]
    trees = [resolve_image(ref, tmp_path, store) for ref in refs]
    assert {tree.digest for tree in trees} == {built.digest} == {root_digest(built.path)}
    assert {tree.size_bytes for tree in trees} == {4}
    assert [tree.reference for tree in trees[:2]] == ["layout:layout", name]


def test_a_changed_directory_replaces_its_image(tmp_path):
    store = Store(tmp_path / "store")
    (tmp_path / "root").mkdir()
    first = resolve_image(ImageRef("rootfs", "root"), tmp_path, store)
    (tmp_path / "root" / "new").touch()
    second = resolve_image(ImageRef("rootfs", "root"), tmp_path, store)
    assert first.digest != second.digest
    assert len(store.names()) == 1
    assert root_digest(first.path) == first.digest
