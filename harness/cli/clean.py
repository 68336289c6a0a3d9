"""`harness clean`: find and remove what dead runs left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from harness import plugins
from harness.errors import CapabilityError, HarnessError
from harness.interfaces import Backend
from harness.trials.ownership import dead_tokens, reap


def loadable_backends() -> tuple[list[Backend], list[str]]:
    """Return the backends that can be imported here, and one line for each that cannot."""
    backends: list[Backend] = []
    problems = []
    for name in plugins.names("backends"):
        try:
            backends.append(plugins.load("backends", name))
        except (ImportError, HarnessError) as error:
            problems.append(f"{name}: not searched: {error}")
    return backends, problems


@dataclass(slots=True)
class Sweep:
    """What was found of dead runs (token -> lines), which of them are still there, and what could not be done."""

    found: dict[str, list[str]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def sweep(backends: Sequence[Backend], *, dry_run: bool) -> Sweep:
    """Remove the remains of every dead run; one that resists does not keep the others."""
    done = Sweep()
    for token in dead_tokens(backends):
        try:
            if lines := reap(token, backends, dry_run=dry_run):  # else it cleaned up itself meanwhile
                done.found[token] = lines
        except (HarnessError, OSError) as error:
            done.found[token] = []
            done.problems.append(f"{token}: {error}")
    if not dry_run:
        done.left = [token for token in dead_tokens(backends) if token in done.found]
    return done


@click.command(short_help="Remove everything that a dead run left behind.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def clean(*, dry_run: bool, as_json: bool) -> None:
    """Find what runs left behind that ended without cleaning up (kill -9, power loss), and remove it.

    Guests, containers, cgroups, mounts and scratch directories carry the token of their run in their names; a run whose
    process still lives is left alone. Prints one line for each thing. Run directories under results/ are never touched.
    """
    backends, problems = loadable_backends()
    swept = sweep(backends, dry_run=dry_run)
    problems += swept.problems
    if as_json:
        document = {
            "schema": "harness.clean/1", "dry_run": dry_run, "found": swept.found, "left": swept.left,
            "problems": problems,
        }  # fmt: skip
        click.echo(json.dumps(document, indent=2))
    else:
        for line in (line for lines in swept.found.values() for line in lines):
            click.echo(("would remove " if dry_run else "removed ") + line)
        if not swept.found:
            click.echo("nothing to clean")
        for problem in problems:
            click.echo(problem, err=True)
    if swept.left:
        hint = "are you root? Another try may help: a process that hangs in the kernel keeps its cgroup"
        raise CapabilityError(f"clean: {', '.join(swept.left)}: still there", hint=hint)
