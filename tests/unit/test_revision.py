"""A project as of another revision: what is written, what is refused, and that the checkout is left as it was."""

import subprocess

import pytest

from harness.errors import UsageError
from harness.trials import ownership
from harness.trials.revision import checkout

pytestmark = pytest.mark.needs("git")


def git(*arguments, cwd):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two commits and a changed working tree."""
    for name in ("HARNESS_HOME", "HARNESS_RUNTIME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(ownership, "registry", lambda: tmp_path / "HARNESS_RUNTIME")
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "project"
    (place / "scenarios").mkdir(parents=True)
    git("init", "-q", "-b", "main", ".", cwd=place)
    for number in (1, 2):
        (place / "scenarios" / "a.yaml").write_text(f"number: {number}\n")
        (place / "run.sh").write_text("#!/bin/sh\n")
        (place / "run.sh").chmod(0o755)
        git("add", ".", cwd=place)
        git("commit", "-q", "-m", str(number), cwd=place)
    (place / "scenarios" / "a.yaml").write_text("number: 3\n")
    return place


def test_the_files_of_a_commit_for_the_time_of_a_block(project):
    before = git("status", "--porcelain=v2", "--branch", cwd=project)
    with checkout(project / "scenarios" / "a.yaml", "HEAD~1") as base:
        assert base.scenario.read_text() == "number: 1\n"
        assert base.commit == git("rev-parse", "HEAD~1", cwd=project)
        assert (base.scenario.parent.parent / "run.sh").stat().st_mode & 0o111
        assert len(ownership.scratch_tokens()) == 1
    assert not base.scenario.exists()
    assert ownership.scratch_tokens() == set()
    assert git("status", "--porcelain=v2", "--branch", cwd=project) == before
    assert git("worktree", "list", cwd=project).count("\n") == 0


def test_what_is_not_there_is_named(project, tmp_path):
    scenario = project / "scenarios" / "a.yaml"
    with pytest.raises(UsageError, match="nowhere: no such revision") as failed, checkout(scenario, "nowhere"):
        pass
    assert "fetch-depth" in (failed.value.hint or "")
    new = project / "scenarios" / "new.yaml"
    new.write_text("number: 0\n")
    with pytest.raises(UsageError, match=r"scenarios/new\.yaml: is not in HEAD"), checkout(new, "HEAD"):
        pass
    outside = tmp_path / "outside.yaml"
    outside.write_text("number: 0\n")
    with pytest.raises(UsageError, match="in no git checkout"), checkout(outside, "HEAD"):
        pass
    with pytest.raises(UsageError, match="no such file"), checkout(project / "none.yaml", "HEAD"):
        pass
    assert ownership.scratch_tokens() == set()


def test_a_revision_that_looks_like_an_option_is_none(project):
    with pytest.raises(UsageError, match="no such revision"), checkout(project / "scenarios" / "a.yaml", "--all"):
        pass
