"""The `needs` marker skips or fails as asked, and a privileged test that leaves something behind is caught."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = (ROOT / "tests" / "conftest.py").read_text()


@pytest.fixture
def inner(tmp_path):
    """Return a function that runs pytest on one test file in a folder of its own, beside a copy of our conftest.py."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = needs(*capabilities): what a test needs\n")
    quick = CONFTEST.replace("LEFTOVER_GRACE_S = 5.0", "LEFTOVER_GRACE_S = 0.1")
    assert quick != CONFTEST
    never = 'CAPABILITIES: dict[str, Callable[[], str | None]] = {\n    "never": lambda: "it never is",'
    (tmp_path / "conftest.py").write_text(quick.replace(never.partition("\n")[0], never))

    def run(code, *arguments, tier="unit"):
        folder = tmp_path / tier
        folder.mkdir(exist_ok=True)
        (folder / "test_inner.py").write_text(f"import pytest, subprocess\n{code}")
        argv = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", *arguments, str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HARNESS_TESTS_BESIDE": ""}
        done = subprocess.run(
            argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    return run


NEEDY = '@pytest.mark.needs("never")\ndef test_it(): pass\n'


def test_a_missing_capability_skips_with_its_reason(inner):
    code, output = inner(NEEDY)
    assert code == 0
    assert "SKIPPED [1]" in output
    assert "needs never: it never is" in output


def test_a_required_capability_that_is_missing_fails(inner):
    code, output = inner(NEEDY, "--require=root,never")
    assert code == 1
    assert "needs never, which --require says must be here: it never is" in output


def test_other_tests_run_whatever_is_required(inner):
    code, output = inner("def test_it(): pass\n", "--require=never")
    assert code == 0
    assert "1 passed" in output


def test_an_unknown_capability_is_an_error(inner):
    code, output = inner("def test_it(): pass\n", "--require=qmeu")
    assert code == 4
    assert "--require: qmeu: unknown capability; known: never, root" in output


def test_a_misspelt_mark_is_an_error(inner):
    code, output = inner('@pytest.mark.needs("rooot")\ndef test_it(): pass\n')
    assert code != 0
    assert "rooot: unknown capability" in output


@pytest.mark.needs("root")
@pytest.mark.parametrize(("tier", "code"), [("integration", 1), ("vm", 1), ("unit", 0)])
def test_a_mount_that_is_left_behind_is_caught(inner, tmp_path, tier, code):
    target = tmp_path / "left"
    target.mkdir()
    try:
        found, output = inner(
            f"def test_it(): subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(target)!r}], check=True)\n", tier=tier
        )
    finally:
        subprocess.run(["umount", str(target)], check=True)
    assert found == code
    assert ("left behind: " in output and f"mount {target}" in output) is bool(code)
