"""Plugins are found by name, imported late, and told as unavailable when their library is missing."""

import sys

import pytest

import harness.workloads
from harness import plugins
from harness.errors import HarnessError, UsageError

SHIPPED = (
    "command", "compile", "cpu", "everything", "fio", "http", "memory", "network", "noop", "postgres", "python",
    "redis", "sqlite", "storage", "stress", "syscalls", "web",
)  # fmt: skip
WORKLOAD = """\
from harness.workloads.command import Options

class _Odd:
    name = "odd"
    doc = "a plugin that a test wrote"
    options = Options

PLUGIN = _Odd()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A second folder of workloads: `odd` works, `broken` needs a library that nobody has."""
    (tmp_path / "odd.py").write_text(WORKLOAD)
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "_private.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.setattr(harness.workloads, "__path__", [*harness.workloads.__path__, str(tmp_path)])
    plugins._index.cache_clear()
    yield tmp_path
    plugins._index.cache_clear()
    for name in ("odd", "broken"):
        sys.modules.pop(f"harness.workloads.{name}", None)


def test_a_file_is_a_plugin(folder):
    assert set(plugins.names("workloads")) == {*SHIPPED, "broken", "odd"}
    assert list(plugins.names("workloads")) == sorted(plugins.names("workloads"))
    assert plugins.load("workloads", "odd").doc == "a plugin that a test wrote"


def test_listing_imports_nothing(folder):
    plugins.names("workloads")
    assert "harness.workloads.odd" not in sys.modules


def test_a_missing_library_is_a_reason(folder):
    assert plugins.try_load("workloads", "broken") == plugins.Unavailable("broken", "No module named 'no_such_library'")
    with pytest.raises(ModuleNotFoundError):
        plugins.load("workloads", "broken")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="workloads: comand: unknown") as caught:
        plugins.load("workloads", "comand")
    assert caught.value.hint == f"known: {', '.join(SHIPPED)}"


def test_a_name_defined_twice_is_an_error(folder, monkeypatch):
    class Point:
        name, module, value = "odd", "elsewhere", "elsewhere:PLUGIN"

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point()])
    with pytest.raises(HarnessError, match=r"workloads\.odd: defined by harness.workloads.odd and by elsewhere:PLUGIN"):
        plugins.names("workloads")


def test_option_models_import_only_what_is_asked_for(folder):
    models = plugins.OptionModels("workloads")
    assert set(models) == {*SHIPPED, "broken", "odd"}
    assert "odd" in models
    assert "harness.workloads.odd" not in sys.modules
    assert models["odd"].__name__ == "Options"
    assert models["broken"] is None
    assert models.get("none") is None
    assert len(models) == len(SHIPPED) + 2
