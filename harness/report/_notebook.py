"""A notebook that explains a run, executed on it: `.ipynb`, or HTML without its code.

Notebooks are kept as text (jupytext's py:percent), each with an .ipynb without outputs beside it that
`scripts/pair-notebooks` makes. What they show is set in lines such as `RUNS = []`, which are rewritten here. Executing
one takes seconds and starts a Python of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import CapabilityError, UsageError
from harness.report._environment import environment

KERNEL = "python3"
LANGUAGES = ("de", "en")
_HERE = Path(__file__).resolve().parents[1]
_PLACES = (_HERE / "notebooks", _HERE.parent / "notebooks")  # installed; in a checkout
_TIMEOUT_S = 300


def known() -> dict[str, Path]:
    """Return the notebooks that there are, by name."""
    return {path.stem: path for place in reversed(_PLACES) for path in sorted(place.glob("*.py"))}


def doc(path: Path) -> str:
    """Return what a notebook is about: its first heading."""
    return next((line[4:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# # ")), "")


def source(name: str, runs: Sequence[Path], settings: Mapping[str, str]) -> str:
    """Return a notebook's text with its runs and settings (`language`, `history`) in place.

    Raises: UsageError for an unknown notebook, and for a setting that it has not.
    """
    notebooks = known()
    if name not in notebooks:
        raise UsageError(f"notebook: {name}: unknown", hint=f"known: {', '.join(notebooks)}")
    text = notebooks[name].read_text(encoding="utf-8")
    lines = {"RUNS": [str(run.resolve()) for run in runs], **{key.upper(): value for key, value in settings.items()}}
    for key, value in lines.items():
        line = f"{key} = {value!r}"
        text, count = re.subn(rf"(?m)^{key} = .*$", line.replace("\\", r"\\"), text)
        if not count:
            raise UsageError(f"notebook: {name}: it has no setting {key.lower()}")
    return text


def execute(name: str, runs: Sequence[Path], settings: Mapping[str, str] | None = None) -> Any:
    """Return a notebook (nbformat) executed on the directories of runs, in one language where `settings` name it.

    Raises: UsageError for an unknown name or a cell that fails; CapabilityError where Jupyter's parts are missing.
    """
    text = source(name, runs, settings or {})
    try:
        import jupytext  # noqa: PLC0415
        import nbclient  # noqa: PLC0415
        from nbclient.exceptions import CellExecutionError  # noqa: PLC0415
    except ImportError as error:
        hint = "pip install 'vm-container-harness[notebooks]'"
        raise CapabilityError(f"notebook: {error.name}: not installed", hint=hint) from error
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.cells = cells(text, (settings or {}).get("language", ""))
    notebook.metadata["kernelspec"] = {"name": KERNEL, "display_name": "Python 3", "language": "python"}
    notebook.metadata["language"] = (settings or {}).get("language", "en")[:2]
    try:
        nbclient.NotebookClient(
            notebook, timeout=_TIMEOUT_S, kernel_name=KERNEL, kernel_manager_class=_own_python()
        ).execute()
    except CellExecutionError as error:
        raise UsageError(f"notebook: {name}: a cell failed: {error.ename}: {error.evalue}") from error
    return notebook


def cells(text: str, language: str) -> list[Any]:
    """Return the cells of a notebook's text; where one language is named, without those in another."""
    import jupytext  # noqa: PLC0415

    return [cell for cell in jupytext.reads(text, fmt="py:percent").cells if _spoken(cell, language)]


def _spoken(cell: Any, language: str) -> bool:
    """Return whether a cell is to stay where one language was asked for: those in another are tagged with it."""
    tags = set(cell.metadata.get("tags", ())) & set(LANGUAGES)
    return language not in LANGUAGES or not tags or language in tags


def _own_python() -> Any:
    """Return a kernel manager that starts this interpreter, whatever a user's kernel of that name would start."""
    from jupyter_client.manager import AsyncKernelManager  # noqa: PLC0415

    class OwnPython(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(transport="ipc", **options)  # no port that others on this host could read

        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            return [sys.executable, *super().format_kernel_cmd(extra_arguments)[1:]]

    return OwnPython


def as_html(notebook: Any) -> str:
    """Return an executed notebook as a page without its code, in the look of the reports; it needs nothing else."""
    from nbconvert import HTMLExporter  # noqa: PLC0415

    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True
    )
    body: str = exporter.from_notebook_node(notebook)[0]
    title = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.DOTALL)
    language = notebook.metadata.get("language", "en")
    template = environment().get_template("_notebook.html.j2")
    return template.render(title=re.sub(r"<[^>]*>", "", title[1]) if title else "", language=language, body=body)


def paired(path: Path) -> str:
    """Return the .ipynb of a notebook's text: the same cells, no outputs, and the same bytes every time."""
    import jupytext  # noqa: PLC0415

    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": KERNEL, "display_name": "Python 3", "language": "python"}
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place:02d}"
    return as_ipynb(notebook)


def as_ipynb(notebook: Any) -> str:
    """Return an executed notebook as a file that Jupyter opens."""
    import nbformat  # noqa: PLC0415

    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    return text + "\n"
