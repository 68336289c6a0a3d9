"""Where libvirt's embedded driver lives, and which URIs are refused."""

import os
from pathlib import Path

import pytest

from harness.backends import _connection
from harness.errors import CapabilityError


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "_locks", {})
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "r"))


def test_a_process_keeps_its_directory_and_another_gets_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "_ROOT_PATH_MAX_BYTES", 1000)
    first = _connection.embed_root(tmp_path)
    assert _connection.embed_root(tmp_path) == first
    (first / "cache").mkdir()
    (first / "cache" / "known.xml").touch()
    monkeypatch.setattr(_connection, "_locks", {})  # as another process sees it: the lock is an open file's
    second = _connection.embed_root(tmp_path)
    assert second != first
    assert (second / "cache" / "known.xml").exists(), "what libvirt found out about QEMU is not asked again"


def test_a_long_path_gets_a_short_link(tmp_path: Path) -> None:
    cache = tmp_path / ("long" * 20)
    root = _connection.embed_root(cache)
    assert root.is_symlink()
    assert root.resolve() == (cache / "libvirt" / "0").resolve()
    assert len(os.fsencode(root)) < len(os.fsencode(cache))


@pytest.mark.parametrize("uri", ["qemu+ssh://host/system", "qemu+tls://host/system", "qemu://host/system"])
def test_a_remote_host_is_refused_because_its_clock_is_another(uri: str) -> None:
    with pytest.raises(CapabilityError, match="cannot be timed by this host's clock"):
        _connection.check_uri(uri)


@pytest.mark.parametrize("uri", ["qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/run/x"])
def test_local_daemons_are_taken(uri: str) -> None:
    _connection.check_uri(uri)
