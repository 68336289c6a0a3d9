"""What a reader must know before believing a run's table, each with what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.statistics import MIN_VALUES, drift, outliers, wilson_interval
from harness.host.facts import describe
from harness.host.noise import REMEDIES
from harness.model.records import RunRecord, TrialRecord
from harness.model.report import Cell, Finding, Missing

TCG = "tcg"
KILLED = "killed"
"""The code of the note that a run which says `running` has no process any more; only the host can tell."""
WATCHED = ("memory.pss",)
"""Drift and outliers are looked for here and in the headline only: over all metrics, one in
a hundred would drift by chance."""
DRIFT_P = 0.01
MARKER_RATIO_MAX = 0.05
"""A marker that takes more than this share of the time it marks is told."""

NAMED_TRIALS_MAX = 3


def findings(
    run: RunRecord,
    trials: Sequence[TrialRecord],
    cells: Sequence[Cell],
    accelerators: Mapping[str, str],
    *,
    killed: bool = False,
) -> tuple[Finding, ...]:
    """Return all findings, the ones that change the meaning of the table first.

    `killed`: that the run was killed has been told, so `running` is not.
    """
    kept = [trial for trial in trials if trial.status == "ok" and not trial.spec.warmup]
    return (
        *_state(run, trials, killed=killed),
        *_acceleration(accelerators),
        *_counted(run),
        *_nested(run),
        *_hosts(run),
        *_networks(run),
        *_levers(run),
        *_few_blocks(run, kept),
        *_failures(run, trials),
        *_varying(kept, cells),
        *_noise(trials),
        *_order(run, kept),
        *_outliers(run, kept),
        *_markers(run, cells),
    )


def _state(run: RunRecord, trials: Sequence[TrialRecord], *, killed: bool) -> Iterator[Finding]:
    if not trials:
        yield Finding("empty", "no trial of this run has ended yet: there is nothing to show")
    if run.status != "complete" and not killed:
        remedy = f"harness run --resume {run.run_id}" if run.status == "interrupted" else ""
        reason = f": {run.stop_reason}" if run.stop_reason else ""
        yield Finding("incomplete", f"the run is {run.status}{reason}", remedy)
    for warning in run.warnings:
        yield Finding("warning", warning)


def _acceleration(accelerators: Mapping[str, str]) -> Iterator[Finding]:
    emulated = [runtime for runtime, names in accelerators.items() if TCG in names.split("+")]
    mixed = [f"{runtime} ({names})" for runtime, names in accelerators.items() if "+" in names]
    if emulated:
        yield Finding(
            "tcg",
            f"{', '.join(emulated)}: ran in software emulation (TCG). Every guest instruction is translated, so its "
            "times are no measure of VM speed in production, and its memory holds the emulator's code cache",
            "run on a host with working KVM: harness doctor says what is missing here",
        )
    if mixed:
        yield Finding(
            "mixed-accelerator",
            f"{', '.join(mixed)}: trials ran with different accelerators; their median means nothing",
            "name one in the scenario: accel: kvm, or accel: tcg",
        )


def _counted(run: RunRecord) -> Iterator[Finding]:
    """A start whose instructions or calls are counted is slower for it."""
    counted = [name for name, arm in run.arms.items() if arm.get("icount") or arm.get("count")]
    timed = any(metric.startswith("startup.") for metric in run.metrics)
    if counted and timed:
        yield Finding(
            "counted",
            f"{', '.join(counted)}: instructions or system calls were counted, which slows a start: "
            "its times are no measure",
            "measure times without icount and count, in runtimes of their own",
        )


def _nested(run: RunRecord) -> Iterator[Finding]:
    nested = [name for name, arm in run.arms.items() if arm.get("nested")]
    if nested:
        yield Finding(
            "nested",
            f"{', '.join(nested)}: ran with KVM on a host that is a virtual machine itself: what a guest leaves its "
            "CPU for (devices, page faults, timers) passes two hypervisors and costs several times as much as on bare "
            "metal",
            "bare metal, for figures that shall hold there",
        )


def _hosts(run: RunRecord) -> Iterator[Finding]:
    """Of runtimes on other hosts: a comparison with them is one of the hosts, too."""
    elsewhere = {name: host for name, arm in run.arms.items() if isinstance(host := arm.get("host"), dict)}
    if not elsewhere:
        return
    where = "; ".join(f"{name}: on {host.get('name')} ({describe(host)})" for name, host in elsewhere.items())
    hosts = {str(host.get("boot_id")) for host in elsewhere.values()}
    if len(elsewhere) == len(run.runtimes) and len(hosts) == 1:
        yield Finding("elsewhere", f"{where}: all trials were made there, by that host's clock")
        return
    yield Finding(
        "hosts-differ",
        f"{where}: its trials were made there, by that host's clock. What the table shows between hosts is the "
        "difference of hosts and of runtimes in one",
        "for the runtimes alone: run the harness on that host, or give all VMs that are compared one uri",
    )


def _networks(run: RunRecord) -> Iterator[Finding]:
    """Without a bridge nothing is compared over a network: what each backend has by default is told by its docs."""
    networks = {name: arm.get("network") for name, arm in run.arms.items()}
    kinds = {name: str(known.get("kind")) for name, known in networks.items() if isinstance(known, dict)}
    if "bridge" in kinds.values() and len(set(kinds.values())) > 1:
        yield Finding(
            "networks-differ",
            f"{', '.join(f'{name}: {kind}' for name, kind in kinds.items())}: the runtimes have unlike networks, and "
            "setting one up is part of a start: their starts, memory and requests do not compare like with like",
            "network: bridge at the top of the scenario gives all of them the same",
        )


def _levers(run: RunRecord) -> Iterator[Finding]:
    """Say of each VM what else its levers change: not all of them only cost time."""
    told = {name: arm.get("changes") for name, arm in run.arms.items()}
    changed = {name: known for name, known in told.items() if isinstance(known, dict) and known}
    for name, changes in changed.items():
        words = "; ".join(f"{key}: {text}" for key, text in sorted(changes.items()))
        yield Finding("levers", f"{name}: its levers change more than the time of a start: {words}")


def _few_blocks(run: RunRecord, kept: Sequence[TrialRecord]) -> Iterator[Finding]:
    if not kept:
        return
    for runtime in run.runtimes:
        blocks = {trial.spec.block for trial in kept if trial.spec.runtime == runtime}
        if runtime != run.control:
            blocks &= {trial.spec.block for trial in kept if trial.spec.runtime == run.control}
        if len(blocks) < MIN_VALUES:
            what = "blocks" if runtime == run.control else f"blocks paired with {run.control}"
            yield Finding(
                "few-blocks",
                f"{runtime}: {len(blocks)} {what}: an exact 95 % interval needs {MIN_VALUES}, so none is shown",
                f"--set trials.blocks.min={MIN_VALUES} or more",
            )


def _failures(run: RunRecord, trials: Sequence[TrialRecord]) -> Iterator[Finding]:
    for runtime in run.runtimes:
        own = [trial for trial in trials if trial.spec.runtime == runtime]
        failed = [trial for trial in own if trial.status != "ok"]
        if failed:
            lo, hi = wilson_interval(len(failed), len(own))
            kinds = Counter(trial.ending or trial.status for trial in failed)
            how = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            yield Finding(
                "failures",
                f"{runtime}: {len(failed)} of {len(own)} trials failed: {how} (95 % interval of the rate "
                f"{lo:.0%} - {hi:.0%}); their blocks do not count for {runtime}",
                f"logs/{failed[0].spec.trial_id}/ in the run directory",
            )


def _varying(kept: Sequence[TrialRecord], cells: Sequence[Cell]) -> Iterator[Finding]:
    for cell in cells:
        if cell.exact and cell.minimum != cell.maximum:
            own = [trial for trial in kept if trial.spec.runtime == cell.runtime and cell.metric in trial.metrics]
            yield Finding(
                "exact-varies",
                f"{cell.metric}: {cell.runtime}: not the same at every start: {_who_has_which(cell.metric, own)}",
                "the labels of this metric in trials.jsonl say what was counted in each of these trials",
            )


def _who_has_which(metric: str, own: Sequence[TrialRecord]) -> str:
    """Return each value with its trials, the most frequent value first: `24 in 9 trials, 99 in b05-vm`."""
    trials: dict[float, list[str]] = {}
    for trial in own:
        trials.setdefault(trial.metrics[metric].value, []).append(trial.spec.trial_id)
    ranked = sorted(trials.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return ", ".join(
        f"{value:g} in {', '.join(names) if len(names) <= NAMED_TRIALS_MAX else f'{len(names)} trials'}"
        for value, names in ranked
    )


def _noise(trials: Sequence[TrialRecord]) -> Iterator[Finding]:
    flags = Counter(flag for trial in trials for flag in trial.noise.flags)
    for flag, count in flags.most_common():
        yield Finding(
            "noise",
            f"{flag}: {count} of {len(trials)} trials were disturbed; they count like all others",
            REMEDIES.get(flag, "harness doctor shows what disturbs this host"),
        )


def _series(run: RunRecord, kept: Sequence[TrialRecord]) -> Iterator[tuple[str, str, list[TrialRecord], list[float]]]:
    """Yield every watched metric of every runtime, in the order in which the trials ran."""
    ordered = sorted(kept, key=lambda trial: (trial.spec.block, trial.spec.order))
    for metric in (run.headline, *WATCHED):
        for runtime in run.runtimes:
            own = [trial for trial in ordered if trial.spec.runtime == runtime and metric in trial.metrics]
            yield metric, runtime, own, [trial.metrics[metric].value for trial in own]


def _order(run: RunRecord, kept: Sequence[TrialRecord]) -> Iterator[Finding]:
    for metric, runtime, _own, values in _series(run, kept):
        found = drift(values)
        if found and found.p < DRIFT_P:
            way = "rises" if found.rho > 0 else "falls"
            yield Finding(
                "drift",
                f"{metric}: {runtime}: {way} with the order of trials (Spearman {found.rho:+.2f}, p {found.p:.2g}); "
                "ratios within blocks are little touched, medians are",
                "more warm-up blocks, a cooler host, or look for a cache that fills",
            )


def _outliers(run: RunRecord, kept: Sequence[TrialRecord]) -> Iterator[Finding]:
    for metric, runtime, own, values in _series(run, kept):
        places = outliers(values)
        if places:
            names = ", ".join(own[place].spec.trial_id for place in places[:3])
            more = ", .." if len(places) > 3 else ""
            yield Finding(
                "outliers",
                f"{metric}: {runtime}: {len(places)} of {len(values)} values far from the rest (kept): {names}{more}",
                "the noise of these trials in trials.jsonl; median and ratios stand up to a few",
            )


def _markers(run: RunRecord, cells: Sequence[Cell]) -> Iterator[Finding]:
    medians = {(cell.metric, cell.runtime): cell.median for cell in cells}
    for runtime in run.runtimes:
        took, ready = medians.get(("marker.delivery", runtime)), medians.get(("startup.ready", runtime))
        if took and ready and took / ready > MARKER_RATIO_MAX:
            yield Finding(
                "marker",
                f"{runtime}: a marker takes {took / ready:.0%} of the time to ready on its way to the host",
                "read differences between milestones of this runtime with that in mind",
            )


def missing(cells: Sequence[Cell]) -> tuple[Missing, ...]:
    """Return every gap of the table, grouped by reason: a probe that cannot work is one line and not twenty."""
    runtimes: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for reason in cell.absent:
            name = cell.runtime if not cell.n else f"{cell.runtime} (some trials)"
            runtimes.setdefault((cell.metric, reason), []).append(name)
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (metric, reason), names in runtimes.items():
        groups.setdefault((reason, tuple(names)), []).append(metric)
    return tuple(Missing(tuple(metrics), who, reason) for (reason, who), metrics in groups.items())
