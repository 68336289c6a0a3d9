"""`harness list`: what there is, with one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import click

from harness import plugins
from harness.analysis import density
from harness.cli._output import print_json, print_table
from harness.model.metrics import Metric

Kind = Literal["backends", "workloads", "probes", "studies", "metrics", "formats", "notebooks", "runs"]
Row = dict[str, Any]


@click.command("list", short_help="List backends, workloads, probes, studies, metrics, notebooks or runs.")
@click.argument("what", type=click.Choice(get_args(Kind)))
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs are."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def listing(*, what: Kind, results: Path, as_json: bool) -> None:
    """List what there is, with one line each.

    A backend whose library is not installed is listed with the reason. What a backend needs beyond that, `harness
    doctor` shows.

    \b
    harness list backends
    harness list metrics
    """
    sources: dict[Kind, Callable[[], Iterator[Row]]] = {
        "backends": lambda: _plugins("backends"),
        "workloads": lambda: _plugins("workloads"),
        "probes": lambda: _plugins("probes"),
        "studies": lambda: _plugins("studies"),
        "formats": lambda: _plugins("report"),
        "metrics": _metrics,
        "notebooks": _notebooks,
        "runs": lambda: _runs(results),
    }
    rows = list(sources[what]())
    if as_json:
        print_json({"schema": "harness.list/1", "kind": what, "entries": rows})
    else:
        _show(rows, f"no {what} in {results}" if what == "runs" else f"no {what}")


def _plugins(group: plugins.Group) -> Iterator[Row]:
    for name in plugins.names(group):
        plugin = plugins.try_load(group, name)
        if isinstance(plugin, plugins.Unavailable):
            yield {"name": name, "available": False, "doc": f"cannot be loaded here: {plugin.reason}"}
        else:
            yield {"name": name, "available": True, "doc": plugin.doc}


def _metrics() -> Iterator[Row]:
    """Yield each metric once: the workload `everything` has those of others."""
    known: dict[str, Row] = {}
    for row in _all_metrics():
        known.setdefault(str(row["name"]), row)
    yield from known.values()


def _all_metrics() -> Iterator[Row]:
    for name in plugins.names("probes"):
        yield from _metrics_of("probes", name)
    for name in plugins.names("workloads"):
        yield from _metrics_of("workloads", name)
    for name in plugins.names("studies"):
        yield from _metrics_of("studies", name)
    yield from map(_metric, density.TRIAL_METRICS)


def _metrics_of(group: plugins.Group, name: str) -> Iterator[Row]:
    plugin = plugins.try_load(group, name)
    if isinstance(plugin, plugins.Unavailable):
        yield {"name": f"{name}.*", "available": False, "doc": f"cannot be loaded here: {plugin.reason}"}
        return
    yield from map(_metric, plugin.metrics)


def _metric(metric: Metric) -> Row:
    return {
        "name": metric.name, "unit": metric.unit.value, "better": metric.better.value,
        "assume": metric.assume.value, "doc": metric.doc,
    }  # fmt: skip


def _notebooks() -> Iterator[Row]:
    from harness.report import _notebook as notebooks  # noqa: PLC0415

    for name, path in sorted(notebooks.known().items()):
        yield {"name": name, "doc": notebooks.doc(path)}


def _runs(results: Path) -> Iterator[Row]:
    """Every run directory, newest first; one that cannot be read is listed with the reason."""
    from harness.cli.report import was_killed  # noqa: PLC0415
    from harness.errors import StoreError  # noqa: PLC0415
    from harness.report._tables import cell_text  # noqa: PLC0415
    from harness.results.store import RunDirectory, list_runs  # noqa: PLC0415

    for path in reversed(list_runs(results)):
        try:
            record = RunDirectory.open(path).run()
        except StoreError as error:
            yield {"name": path.name, "status": "unreadable", "doc": error.message}
            continue
        cell = f" ({cell_text(record)})" if record.matrix else ""
        doc = f"{record.scenario}{cell}: {', '.join(record.runtimes)}"
        if was_killed(record):
            hint = f"harness run --resume {path.name}"
            yield {"name": path.name, "status": "killed", "doc": f"{doc}; to go on: {hint}"}
        else:
            yield {"name": path.name, "status": record.status, "doc": doc}


def _show(rows: list[Row], nothing: str) -> None:
    """Write rows as a table: a column for each key but those that say nothing."""
    if not rows:
        click.echo(nothing, err=True)
        return
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    shown = {"name": "name", "unit": "unit", "better": "better", "status": "status", "doc": ""}
    keys = [key for key in shown if any(key in row for row in rows)]
    table = Table(*(shown[key] for key in keys), box=None, pad_edge=False, show_header="unit" in keys)
    for row in rows:
        table.add_row(*(escape(str(row.get(key, ""))) for key in keys))
    print_table(table)
