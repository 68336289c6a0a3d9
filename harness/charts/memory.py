"""Charts of memory: what one instance's is made of, and what each further instance takes of the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.analysis import density as readings
from harness.analysis.statistics import Estimate, median, median_estimate
from harness.charts import style
from harness.charts.run import by_block, draw_offset, label, new_axes, set_scale
from harness.errors import UsageError
from harness.model.records import RunRecord, TrialRecord

Records = Sequence[TrialRecord]
PSS, HOST = "memory.pss", "memory.host"
PARTS = {
    "memory.guest_ram": ("guest's RAM", "#e69f00"),
    "memory.vmm.code": ("emulator's translated code", "#cc79a7"),
    "memory.vmm": ("the VMM itself", "#d55e00"),
    "memory.helpers": ("helper processes", "#56b4e9"),
    PSS: ("its processes", "#0072b2"),
    "memory.cgroup.kernel": ("kernel, for it", "#999999"),
}
"""Accounts in the order in which they are stacked, with their meaning and colour."""


def accounts(records: Records, runtime: str) -> dict[str, float]:
    """Return what one instance takes of the host in bytes, account by account, each page once: medians over trials.

    The proportional set size is split into what is known of it; kernel memory of its cgroup comes on top of it.
    """
    found = {name: median(own) for name in PARTS if (own := list(by_block(records, runtime, name).values()))}
    if PSS not in found:
        return {}
    if "memory.vmm" in found:
        found["memory.vmm"] -= found.get("memory.vmm.code", 0.0)
    of_pss = ("memory.guest_ram", "memory.vmm.code", "memory.vmm", "memory.helpers")
    found[PSS] -= sum(found.get(name, 0.0) for name in of_pss)
    return {name: found[name] for name in PARTS if found.get(name, 0.0) > 0}


def ledger(run: RunRecord, records: Records, ax: Axes | None = None) -> Axes:
    """Draw what one instance takes of the host as a stack of accounts, one row a runtime; dots are single trials.

    Raises: UsageError where no runtime has `memory.pss`.
    """
    stacks = {runtime: own for runtime in run.runtimes if (own := accounts(records, runtime))}
    if not stacks:
        raise UsageError(f"ledger: no runtime of this run has {PSS}", hint="metrics: [memory]")
    with style.look():
        axes = new_axes(ax, len(stacks) + 1)
        widest = max(sum(own.values()) for own in stacks.values())
        for row, (runtime, own) in enumerate(stacks.items()):
            left = 0.0
            for name, size in own.items():
                axes.barh(row, size, left=left, height=0.5, color=PARTS[name][1], edgecolor="white", linewidth=0.6)
                left += size
            values = list(by_block(records, runtime, PSS).values())
            axes.scatter(values, [row + 0.36 + 0.3 * draw_offset(n, len(values)) for n in range(len(values))], s=9,
                         color=style.INK, alpha=0.5, linewidths=0)  # fmt: skip
            axes.annotate(style.unit_formatter("bytes")(left, None), (left, row), (5, 0), textcoords="offset points",
                          va="center", fontsize=9)  # fmt: skip
        used = [name for name in PARTS if any(name in own for own in stacks.values())]
        handles = [Patch(color=PARTS[name][1], label=PARTS[name][0]) for name in used]
        style.legend(axes, below=ax is None, columns=2, handles=handles)
        axes.set_yticks(range(len(stacks)), [label(records, runtime) for runtime in stacks])
        axes.set_ylim(len(stacks) - 0.4, -0.6)
        axes.set_xlim(0, widest * 1.2)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(style.byte_locator(widest * 1.2))
        axes.xaxis.set_major_formatter(style.unit_formatter("bytes"))
        axes.set_xlabel(f"memory of the host, medians; dots: {PSS} of each trial")
        style.title(axes, "Who holds the memory of one instance")
    return axes


def slopes(records: Records, metric: str) -> dict[str, Estimate]:
    """Return what one more instance of each runtime adds: the median of the lines through each trial's readings."""
    found: dict[str, list[float]] = {}
    for record in records:
        if record.status == "ok" and not record.spec.warmup:
            line = readings.line(readings.points(record.levels, metric))
            if line is not None:
                found.setdefault(record.spec.runtime, []).append(line.slope)
    return {runtime: median_estimate(values) for runtime, values in found.items()}


def density(run: RunRecord, records: Records, metric: str = readings.OWN.name, ax: Axes | None = None) -> Axes:
    """Draw one reading by the number of instances: a dot a trial, median and interval at each number, its slope.

    Raises: UsageError where this run did not start more and more instances, or did not read this.
    """
    steps = readings.steps(records, metric)
    if not steps:
        raise UsageError(f"density: {metric}: this run has no readings by number of instances", hint="density: in YAML")
    with style.look():
        axes = new_axes(ax, 5)
        colours, shapes = style.colours(run.runtimes), style.markers(run.runtimes)
        slope = slopes(records, metric)
        runtimes = [runtime for runtime in run.runtimes if any(step.runtime == runtime for step in steps)]
        for place, runtime in enumerate(runtimes):
            own = sorted((step for step in steps if step.runtime == runtime), key=lambda step: step.n)
            name = f"{label(records, runtime)}: {_each(slope.get(runtime), own[0].unit)}"
            aside = 1 + 0.03 * (place - (len(runtimes) - 1) / 2)  # so that whiskers of two runtimes are both seen
            axes.plot([step.n * aside for step in own], [step.estimate.value for step in own], shapes[runtime] + "-",
                      color=colours[runtime], linewidth=1.4, markersize=5, label=name)  # fmt: skip
            for step in own:
                if step.estimate.lo is not None and step.estimate.hi is not None:
                    axes.vlines(step.n * aside, step.estimate.lo, step.estimate.hi, color=colours[runtime], linewidth=2)
            _raw(axes, records, runtime, metric, colours[runtime], aside)
        _dress(axes, sorted({step.n for step in steps}), [step.estimate.value for step in steps], steps[0].unit)
        axes.set_ylabel(f"{metric}, cores" if steps[0].unit == "ratio" else metric)
        style.title(axes, f"{metric} by number of instances")
        style.legend(axes, below=ax is None, columns=1)
    return axes


def _raw(axes: Axes, records: Records, runtime: str, metric: str, colour: str, aside: float) -> None:
    for record in records:
        if record.spec.runtime == runtime and record.status == "ok" and not record.spec.warmup:
            own = readings.points(record.levels, metric)
            axes.scatter([n * aside for n, _ in own], [value for _, value in own], s=10, color=colour, alpha=0.4,
                         linewidths=0)  # fmt: skip


def _each(slope: Estimate | None, unit: str) -> str:
    form = FuncFormatter(lambda value, _: f"{value:.3g} cores") if unit == "ratio" else style.unit_formatter(unit)
    if slope is None:
        return "one number only"
    between = ""
    if slope.lo is not None and slope.hi is not None:
        between = f" [{form(slope.lo, None)} - {form(slope.hi, None)}]"
    sign = "+" if slope.value >= 0 else ""
    return f"{sign}{form(slope.value, None)}{between} for each"


def _dress(axes: Axes, counts: Sequence[int], values: Sequence[float], unit: str) -> None:
    set_scale(axes, values, unit, "y")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([float(count) for count in counts]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.set_xlabel("instances at once (dots: single trials)")


def describe_ledger(run: RunRecord, records: Records) -> str:
    """Return the stacks in words."""
    form = style.unit_formatter("bytes")
    stacks: Mapping[str, Mapping[str, float]] = {name: accounts(records, name) for name in run.runtimes}
    parts = [
        f"{label(records, runtime)} {form(sum(own.values()), None)}"
        + (
            f" ({', '.join(f'{PARTS[name][0]} {form(size, None)}' for name, size in own.items())})"
            if len(own) > 1
            else ""
        )
        for runtime, own in stacks.items()
        if own
    ]
    return f"host memory of one instance: {'; '.join(parts)}"


def describe_density(records: Records, metric: str) -> str:
    """Return what each further instance takes, in words."""
    steps = readings.steps(records, metric)
    unit = steps[0].unit if steps else ""
    found = slopes(records, metric)
    return f"{metric}: " + "; ".join(f"{label(records, name)} {_each(slope, unit)}" for name, slope in found.items())
