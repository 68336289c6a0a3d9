"""`run.plot`: the charts of a run, drawn when they are asked for; each takes `ax=` and returns the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        from harness.charts import run as charts  # noqa: PLC0415

        return charts.phases(self.run, self.records, runtime or self.run.runtimes[-1], ax)

    def isolation(self, *, ax: Axes | None = None) -> Axes:
        """The properties of all runtimes as a grid."""
        from harness.charts import run as charts  # noqa: PLC0415

        return charts.isolation(self.run, self.records, ax)
