from pathlib import Path

import pytest

from harness.errors import CapabilityError
from harness.host.paths import cache_dir, data_dir, runtime_dir


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ("HARNESS_HOME", "HARNESS_RUNTIME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")


def test_defaults_follow_xdg():
    assert data_dir() == Path("/home/ada/.local/share/harness")
    assert cache_dir() == Path("/home/ada/.cache/harness")


def test_xdg_variables_are_used_and_relative_ones_ignored(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/d")
    monkeypatch.setenv("XDG_CACHE_HOME", "c")
    assert (data_dir(), cache_dir()) == (Path("/d/harness"), Path("/home/ada/.cache/harness"))


def test_harness_home_wins(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/d")
    monkeypatch.setenv("HARNESS_HOME", "/h")
    assert (data_dir(), cache_dir()) == (Path("/h/data"), Path("/h/cache"))


def test_runtime_directory_of_root(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert runtime_dir() == Path("/run/harness")
    monkeypatch.setenv("HARNESS_RUNTIME", "/r")
    assert runtime_dir() == Path("/r")


def test_runtime_directory_of_a_user(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CapabilityError, match="XDG_RUNTIME_DIR: not set"):
        runtime_dir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert runtime_dir() == Path("/run/user/1000/harness")
