"""A notebook that explains a run, executed on it: `.ipynb`, or HTML without its code.

Notebooks are kept as text (jupytext's py:percent) and hold no outputs; which run they show is one line, `RUN = ...`,
that is set here. Executing one takes seconds and starts a Python of its own.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from harness.errors import CapabilityError, UsageError

KERNEL = "python3"
_HERE = Path(__file__).resolve().parents[1]
_PLACES = (_HERE / "notebooks", _HERE.parent / "notebooks")  # installed; in a checkout
_TIMEOUT_S = 300


def known() -> dict[str, Path]:
    """Return the notebooks that there are, by name."""
    return {path.stem: path for place in reversed(_PLACES) for path in sorted(place.glob("*.py"))}


def execute(name: str, run: Path) -> Any:
    """Return a notebook (nbformat) executed on a run's directory.

    Raises: UsageError for an unknown name or a cell that fails; CapabilityError where Jupyter's parts are missing.
    """
    notebooks = known()
    if name not in notebooks:
        raise UsageError(f"notebook: {name}: unknown", hint=f"known: {', '.join(notebooks)}")
    try:
        import jupytext  # noqa: PLC0415
        import nbclient  # noqa: PLC0415
        from nbclient.exceptions import CellExecutionError  # noqa: PLC0415
    except ImportError as error:
        hint = "pip install 'vm-container-harness[notebooks]'"
        raise CapabilityError(f"notebook: {error.name}: not installed", hint=hint) from error
    notebook = jupytext.read(notebooks[name], fmt="py:percent")
    _set_run(notebook, run.resolve())
    notebook.metadata["kernelspec"] = {"name": KERNEL, "display_name": "Python 3", "language": "python"}
    try:
        nbclient.NotebookClient(
            notebook, timeout=_TIMEOUT_S, kernel_name=KERNEL, kernel_manager_class=_own_python()
        ).execute()
    except CellExecutionError as error:
        raise UsageError(f"notebook: {name}: a cell failed: {error.ename}: {error.evalue}") from error
    return notebook


def _set_run(notebook: Any, run: Path) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, count = re.subn(r"(?m)^RUN = .*$", lambda _: f"RUN = Path({str(run)!r})", cell.source)
            if count:
                return
    raise UsageError("notebook: no line that begins with `RUN = `")


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
    """Return an executed notebook as a page without its code."""
    from nbconvert import HTMLExporter  # noqa: PLC0415

    body: str = HTMLExporter(  # type: ignore[no-untyped-call]
        exclude_input=True, exclude_output_prompt=True
    ).from_notebook_node(notebook)[0]
    return body


def as_ipynb(notebook: Any) -> str:
    """Return an executed notebook as a file that Jupyter opens."""
    import nbformat  # noqa: PLC0415

    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    return text + "\n"
