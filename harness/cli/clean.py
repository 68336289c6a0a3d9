"""`harness clean`: find and remove what dead runs left behind."""

from __future__ import annotations

import json

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


@click.command(short_help="Remove everything that a dead run left behind.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def clean(*, dry_run: bool, as_json: bool) -> None:
    """Find what runs left behind that ended without cleaning up (kill -9, power loss), and remove it.

    Guests, containers, cgroups, mounts and scratch directories carry the token of their run in their names; a run whose
    process still lives is left alone. Prints one line for each thing. Run directories under results/ are never touched.
    """
    backends, problems = loadable_backends()
    found = {token: reap(token, backends, dry_run=dry_run) for token in dead_tokens(backends)}
    left = [] if dry_run else dead_tokens(backends)
    if as_json:
        document = {"schema": "harness.clean/1", "dry_run": dry_run, "found": found, "left": left, "problems": problems}
        click.echo(json.dumps(document, indent=2))
    else:
        for line in (line for lines in found.values() for line in lines):
            click.echo(("would remove " if dry_run else "removed ") + line)
        if not found:
            click.echo("nothing to clean")
        for problem in problems:
            click.echo(problem, err=True)
    if left:
        raise CapabilityError(f"clean: {', '.join(left)}: still there", hint="are you root?")
