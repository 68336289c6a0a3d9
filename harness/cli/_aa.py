"""`harness doctor --aa SCENARIO`: measure a scenario against itself, and say which change this host could tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli._known import load_scenario
from harness.cli._output import print_json, print_table
from harness.cli._revisions import Request, measure
from harness.errors import RunFailed
from harness.trials.revision import BaseTree

if TYPE_CHECKING:
    from harness.analysis.decision import Decision
    from harness.analysis.sensitivity import Sensitivity
    from harness.model.records import RunRecord

SCHEMA = "harness.aa/1"
ITSELF = "itself"
FEW_BLOCKS = 10
MARGIN = 0.05


def show_aa(scenario: Path, overrides: Sequence[str], results: Path, *, as_json: bool) -> None:
    """Run every runtime of a scenario twice in each block, and print what the host's noise hides.

    Raises: whatever `harness run` ends with; RunFailed where nothing could be compared.
    """
    from harness.analysis.decision import compare_revisions  # noqa: PLC0415
    from harness.analysis.gate import Policy  # noqa: PLC0415
    from harness.analysis.sensitivity import sensitivities  # noqa: PLC0415

    asked = load_scenario(scenario, overrides).scenario
    directory = measure(Request(scenario, ITSELF, results, overrides=tuple(overrides)), BaseTree(scenario, ITSELF, ""))
    run, trials = directory.run(), directory.trials()
    gate = asked.gate
    policy = Policy((gate and gate.metrics) or (run.headline,), gate.margin if gate else MARGIN)
    names = [name for name in run.metrics if policy.guards(name)]
    blocks = sorted({FEW_BLOCKS, asked.trials.blocks.max})
    found = sensitivities(run, trials, names, margin=policy.margin, blocks=blocks)
    if not found:
        raise RunFailed(f"doctor: {run.run_id}: {', '.join(policy.metrics)}: no two values of one block to compare")
    decision = compare_revisions(run, trials, policy)
    noisy = sum(bool(trial.noise.flags) for trial in trials)
    if as_json:
        print_json(_document(run, decision, found, noisy))
    else:
        _show(run, decision, found, f"{noisy} of {len(trials)} trials were disturbed")


def _document(
    run: RunRecord, decision: Decision, found: Mapping[str, Sequence[Sensitivity]], noisy: int
) -> dict[str, Any]:
    rows = [asdict(one) for own in found.values() for one in own]
    return {"schema": SCHEMA, "run_id": run.run_id, "host_class": run.host.get("class", ""), "noisy_trials": noisy,
            "margin": decision.policy.margin, "outcome": decision.outcome, "sensitivities": rows}  # fmt: skip


def _show(run: RunRecord, decision: Decision, found: Mapping[str, Sequence[Sensitivity]], noise: str) -> None:
    from rich.table import Table  # noqa: PLC0415

    from harness.model.report import Effect  # noqa: PLC0415
    from harness.report._tables import effect_text  # noqa: PLC0415

    counts = [one.blocks for one in next(iter(found.values()))]
    click.echo(f"{run.scenario} against itself on this host: {noise}\n")
    table = Table(
        "metric", "runtime", "n", "the same, twice", *(f"{n} blocks" for n in counts), box=None, pad_edge=False
    )
    for own in found.values():
        ratio = own[0].found
        twice = effect_text(Effect("ratio", ratio.value, ratio.lo, ratio.hi, ratio.n, ""), "")
        table.add_row(own[0].metric, own[0].runtime, str(ratio.n), twice, *(_percent(one) for one in own))
    print_table(table)
    margin = f"{decision.policy.margin:.0%}"
    click.echo(
        f"\nWith so many blocks: the smallest change that a gate with a margin of {margin} catches in 8 of 10 runs;\n"
        "in brackets what can be told from no change at all. More blocks find smaller changes."
    )
    alarm = decision.outcome == "regressed"
    click.echo("A gate would have raised a FALSE alarm here." if alarm else "No false alarm.")


def _percent(one: Sensitivity) -> str:
    if one.smallest_ratio is None or one.difference_ratio is None:
        return "too few blocks"
    return f"{one.smallest_ratio:.1%} ({one.difference_ratio:.1%})"
