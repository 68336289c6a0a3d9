"""What every report format shows: numbers as text, headline, rows, matrix. The only place that formats numbers."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis.findings import KILLED
from harness.host.facts import describe
from harness.model.matrix import label
from harness.model.records import READY_METRIC, RunRecord
from harness.model.report import Cell, Effect, Failure, Missing, Report
from harness.model.units import format_bytes, format_ns, format_ratio

HEADLINE_ARMS_MAX = 4
"""Of more arms than these, the first sentence names the lowest and the highest."""
MARKER = "marker."
MARKER_WRITE = "marker.write"
MARKER_DELIVERY = "marker.delivery"
NONE = "-"
ARROWS = {"lower": "↓", "higher": "↑"}
EMULATION = "tcg"
OWN_KERNEL_MARK = "*"
OWN_KERNEL_NOTE = "* on the guest's own kernel: no power over the host"
_EQUIVALENT = "within 5 %"


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one runtime as text. `worse` says whether the effect is a change for the worse, None: neither.

    `value` is the median in the base unit, to sort by.
    """

    metric: str
    arrow: str
    runtime: str
    n: str
    median: str
    interval: str
    effect: str
    wording: str
    worse: bool | None
    value: float


def format_value(value: float, unit: str) -> str:
    """Return a value in its unit for people."""
    if unit == "ns":
        return format_ns(value)
    if unit == "bytes":
        return format_bytes(value)
    if unit == "bytes/s":
        return f"{format_bytes(value)}/s"
    if unit == "bool":
        return {0: "no", 1: "yes"}.get(int(value) if value in (0, 1) else -1, f"{value:g}")
    plain = three_digits(value)
    return plain if unit in {"count", "ratio", ""} else f"{plain} /s" if unit == "1/s" else f"{plain} {unit}"


def three_digits(value: float) -> str:
    """Return a plain number with three significant digits, a whole one with all of its digits."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def format_interval(lo: float, hi: float, unit: str) -> str:
    """Return `1.87 - 1.97 s`, or both units where they differ."""
    left, right = format_value(lo, unit), format_value(hi, unit)
    number, _, suffix = left.rpartition(" ")
    return f"{number if number and right.endswith(f' {suffix}') else left} - {right}"


def effect_text(effect: Effect, unit: str) -> str:
    """Return an effect with its interval: `1.91x [1.85 - 1.98]`, `+3.20 MiB [3.05 - 3.31]`."""
    if effect.kind == "ratio":
        text = format_ratio(effect.value)
    else:
        text = f"{'+' if effect.value > 0 else ''}{format_value(effect.value, unit)}"
    if effect.lo is None or effect.hi is None:
        return text
    if effect.kind == "ratio":
        return f"{text} [{format_ratio(effect.lo)[:-1]} - {format_ratio(effect.hi)[:-1]}]"
    interval = format_interval(effect.lo, effect.hi, unit)
    number, _, suffix = interval.rpartition(" ")
    same_unit = text.endswith(f" {suffix}") and number.count(" ") == 2
    return f"{text} [{number if same_unit else interval}]"


def wording(effect: Effect) -> str:
    """Return what the effect says; `same` names how much may still be between the two."""
    return _EQUIVALENT if effect.kind == "ratio" and effect.wording == "same" else effect.wording


def runtime_label(report: Report, runtime: str) -> str:
    """Return a runtime's name, a VM's with its accelerator: `vm (tcg)`, `vm (kvm, nested)` inside another.

    One that ran on another host names that: `vm (kvm, on far)`.
    """
    arm = report.run.arms.get(runtime, {})
    host = arm.get("host")
    words = [
        report.accelerators.get(runtime),
        "nested" if arm.get("nested") else None,
        f"on {host['name']}" if isinstance(host, dict) else None,
    ]
    said = ", ".join(word for word in words if word)
    return f"{runtime} ({said})" if said else runtime


def rows(report: Report, *, without: tuple[str, ...] = ()) -> list[Row]:
    """Return the rows of all metrics that are compared with statistics; what was not measured is in `missing`.

    `without` leaves out metrics by the beginning of their names.
    """
    cells = [cell for cell in report.cells if not cell.exact and cell.n]
    return [row(report, cell) for cell in cells if not cell.metric.startswith(without or ("\0",))]


def marker_line(report: Report) -> str:
    """Return what the marks themselves cost on each side, in one line; empty where it was not measured."""
    parts = []
    for runtime in report.run.runtimes:
        write, delivery = report.cell(MARKER_WRITE, runtime), report.cell(MARKER_DELIVERY, runtime)
        if write and delivery and write.median is not None and delivery.median is not None:
            costs = f"{format_value(write.median, write.unit)} + {format_value(delivery.median, delivery.unit)}"
            parts.append(f"{runtime_label(report, runtime)} {costs}")
    return f"a mark costs its sender + reaches the host after: {'; '.join(parts)}" if parts else ""


def row(report: Report, cell: Cell) -> Row:
    """Return the row of a metric that was measured."""
    assert cell.median is not None
    better = report.run.metrics.get(cell.metric, {}).get("better", "neither")
    has_interval = cell.lo is not None and cell.hi is not None
    control = cell.runtime == report.run.control
    none = f"{report.run.control} has none"
    effect = "control" if control else effect_text(cell.effect, cell.unit) if cell.effect else none
    return Row(
        metric=cell.metric,
        arrow=ARROWS.get(better, ""),
        runtime=runtime_label(report, cell.runtime),
        n=str(cell.n),
        median=format_value(cell.median, cell.unit),
        interval=format_interval(cell.lo or 0, cell.hi or 0, cell.unit) if has_interval else NONE,
        effect=effect,
        wording=wording(cell.effect) if cell.effect else "",
        worse=_worse(cell.effect, better),
        value=cell.median,
    )


def _worse(effect: Effect | None, better: str) -> bool | None:
    if effect is None or better not in ARROWS or effect.wording in {"same", "undecided", "too few blocks"}:
        return None
    above = effect.value > (1 if effect.kind == "ratio" else 0)
    return above == (better == "lower")


def exact_matrix(report: Report) -> list[list[str]]:
    """Return the properties (isolation): a head, then one line a metric with one column a runtime."""
    metrics = list(dict.fromkeys(cell.metric for cell in report.cells if cell.exact))
    head = ["property", *(runtime_label(report, runtime) for runtime in report.run.runtimes)]
    lines = []
    for metric in metrics:
        cells = [report.cell(metric, runtime) for runtime in report.run.runtimes]
        if any(cell is not None and cell.n for cell in cells):
            lines.append([metric, *(exact_text(cell) for cell in cells)])
    return [head, *lines] if lines else []


def exact_text(cell: Cell | None) -> str:
    """Return a property's value, with a mark where it acts on the guest's own kernel; `-` where there is none."""
    if cell is None or cell.minimum is None or cell.maximum is None:
        return NONE
    mark = OWN_KERNEL_MARK if cell.labels.get("acts_on") == "own kernel" else ""
    if cell.minimum != cell.maximum:
        return f"{format_value(cell.minimum, cell.unit)} .. {format_value(cell.maximum, cell.unit)} (varies!)"
    return format_value(cell.minimum, cell.unit) + mark


def headline(report: Report) -> str:
    """Return one sentence that a stranger understands: how long each runtime takes to be ready, beside the control."""
    emulated = [name for name, accelerator in report.accelerators.items() if EMULATION in accelerator.split("+")]
    caveat = f" {' and '.join(emulated)} ran in software emulation: no measure of VM speed in production."
    sentence = _metric_headline(report) if report.run.headline != READY_METRIC else _ready_headline(report)
    return f"{sentence}{caveat if emulated else ''}"


def _ready_headline(report: Report) -> str:
    control = report.run.control
    base = report.cell(report.run.headline, control)
    if base is None or base.median is None:
        return f"No start of {control}, the control, was measured to the end: there is nothing to compare with."
    parts = []
    for runtime in report.run.runtimes:
        cell = report.cell(report.run.headline, runtime)
        if runtime != control:
            parts.append(f"{runtime_label(report, runtime)} {_comparison(cell)}")
    ready = f"{runtime_label(report, control)} is ready after {format_value(base.median, base.unit)}"
    return f"{'; '.join([ready, *parts])}."


def _comparison(cell: Cell | None) -> str:
    if cell is None or cell.effect is None:
        return "was not measured beside it"
    if cell.effect.kind != "ratio":
        return f"differs by {effect_text(cell.effect, cell.unit)}"
    text = effect_text(cell.effect, cell.unit)
    if cell.effect.wording == "same":
        return f"takes as long, within 5 %: {text}"
    if cell.effect.wording in {"undecided", "too few blocks"}:
        return f"takes {text} as long: {cell.effect.wording}"
    return f"takes {text} as long"


def _metric_headline(report: Report) -> str:
    """Return a study's or workload's first metric as one sentence: each arm beside the control, or two ends of many."""
    metric, control = report.run.headline, report.run.control
    cells = [cell for name in report.run.runtimes if (cell := report.cell(metric, name)) and cell.median is not None]
    values = {cell.runtime: format_value(cell.median or 0, cell.unit) for cell in cells}
    if not values:
        return f"{metric} was not measured in any arm: there is nothing to compare."
    if len(cells) > HEADLINE_ARMS_MAX:
        low, high = (pick(cells, key=lambda cell: cell.median or 0).runtime for pick in (min, max))
        beside = f"; {control}, the control: {values[control]}" if control in set(values) - {low, high} else ""
        return f"{metric}: from {values[low]} ({low}) to {values[high]} ({high}){beside}."
    parts = [f"{name} {value}" for name, value in values.items()]
    times = [
        f"{cell.runtime} {effect_text(cell.effect, cell.unit)}"
        for cell in cells
        if cell.effect is not None and cell.effect.kind == "ratio"
    ]
    beside = f"; against {control}: {', '.join(times)}" if times else ""
    return f"{metric}: {', '.join(parts)}{beside}."


def cell_text(run: RunRecord) -> str:
    """Return which cell of a matrix a run is: `2/6: limits.memory=256MiB`."""
    return f"{run.matrix['number']}/{run.matrix['cells']}: {label(run.matrix['cell'])}"


def subject_line(report: Report) -> tuple[str, str]:
    """Return what the run is about with its name: whether all arms ran the same workload, or which study it is."""
    study = report.run.study
    return ("study", f"{study['kind']}: {study['doc']}") if study else ("workload", identity_line(report))


def arm_word(report: Report) -> str:
    """Return what the columns of a comparison are called."""
    return "arm" if report.run.study else "runtime"


def state(report: Report) -> str:
    """Return how the run ended: what run.json says, unless its process was found dead."""
    if any(finding.code == KILLED for finding in report.findings):
        return KILLED
    run = report.run
    return f"{run.status}: {run.stop_reason}" if run.stop_reason else run.status


def counts(report: Report) -> str:
    """Return how much was measured: blocks, trials, failures."""
    blocks = f"{report.blocks} block{'' if report.blocks == 1 else 's'}"
    warmup = f" + {report.warmup_blocks} warm-up" if report.warmup_blocks else ""
    return f"{blocks}{warmup}, {report.trials} trials, {len(report.failures)} failed"


def host_line(report: Report) -> str:
    """Return the host of the run in one line; what other hosts made trials is among the findings."""
    return describe(report.run.host)


def identity_line(report: Report) -> str:
    """Return whether the arms ran the same thing, in one line."""
    same = report.identity
    if not same.identical:
        return f"NOT THE SAME on all arms: {len(same.differences)} difference(s), see below"
    return (
        f"identical on all arms: {same.attested} of {same.trials} trials attested "
        f"root {short_digest(same.root_digest)}, program {short_digest(same.exe_sha256)}"
    )


def short_digest(digest: str) -> str:
    """Return the first 12 digits of a digest, without its algorithm."""
    return digest.rpartition(":")[2][:12]


def seen_lines(report: Report) -> list[str]:
    """Return what may differ between arms and was seen inside: kernel, CPUs, memory; one line for those that agree."""
    runtimes: dict[str, list[str]] = {}
    for seen in report.identity.seen:
        whose = {True: "own kernel", False: "host's kernel", None: "kernel"}[seen.own_kernel]
        cpus = " or ".join(f"{cpus} CPU{'' if cpus == 1 else 's'}" for cpus in seen.cpus)
        memory = " or ".join(format_bytes(size) for size in seen.memory_bytes)
        runtimes.setdefault(f"{whose} {seen.kernel}, {cpus}, {memory}", []).append(runtime_label(report, seen.runtime))
    return [f"{', '.join(names)}: {line}" for line, names in runtimes.items()]


def how(failure: Failure) -> str:
    """Return in a word how a trial failed: what became of its instance where that is known, else its status."""
    return failure.ending or failure.status


def missing_text(missing: Missing, most: int = 3) -> str:
    """Return one line about metrics that were not measured; long lists are cut after `most` names."""
    names = list(missing.metrics)
    shown = names if len(names) <= most + 1 else names[:most]
    rest = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return f"{', '.join(missing.runtimes)}: {', '.join(shown)}{rest}: {missing.reason}"
