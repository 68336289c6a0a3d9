"""The rules that hold the code together, each as a test that fails when it is broken."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "harness").rglob("*.py"))
MAX_LINES = 400
HEAVY = ("numpy", "pandas", "matplotlib", "scipy")
TIMED = ("backends", "probes", "trials", "container", "agent")


def python(code, *flags):
    """Run code in a fresh interpreter at the root of the checkout and return its stdout."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dotted(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def test_imports_go_down_only():
    output = python("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")
    assert " 0 broken" in output


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_is_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def exits(tree):
    """Yield the lines that end the process, but for those under `if __name__ == "__main__"`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"sys.exit", "exit", "quit", "os._exit"}:
            yield node.lineno
        if isinstance(node, ast.Raise) and node.exc is not None and "SystemExit" in ast.unparse(node.exc):
            yield node.lineno
        yield from exits(node)


def test_exits_are_found():
    tree = ast.parse("def f():\n    sys.exit(1)\nraise SystemExit\nif __name__ == '__main__':\n    sys.exit(f())\n")
    assert list(exits(tree)) == [2, 3]


@pytest.mark.parametrize("path", [path for path in MODULES if "cli" not in path.parts], ids=dotted)
def test_only_the_command_line_exits(path):
    assert list(exits(ast.parse(path.read_text()))) == []


def test_container_stands_alone():
    """It imports without site-packages, and loads nothing else of harness: it is an OCI runtime of its own."""
    names = [dotted(path) for path in MODULES if path.parent.name == "container"]
    assert "harness.container" in names
    code = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT)!r})
for name in {names!r}:
    importlib.import_module(name)
print(sorted(name for name in sys.modules if name.startswith("harness.") and not name.startswith("harness.container")))
"""
    assert python(code, "-I", "-S").strip() == "[]"


@pytest.mark.parametrize("package", TIMED)
def test_timed_path_loads_nothing_heavy(package):
    """numpy and pandas take a second to import, and start a thread."""
    names = [dotted(path) for path in MODULES if path.is_relative_to(ROOT / "harness" / package)]
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python(code).strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_scenario_is_valid(path, capsys):
    assert main.run(["validate", str(path)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", main.VERBS)
def test_verb_can_be_loaded(name):
    command = main.cli.get_command(None, name)
    assert command.name == name
    assert command.help


def test_help_loads_no_library_but_click():
    """`harness --help` answers in well under 0.3 s because it imports next to nothing."""
    code = f"""
import sys
from harness.cli.main import run
run(["--help"])
heavy = {(*HEAVY, "pydantic", "rich", "ruamel", "libvirt", "psutil", "logging", "subprocess")!r}
print([name for name in heavy if name in sys.modules])
"""
    assert python(code).splitlines()[-1] == "[]"


def test_validate_loads_only_what_it_needs():
    code = f"""
import sys
from harness.cli.main import run
run(["validate", "scenarios/quickstart.yaml"])
print([name for name in {(*HEAVY, "rich", "libvirt", "psutil")!r} if name in sys.modules])
"""
    assert python(code).splitlines()[-1] == "[]"
