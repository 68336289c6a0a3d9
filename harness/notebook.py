"""What the notebooks share: the runs that they look at, charts with a caption and an alternative text, tables in words.

    from harness import notebook
    page = notebook.Page(RUNS)
    page.show(page.run.plot.values())

Without runs a page looks at the recorded ones in results/reference of a checkout. What the runs do not hold, a page
says, with the command that would measure it: a notebook does not fail because something was not measured.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.claims import whole_table
from harness.analysis.evidence import times
from harness.analysis.summary import analyse
from harness.charts import history as charts
from harness.charts import style
from harness.errors import HarnessError, UsageError
from harness.model.report import Claim, Report
from harness.report import _claims as claim_words
from harness.report import _tables as tables
from harness.results import trend
from harness.results.frame import Run, load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference"
MEASURED = ("metric", "runtime", "n", "median", "95 % interval", "against the control", "")
_LANGUAGES = {"de": ("de",), "en": ("en",), "de+en": ("de", "en")}
_VERDICTS = {
    "holds": {"de": "gilt hier", "en": "holds here"},
    "fails": {"de": "gilt hier nicht", "en": "does not hold here"},
    "not shown": {"de": "unentschieden", "en": "undecided"},
}
_CLAIM_HEADS = {
    "de": ("virtuelle Maschine", "Container", "Wirkung", "Urteil"),
    "en": ("virtual machine", "container", "effect", "verdict"),
}


FOLDED_FROM = 14
GERMAN = {
    "Operating system": "Betriebssystem", "Startup time": "Startzeit", "Resource consumption": "Ressourcenverbrauch",
    "Portability": "Portabilität", "Isolation": "Isolierung", "Layers: efficiency": "Layering: Effizienz",
    "Layers: changes": "Layering: Änderungen", "Layers: caching": "Layering: Caching", "OverlayFS": "OverlayFS",
    "aufs": "aufs", "Device Mapper": "Device Mapper", "Volumes": "Volumes", "Bind mounts": "Bind Mounts",
}  # fmt: skip
_PHRASES = {
    "own kernel": "eigener Kernel", "host's kernel": "Kernel des Wirts", "shared kernel": "geteilter Kernel",
    "own namespaces": "eigene Namensräume", "all anew": "alles neu", "without": "ohne", ", not ": ", nicht ",
    "mounted in": "eingehängt in", "first write": "erstes Schreiben", "copy-up of 4 KiB": "Copy-up von 4 KiB:",
    "not measured": "nicht gemessen",
}  # fmt: skip


def _german(text: str) -> str:
    """Return the few words of a claim's measured values in German; numbers and names stay as they are."""
    for english, german in _PHRASES.items():
        text = text.replace(english, german)
    return text


def _cell(head: str, text: str) -> str:
    named = f' data-head="{html.escape(head)}"' if head else ""
    return f"<td{named}>{html.escape(text)}</td>"


class Page:
    """The runs that a notebook looks at. `shown` says what was put on it, by kind and name, in order."""

    def __init__(self, runs: Sequence[str | Path] = (), *, language: str = "en") -> None:
        """Open runs; the recorded ones where none is named. Raises: UsageError, StoreError where there are none."""
        if language not in _LANGUAGES:
            raise UsageError(f"language: {language}: unknown", hint=f"known: {', '.join(_LANGUAGES)}")
        paths = [Path(run) for run in runs] or [path.parent for path in sorted(REFERENCE.glob("*/run.json"))]
        if not paths:
            raise UsageError(
                f"notebook: no run is named, and there is none in {REFERENCE}", hint="RUNS = ['results/...']"
            )
        self.runs = tuple(load(path) for path in paths)
        self.recorded = not runs
        self.languages = _LANGUAGES[language]
        self.shown: list[tuple[str, str]] = []
        self._reports: dict[str, Report] = {}

    @property
    def run(self) -> Run:
        """The run that a notebook on one run is about: the first named, of the recorded ones the quickstart."""
        first = self.runs[0]
        return first if not self.recorded else self.of("quickstart") or first

    def of(self, *scenarios: str) -> Run | None:
        """Return the run of the first of these scenarios that was measured at all: the one with most blocks."""
        for scenario in scenarios:
            found = [run for run in self.runs if run.meta.scenario == scenario and self._blocks(run)]
            if found:
                return max(found, key=lambda run: (self._blocks(run), run.meta.started))
        return None

    def _blocks(self, run: Run) -> int:
        return max((cell.n for cell in self.report(run).cells), default=0)

    def having(self, metric: str) -> list[Run]:
        """Return the runs in which at least one counted trial measured a metric."""
        return [run for run in self.runs if metric in {cell.metric for cell in self.report(run).cells if cell.n}]

    def report(self, run: Run) -> Report:
        """Return the analysis of a run: the same as in every report."""
        if run.meta.run_id not in self._reports:
            self._reports[run.meta.run_id] = analyse(run.meta, run.records)
        return self._reports[run.meta.run_id]

    def show(self, axes: Axes, words: str = "", *, run: Run | None = None) -> None:
        """Show a chart; below it `words`, the machine and what VMs ran on."""
        report = self.report(run or self.run)
        vms = [f"{name} on {accelerator}" for name, accelerator in report.accelerators.items()]
        caption = ". ".join(filter(None, [words, ", ".join(vms), tables.host_line(report), report.run.run_id]))
        self._chart(axes, caption, words)

    def _chart(self, axes: Axes, caption: str, words: str) -> None:
        title = axes.get_title(loc="left") or axes.get_title()
        figure: Any = axes.figure
        svg = style.to_svg(figure, title=title, description=words, on_page=True)
        data = {
            "text/html": f"<figure>{svg}<figcaption>{html.escape(caption)}.</figcaption></figure>",
            "image/png": base64.b64encode(style.to_png(figure)).decode(),
            "text/plain": f"{title}: {caption}",
        }
        self._display("chart", title, data)

    def trend(self, scenario: str, runtime: str, metric: str, root: Path) -> None:
        """Show how one metric of one runtime moved over a scenario's runs, and what that means."""
        try:
            judged = trend.judged(scenario, runtime, metric, root)
        except HarnessError as error:
            self.missing(error.message)
            return
        axes = charts.draw_history(charts.new_panel(None), judged, margin=trend.MARGIN, accepted={})
        axes.set_xlabel("run, oldest first (not to scale in time)")
        classes = ", ".join(sorted(path.stem for path in (root / scenario).glob("*.jsonl")))
        self._chart(axes, f"{charts.describe(judged)}. Class of hosts: {classes}", charts.describe(judged))

    def try_show(self, draw: Callable[[], Axes], words: str = "", *, run: Run | None = None) -> None:
        """Show a chart if this run has data for it, else why not."""
        try:
            axes = draw()
        except HarnessError as error:
            self.missing(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
            return
        self.show(axes, words, run=run)

    def table(
        self, head: Sequence[str], lines: Iterable[Sequence[str]], name: str = "", *, cards: bool = False
    ) -> None:
        """Show a table of texts; a long one is folded. `cards`: on a phone, each line below the other."""
        rows = [list(line) for line in lines]
        heads = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
        body = "".join(f"<tr>{''.join(_cell(*pair) for pair in zip(head, row, strict=True))}</tr>" for row in rows)
        kind = "cards" if cards else "numbers"
        whole = f'<table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        markup = f'<div class="scroll">{whole}</div>'
        if len(rows) > FOLDED_FROM:
            what = name or ", ".join(head)
            summary = self.say(f"{len(rows)} Zeilen: {what}", f"{len(rows)} lines: {what}")
            markup = f"<details><summary>{html.escape(summary)}</summary>{markup}</details>"
        plain = "\n".join("  ".join(row) for row in [list(head), *rows])
        self._display("table", name or " ".join(head), {"text/html": markup, "text/plain": plain})

    def measured(self, *beginnings: str, run: Run | None = None) -> None:
        """Show median, interval and effect of the metrics that begin so, as the reports have them."""
        chosen = run or self.run
        rows = [row for row in tables.rows(self.report(chosen)) if row.metric.startswith(beginnings)]
        if not rows:
            self.missing(f"{chosen.meta.run_id} has no {', '.join(beginnings)}")
            return
        self.table(
            MEASURED,
            [[f"{r.metric} {r.arrow}", r.runtime, r.n, r.median, r.interval, r.effect, r.wording] for r in rows],
            ", ".join(beginnings),
        )

    def properties(self, *names: str, run: Run | None = None) -> None:
        """Show these exact properties of every runtime; a star marks what acts on a kernel of the guest's own."""
        matrix = tables.exact_matrix(self.report(run or self.run))
        rows = [row for row in matrix[1:] if row[0] in names]
        if rows:
            self.table(matrix[0], rows, ", ".join(names))
        else:
            self.missing(", ".join(names), "quickstart")

    def say(self, de: str, en: str) -> str:
        """Return words in the page's languages, once where both say the same."""
        return " / ".join(dict.fromkeys({"de": de, "en": en}[language] for language in self.languages))

    def missing(self, what: str, scenario: str = "", *, de: str = "") -> None:
        """Say that something was not measured, and which scenario would; `de`: the same in German, where it differs."""
        command = f"harness run scenarios/{scenario}.yaml" if scenario else ""
        german = f"Nicht gemessen: {de or what}." + (f" Das misst: {command}" if command else "")
        english = f"Not measured: {what}." + (f" This measures it: {command}" if command else "")
        words = [{"de": german, "en": english}[language] for language in self.languages]
        markup = "".join(f'<p class="missing">{html.escape(text)}</p>' for text in words)
        self._display("missing", what, {"text/html": markup, "text/plain": "\n".join(words)})

    def claims(self) -> tuple[Claim, ...]:
        """Return the rows of the text, each from the run with most blocks that shows it."""
        return whole_table([(run.meta.run_id, self.report(run).claims) for run in self.runs])

    def evidence(self, *features: str) -> None:
        """Show these rows of the text, as a table in the page's languages; what is missing with its scenario."""
        rows = {claim.feature: claim for claim in self.claims()}
        chosen = [rows[feature] for feature in features]
        there = [claim for claim in chosen if claim.measured_vm or claim.measured_container]
        for claim in chosen:
            if claim not in there:
                self.missing(claim.feature, claim.scenario, de=GERMAN[claim.feature])
        if there:
            heads = [" / ".join(words) for words in zip(*(_CLAIM_HEADS[one] for one in self.languages), strict=True)]
            lines = [[self.say(GERMAN[claim.feature], claim.feature), *self._cells(claim)] for claim in there]
            self.table(["", *heads], lines, ", ".join(features), cards=True)

    def _cells(self, claim: Claim) -> list[str]:
        verdict = " / ".join(_VERDICTS[claim.verdict][language] for language in self.languages)
        effect = f"{times(claim.contrast)} ({claim.contrast.of}, n = {claim.contrast.n})" if claim.contrast else "-"
        sides = claim.short_vm or claim.measured_vm, claim.short_container or claim.measured_container
        return [*(self.say(_german(side), side) if side else "-" for side in sides), effect, verdict]

    def slide(self, *features: str) -> None:
        """Show rows of the text as the picture that `harness claims --output slide.png` makes."""
        rows = [claim for claim in self.claims() if not features or claim.feature in features]
        figure = claim_words.picture([self.report(run) for run in self.runs], rows)
        words = "; ".join(f"{claim.feature}: {claim_words.verdict(claim)}" for claim in rows)
        png = base64.b64encode(style.to_png(figure)).decode()
        picture = f'<img src="data:image/png;base64,{png}" alt="{html.escape(words)}">'
        data = {"text/html": f'<figure class="slide">{picture}</figure>', "image/png": png, "text/plain": words}
        self._display("chart", "slide", data)

    def _display(self, kind: str, name: str, data: dict[str, str]) -> None:
        from IPython.display import display  # noqa: PLC0415 - a part of Jupyter

        self.shown.append((kind, name))
        display(data, raw=True)  # type: ignore[no-untyped-call]
