"""The report as one HTML page that needs nothing else: charts inside as SVG, no script from outside, light and dark.

Tables sort by a click or by the keyboard; without JavaScript they are only not sortable. Every chart says in words what
it shows. The page is the same for the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from harness.analysis.exposure import exposures
from harness.analysis.isolation import BOUNDARY, study_lines
from harness.analysis.phases import of_runtime
from harness.interfaces import Renderer
from harness.model.report import Report
from harness.report import _claims as claims
from harness.report import _density as density
from harness.report import _isolation as isolation
from harness.report import _ledger as ledger
from harness.report import _tables as tables
from harness.report._environment import environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Picture:
    """One chart: its heading, its SVG, and what it shows in words."""

    title: str
    svg: str
    words: str


class HtmlRenderer:
    """`files` lie beside the page, and are linked: those of a bundle. Without them it stands alone."""

    name = "html"
    suffix = ".html"
    doc = "one self-contained page: charts, sortable tables, light and dark"

    def __init__(self, files: Sequence[str] = ()) -> None:
        self._files = tuple(files)

    def render(self, report: Report) -> str:
        return (
            environment(t=tables, c=claims, i=isolation, d=density, m=ledger)
            .get_template("_page.html.j2")
            .render(
                report=report,
                run=report.run,
                pictures=list(_pictures(report)),
                rows=tables.rows(report, without=(tables.MARKER, BOUNDARY)),
                matrix=isolation.without_boundary(tables.exact_matrix(report)),
                held=ledger.matrix(report),
                numbers=density.matrix(report),
                between=isolation.boundary_matrix(report),
                cards=isolation.glance(report),
                reach=isolation.report_lines(report),
                files=self._files,
                notebooks=[name for name, fits in _NOTEBOOKS.items() if fits(report)],
            )
        )


PLUGIN: Renderer = HtmlRenderer()

_NOTEBOOKS: Mapping[str, Callable[[Report], bool]] = {
    "compare": lambda _: True,
    "startup": lambda report: "startup.ready" in report.run.metrics,
    "memory-density": lambda report: any(name.startswith(("memory.", "density.")) for name in report.run.metrics),
    "isolation": lambda report: any(name.startswith("isolation.") for name in report.run.metrics),
    "layers-and-storage": lambda report: (
        bool(report.run.study) or any(name.startswith("storage.") for name in report.run.metrics)
    ),
    "vergleich": lambda report: bool(report.claims),
}
"""Which notebooks have something to say on a run."""


def _pictures(report: Report) -> Iterator[Picture]:
    """Yield the charts that this run has data for; a chart that has none is not there."""
    from harness.charts import phases as waterfall  # noqa: PLC0415 - matplotlib takes a second
    from harness.charts import run as charts  # noqa: PLC0415

    run, records = report.run, report.records
    yield from _exposure(report)
    yield from _study(report)
    headline = run.headline
    for metric in dict.fromkeys((headline, "memory.pss")):
        if any(charts.by_block(records, runtime, metric) for runtime in run.runtimes):
            words = charts.describe(run, records, metric)
            yield _picture(f"{metric}: every trial", words, partial(charts.values, run, records, metric))
    yield from _memory(report)
    if _has_pairs(report, headline):
        cells = [report.cell(headline, runtime) for runtime in run.runtimes]
        effects = [
            f"{cell.runtime} {tables.effect_text(cell.effect, cell.unit)}" for cell in cells if cell and cell.effect
        ]
        words = f"{headline} against {run.control}: {', '.join(effects)}"
        yield _picture(f"{headline}: against {run.control}", words, partial(charts.paired, run, records, headline))
    for runtime in run.runtimes:
        if of_runtime(records, runtime):
            words = waterfall.in_words(records, runtime)
            title = f"Phases of a start: {tables.runtime_label(report, runtime)}"
            yield _picture(title, words, partial(waterfall.phases, run, records, runtime))
    if any(charts.by_block(records, runtime, headline) for runtime in run.runtimes):
        words = "values in the order of the trials: a slope is drift, a red edge a disturbed trial"
        yield _picture(f"{headline}: over the run", words, partial(charts.order, run, records, headline))
        words = "the further left a line, the smaller its values; a steep line varies little"
        yield _picture(f"{headline}: distribution", words, partial(charts.ecdf, run, records, headline))


def _exposure(report: Report) -> Iterator[Picture]:
    from harness.charts import isolation as charts  # noqa: PLC0415

    found = exposures(report)
    if len(found) > 1:
        names = {name: tables.runtime_label(report, name) for name in report.run.runtimes}
        yield _picture("How exposed the host is", charts.in_words(found), partial(charts.exposure, found, names))


_STUDIES = {"interference": "What is kept beside a noisy neighbour", "containment": "Which faults stay in the sandbox"}


def _study(report: Report) -> Iterator[Picture]:
    from harness.charts import disturbance  # noqa: PLC0415

    kind = str(report.run.study.get("kind")) if report.run.study else ""
    if kind in _STUDIES and any(cell.n for cell in report.cells):
        names = {name: tables.runtime_label(report, name) for name in report.run.runtimes}
        draw = disturbance.interference if kind == "interference" else disturbance.containment
        yield _picture(_STUDIES[kind], "; ".join(study_lines(report)), partial(draw, report, names))


def _memory(report: Report) -> Iterator[Picture]:
    from harness.charts import memory  # noqa: PLC0415

    run, records = report.run, report.records
    if any(len(memory.accounts(records, runtime)) > 1 for runtime in run.runtimes):
        words = memory.describe_ledger(run, records)
        yield _picture("Who holds the memory of one instance", words, partial(memory.ledger, run, records))
    for metric in ("density.own", "density.pss", "density.cpu"):
        if memory.slopes(records, metric):
            words = memory.describe_density(records, metric)
            yield _picture(f"{metric} by number of instances", words, partial(memory.density, run, records, metric))


def _has_pairs(report: Report, metric: str) -> bool:
    found = [cell.effect for cell in report.cells if cell.metric == metric and cell.effect is not None]
    return any(effect.kind == "ratio" for effect in found)


def _picture(title: str, words: str, draw: Callable[[], Axes]) -> Picture:
    from matplotlib.figure import Figure  # noqa: PLC0415

    from harness.charts import style  # noqa: PLC0415

    figure = draw().figure
    assert isinstance(figure, Figure)
    return Picture(title, style.to_svg(figure, title=title, description=words, on_page=True), words)
