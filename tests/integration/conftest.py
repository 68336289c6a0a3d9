"""An image of one's own and a run's context for the tests of the container runtime."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backends import _local
from harness.errors import ImageError
from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import RunContext
from harness.trials import ownership


@pytest.fixture(scope="module")
def busybox() -> Path:
    store = Store(data_dir() / "images")
    try:
        return resolve_image(ImageRef("name", "busybox"), Path(), store).path
    except ImageError:
        bootstrap_busybox(store, cache_dir())
        return resolve_image(ImageRef("name", "busybox"), Path(), store).path


@pytest.fixture
def tree(busybox: Path, tmp_path: Path) -> Path:
    """An image of one's own, which a test may make hostile."""
    path = tmp_path / "tree"
    shutil.copytree(busybox, path, symlinks=True)
    return path


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunContext]:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "test")  # `harness clean` of another test leaves it alone
    yield RunContext("test", token, scratch, cache_dir())
    assert _local.reap(token, dry_run=False) == []
