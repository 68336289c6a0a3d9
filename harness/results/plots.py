"""`run.plot`: the charts of a run, drawn when they are asked for; each takes `ax=` and returns the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.model.records import RunRecord, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Plots:
    """Charts of one run. `metric` defaults to the headline of the run."""

    run: RunRecord
    records: Sequence[TrialRecord]

    def values(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Every trial as a dot, median and 95 % interval, one row a runtime."""
        from harness.charts import run as charts  # noqa: PLC0415 - matplotlib takes a second

        return charts.values(self.run, self.records, metric or self.run.headline, ax)

    def paired(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Each block's ratio to the control, estimate and 95 % interval."""
        from harness.charts import run as charts  # noqa: PLC0415

        return charts.paired(self.run, self.records, metric or self.run.headline, ax)

    def ecdf(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """The share of trials at or below each value."""
        from harness.charts import run as charts  # noqa: PLC0415

        return charts.ecdf(self.run, self.records, metric or self.run.headline, ax)

    def order(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Values in the order in which trials ran."""
        from harness.charts import run as charts  # noqa: PLC0415

        return charts.order(self.run, self.records, metric or self.run.headline, ax)

    def phases(self, runtime: str | None = None, *, ax: Axes | None = None) -> Axes:
        """What a start of one runtime is made of, as a waterfall; the last runtime where none is named."""
        from harness.charts import phases as charts  # noqa: PLC0415

        return charts.phases(self.run, self.records, runtime or self.run.runtimes[-1], ax)

    def isolation(self, *, ax: Axes | None = None) -> Axes:
        """The properties of all runtimes as a grid."""
        from harness.charts import run as charts  # noqa: PLC0415

        return charts.isolation(self.run, self.records, ax)

    def exposure(self, *, ax: Axes | None = None) -> Axes:
        """How exposed the host is to each runtime, part by part; needs the bare process and the family `surface`."""
        from harness.analysis.exposure import exposures  # noqa: PLC0415
        from harness.analysis.summary import analyse  # noqa: PLC0415
        from harness.charts import isolation as charts  # noqa: PLC0415
        from harness.charts.run import label  # noqa: PLC0415

        names = {runtime: label(self.records, runtime) for runtime in self.run.runtimes}
        return charts.exposure(exposures(analyse(self.run, self.records)), names, ax)

    def disturbance(self, *, ax: Axes | None = None) -> Axes:
        """What is kept beside a noisy neighbour, or which faults were contained: of a run of either study."""
        from harness.analysis.summary import analyse  # noqa: PLC0415
        from harness.charts import disturbance as charts  # noqa: PLC0415
        from harness.charts.run import label  # noqa: PLC0415

        names = {runtime: label(self.records, runtime) for runtime in self.run.runtimes}
        kind = self.run.study.get("kind") if self.run.study else None
        draw = charts.containment if kind == "containment" else charts.interference
        return draw(analyse(self.run, self.records), names, ax)

    def memory(self, *, ax: Axes | None = None) -> Axes:
        """What one instance takes of the host, account by account."""
        from harness.charts import memory as charts  # noqa: PLC0415

        return charts.ledger(self.run, self.records, ax)

    def density(self, metric: str = "density.own", *, ax: Axes | None = None) -> Axes:
        """One reading by the number of instances that ran at once, with what each further one adds."""
        from harness.charts import memory as charts  # noqa: PLC0415

        return charts.density(self.run, self.records, metric, ax)

    def family(self, members: Mapping[str, str], title: str, *, ax: Axes | None = None) -> Axes:
        """Several metrics of one unit side by side; `members` maps each to its label."""
        from harness.charts import families as charts  # noqa: PLC0415

        return charts.family(self.run, self.records, members, title, ax)

    def history(
        self, metric: str | None = None, runtime: str | None = None, *, root: str | Path = "history",
        ax: Axes | None = None,
    ) -> Axes:  # fmt: skip
        """How a metric of one runtime moved over the runs of this scenario on this class of hosts.

        `runtime` defaults to the first that is not the control. Raises: StoreError, UsageError without one.
        """
        from harness.charts.history import draw_history, new_panel  # noqa: PLC0415
        from harness.results import trend  # noqa: PLC0415

        run = self.run
        other = next((name for name in run.runtimes if name != run.control), run.control)
        host_class = str(run.host.get("class", ""))
        found = trend.judged(run.scenario, runtime or other, metric or run.headline, Path(root), host_class)
        return draw_history(new_panel(ax), found, margin=trend.MARGIN, accepted={})
