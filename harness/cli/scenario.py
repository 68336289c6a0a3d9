"""`harness plan`, `harness validate`, `harness schema`: everything about a scenario that measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli._known import known, load_scenarios
from harness.cli._output import note, print_error, print_json, problem_json
from harness.errors import Problem, ScenarioError

if TYPE_CHECKING:
    from harness.model.reading import LoadedScenario

EXIT_INVALID = 2
EXIT_MISSING = 3


@click.command(short_help="Check scenario files; every mistake at once.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with all problems.")
@click.pass_context
def validate(ctx: click.Context, *, files: tuple[Path, ...], as_json: bool) -> None:
    """Check scenario files and show every mistake in them at once, with its place and a suggestion.

    Nothing is started, and what a scenario needs from this host is not looked at: that is `harness plan`.

    \b
    harness validate scenarios/*.yaml
    """
    results = [_validated(path, as_json=as_json) for path in files]
    if as_json:
        print_json({"schema": "harness.validate/1", "files": results})
    if not all(result["valid"] for result in results):
        ctx.exit(EXIT_INVALID)


def _validated(path: Path, *, as_json: bool) -> dict[str, Any]:
    """Return what was found in one file, and show it unless a document is wanted."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    try:
        cells = load_scenarios(path)
        notes = tuple(dict.fromkeys(text for loaded in cells for text in loaded.notes))
        if not as_json:
            _say_valid(cells, notes)
    except ScenarioError as error:
        problems = error.problems
        if not as_json:
            print_error(error)
    return {
        "path": str(path), "valid": not problems, "problems": [problem_json(problem) for problem in problems],
        "notes": list(notes),
    }  # fmt: skip


def _say_valid(cells: Sequence[LoadedScenario], notes: Sequence[str]) -> None:
    path, scenario = cells[0].path, cells[0].scenario
    low, high = scenario.trials.blocks.min, scenario.trials.blocks.max
    blocks = f"{low}" if low == high else f"{low} to {high}"
    swept = f"; {len(cells)} cells of {', '.join(cells[0].cell)}" if cells[0].cell else ""
    click.echo(f"{path}: ok: {scenario.name}: {', '.join(scenario.contenders)}; {blocks} blocks{swept}")
    for text in notes:
        note(f"{path}: {text}")


@click.command(short_help="Print the JSON Schema of a scenario, for editors.")
def schema() -> None:
    """Print the JSON Schema (draft-07) of a scenario with the options of every backend and workload here.

    \b
    harness schema > scenario.schema.json
    Then, as the first line of a scenario:
    # yaml-language-server: $schema=scenario.schema.json
    """
    from harness.model.json_schema import scenario_schema  # noqa: PLC0415  (only this verb needs it)

    plugins = known()
    print_json(scenario_schema(plugins))


@click.command(short_help="Show what a run would do, and what is missing for it.")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, metavar="RUNTIME", help="Only this runtime or arm (repeat for more).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value: trials.blocks.max=10")
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
    help="Where former runs are, for the estimate of time.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def plan(
    ctx: click.Context,
    *,
    scenario: Path,
    only: tuple[str, ...],
    overrides: tuple[str, ...],
    results: Path,
    as_json: bool,
) -> None:
    """Show the order of trials, what each runtime needs here, how long it may take, and what is missing and why.

    Measures nothing, starts nothing. Ends with 3 when something is missing. A scenario without a seed gets a new one in
    every run, so the order shown is then an example. Of a matrix each cell is a run of its own; the first is shown.
    """
    from harness.cli._plan import gather, plan_json, plans_json, show_plan, show_plans  # noqa: PLC0415

    previews = [gather(loaded, results) for loaded in load_scenarios(scenario, overrides, only)]
    swept = bool(previews[0].loaded.cell)
    if as_json:
        print_json(plans_json(previews) if swept else plan_json(previews[0]))
    elif swept:
        show_plans(previews)
    else:
        show_plan(previews[0])
    if any(preview.missing for preview in previews):
        ctx.exit(EXIT_MISSING)
