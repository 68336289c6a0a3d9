"""What several unit tests need: a study that takes no time, and the command line in this process.

The settings of generated tests are not in the conftest above: guests, which have no hypothesis, read that one too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import harness.studies
from harness import plugins
from harness.cli import main
from harness.trials import ownership

# A slow moment of a shared machine is no fault of what is tested; pytest-timeout ends what hangs.
settings.register_profile("harness", deadline=None)
settings.load_profile("harness")


@pytest.fixture
def fake_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a directory for scenarios that may name the study `fake` (tests.fake_study)."""
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "fake.py").write_text("from tests.fake_study import PLUGIN\n")
    monkeypatch.setattr(harness.studies, "__path__", [*harness.studies.__path__, str(folder)])
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "runtime"))
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ownership, "_ROOTS_REGISTRY", tmp_path / "registry")
    plugins._index.cache_clear()
    yield tmp_path
    plugins._index.cache_clear()


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command; return what it wrote, to stdout where it worked and to stderr where it failed."""

    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        ended = main.run([str(word) for word in words])
        out, err = capsys.readouterr()
        assert ended == code, err
        return err if code else out

    return run
