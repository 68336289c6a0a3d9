"""The claims of the text held against runs, as Markdown and as a page: the same rows and words in both.

The terminal has them in `terminal.py`, a slide in `harness.charts.claims`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.analysis.evidence import times
from harness.model.report import Claim, Report
from harness.report import _tables as tables
from harness.report._environment import environment
from harness.report._markdown_table import plain, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "What is commonly said of VMs and containers, held against measurements"
HEADS = ("feature", "VM: claimed", "measured", "container: claimed", "measured", "effect", "verdict", "because")
NOTE = (
    "Every verdict holds for these runs on this host. The effect is a ratio, paired by block, with its exact 95 % "
    "interval; rows without one are decided by properties. Undecided: the interval does not tell, or nothing was "
    "measured"
)


def verdict(claim: Claim) -> str:
    """Return the verdict as people read it."""
    return {"holds": "holds here", "fails": "does not hold here"}.get(claim.verdict, "undecided")


def effect(claim: Claim) -> str:
    """Return what the row is judged by: `4.48x [4.47 - 4.49] layers.disk, flattened / shared layers`."""
    return f"{times(claim.contrast)} {claim.contrast.of}" if claim.contrast else ""


def because(claim: Claim) -> str:
    """Return the reason with what else the run shows."""
    return f"{claim.reason}; {claim.remark}" if claim.remark else claim.reason


def source(claim: Claim) -> str:
    """Return which run says so, and which scenario measures it."""
    run = f"{claim.run_id}, {claim.blocks} blocks; " if claim.run_id else ""
    return f"{run}scenarios/{claim.scenario}.yaml"


def score(claims: Sequence[Claim]) -> str:
    """Return how many rows got which verdict, in one sentence."""
    counts = {word: [claim.verdict for claim in claims].count(word) for word in ("holds", "fails", "not shown")}
    one, many = ("holds here", "does not hold here", "is undecided"), ("hold here", "do not hold here", "are undecided")
    parts = [f"{n} {one[at] if n == 1 else many[at]}" for at, n in enumerate(counts.values()) if n]
    return f"Of {len(claims)} claims {', '.join(parts)}."


def hosts(reports: Sequence[Report]) -> list[str]:
    """Return the hosts of the runs, each once."""
    return list(dict.fromkeys(tables.host_line(report) for report in reports))


def rows(claims: Sequence[Claim]) -> list[list[str]]:
    """Return the table's lines as text."""
    return [
        [
            claim.feature, claim.claim_vm, claim.measured_vm, claim.claim_container, claim.measured_container,
            effect(claim), verdict(claim), because(claim),
        ]
        for claim in claims
    ]  # fmt: skip


def markdown(reports: Sequence[Report], claims: Sequence[Claim]) -> str:
    """Return the rows as a GitHub-flavoured table, with the runs and hosts below."""
    lines = [f"# {TITLE}\n", f"**{plain(score(claims))}**\n"]
    sources = [source(claim) for claim in claims]
    lines += table([*HEADS, "measured by"], [[*row, text] for row, text in zip(rows(claims), sources, strict=True)])
    lines.append(f"\n{plain(NOTE)}.\n")
    lines += [f"- run `{report.run.run_id}`: {plain(tables.counts(report))}" for report in reports]
    lines += [f"- host: {plain(line)}" for line in hosts(reports)]
    return "\n".join(lines) + "\n"


def html(reports: Sequence[Report], claims: Sequence[Claim]) -> str:
    """Return the rows as one page that needs nothing else."""
    template = environment(t=tables, c=sys.modules[__name__]).get_template("_claims.html.j2")
    return template.render(title=TITLE, reports=reports, claims=claims, hosts=hosts(reports))


def picture(reports: Sequence[Report], claims: Sequence[Claim]) -> Figure:
    """Return the rows as a slide, with the machine and what the VMs ran on."""
    from harness.charts.claims import claims_picture  # noqa: PLC0415 - matplotlib takes a second

    accelerators = sorted({name for report in reports for name in report.accelerators.values()})
    runs = len({claim.run_id for claim in claims if claim.run_id}) or len(reports)
    emulated = (
        " VMs ran in software emulation (TCG): no measure of their speed with KVM." if "tcg" in accelerators else ""
    )
    caption = (
        f"{runs} run{'' if runs == 1 else 's'} on {'; '.join(hosts(reports))}.{emulated} "
        "Effects: paired by block, exact signed-rank intervals."
    )
    title = "What is commonly said of VMs and containers, and what was measured"
    return claims_picture(claims, title=title, caption=caption, vm_label="+".join(accelerators))
