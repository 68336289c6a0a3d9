"""`harness explain`: toggle one lever of a runtime at a time, and print what each is worth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness import plugins
from harness.cli._answer import Answer
from harness.cli._compose import compose
from harness.cli._job import Job, budget_ns_of, carry_out, interrupts_told
from harness.cli._known import load_scenario
from harness.cli._output import note, print_json, print_table
from harness.cli._room import refuse_unwritable
from harness.cli._signals import Signals
from harness.errors import UsageError
from harness.model.document import override, parse, read
from harness.model.scenario import Scenario
from harness.model.units import format_bytes, format_ns
from harness.results.store import RunDirectory

if TYPE_CHECKING:
    from harness.analysis.ablation import Worth
    from harness.analysis.statistics import Estimate

SCHEMA = "harness.explain/1"

# What people ask about; a lever that is as the base has it already, or does not go with it, is left out and named.
LEVERS: Mapping[str, tuple[str, ...]] = {
    "libvirt": (
        "machine=microvm", "machine=pc", "boot=bzimage", "firmware=qboot", "console=serial", "crypto_tests=true",
        "initramfs=zstd", "disk_cache=none", "storage=qcow2", "vcpus=2", "memory=512MiB", "prealloc=true",
        "cpu=max", "fast_start=false", "cmdline=loglevel=7",
    ),
    "builtin": ("seccomp=unconfined", "no_new_privs=false", "cgroup_join=procs", "capabilities=[]"),
}  # fmt: skip
_NAME_MAX = 24


@click.command(short_help="Toggle one lever of a runtime at a time: what is each worth?")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--runtime", metavar="RUNTIME", help="The base; default: the first with levers, a VM before a container.")
@click.option("--lever", "levers", multiple=True, metavar="KEY=VALUE", help="Toggle this one (repeat for more).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value: trials.blocks.min=10")
@click.option("--budget", metavar="TIME", help="Stop after the block in which this much time has passed: 10m")
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs go."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain(  # noqa: PLR0913  (click passes every option)
    *, scenario: Path, runtime: str | None, levers: tuple[str, ...], overrides: tuple[str, ...], budget: str | None,
    results: Path, as_json: bool,
) -> None:  # fmt: skip
    """Measure a runtime of SCENARIO beside copies of itself that differ in one option each, in the same blocks.

    The table says what each lever adds to a start or saves, in which phase, and what else it changes. The run is kept
    like any other: harness report shows it.

    \b
    harness explain scenarios/boot.yaml
    harness explain scenarios/boot.yaml --runtime vm --lever firmware=qboot --lever boot=bzimage
    harness explain scenarios/boot.yaml --runtime container
    """
    base, arms = _plan(scenario, runtime, levers, overrides)
    with Answer(as_json=as_json, shown=False) as answer, Signals() as signals:
        job = Job(results, budget_ns_of(budget), answer, signals)
        with interrupts_told(job):
            added = tuple(f"runtimes.{name}={value}" for name, (_, value) in arms.items())
            loaded = load_scenario(scenario, (*overrides, *added, f"control={base}"), (base, *arms))
            composition = compose(loaded)
            refuse_unwritable(results)
            carry_out(job, composition)
        assert job.directory is not None
        _show(job.directory, base, {name: lever for name, (lever, _) in arms.items()}, as_json=as_json)


def _plan(
    path: Path, runtime: str | None, levers: Sequence[str], overrides: Sequence[str]
) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return the base, and for each arm the lever and the whole of the runtime, as YAML.

    Raises: UsageError, ScenarioError.
    """
    loaded = load_scenario(path, overrides)
    scenario = loaded.scenario
    if not isinstance(scenario, Scenario):
        raise UsageError(f"explain: {path}: a study starts no runtimes, so there are no levers")
    base = runtime or _default_base(scenario, levers)
    if base not in scenario.runtimes:
        raise UsageError(f"explain: {base}: no such runtime", hint=f"known: {', '.join(scenario.runtimes)}")
    document = read(path)
    for assignment in loaded.overrides:
        document = override(document, assignment)
    written = document.data["runtimes"][base]
    backend = plugins.load("backends", scenario.runtimes[base].backend)
    arms: dict[str, tuple[str, str]] = {}
    for lever in levers or LEVERS.get(backend.name, ()):
        key, equals, text = lever.partition("=")
        if not equals:
            raise UsageError(f"--lever {lever}: expected KEY=VALUE", hint="for instance: --lever firmware=qboot")
        changed = {**written, key: parse(text, f"--lever {lever}").data}
        why = None if levers else _not_a_lever(backend.options, changed, scenario.runtimes[base].options)
        if why:
            note(f"{lever}: left out: {why}")
        else:
            arms[_name(lever, (*scenario.runtimes, *arms))] = (lever, json.dumps(changed))
    if not arms:
        raise UsageError(f"explain: {base}: no levers are known for {backend.name}", hint="--lever KEY=VALUE names one")
    return base, arms


def _default_base(scenario: Scenario, levers: Sequence[str]) -> str:
    for wanted in LEVERS:
        for name, runtime in scenario.runtimes.items():
            if runtime.backend == wanted:
                return name
    if levers:
        return next(iter(scenario.runtimes))
    raise UsageError("explain: no runtime of this scenario has known levers", hint="--runtime and --lever name some")


def _not_a_lever(model: Any, changed: Mapping[str, Any], base: Any) -> str | None:
    """Return why one of the default levers says nothing here, None where it does."""
    from pydantic import ValidationError  # noqa: PLC0415

    own = {key: value for key, value in changed.items() if key not in {"backend", "network", "mounts"}}
    try:
        options = model.model_validate(own)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return "the base has it already" if options == base else None


def _name(lever: str, taken: Sequence[str]) -> str:
    """Return a name for an arm: the lever in the letters that a runtime's name may have."""
    name = re.sub(r"[^a-z0-9]+", "-", lever.lower()).strip("-")[:_NAME_MAX].rstrip("-")
    number = 2
    unique = name
    while unique in taken:
        unique = f"{name[: _NAME_MAX - 3]}-{number}"
        number += 1
    return unique


def _show(directory: RunDirectory, base: str, levers: Mapping[str, str], *, as_json: bool) -> None:
    from harness.analysis.ablation import worths  # noqa: PLC0415
    from harness.analysis.statistics import median  # noqa: PLC0415

    run, records = directory.run(), directory.trials()
    found = worths(run, records, base, levers)
    ready = [
        float(r.metrics[run.headline].value) for r in records
        if r.spec.runtime == base and r.status == "ok" and not r.spec.warmup and run.headline in r.metrics
    ]  # fmt: skip
    middle = median(ready) if ready else None
    if as_json:
        print_json({"schema": SCHEMA, "run_id": run.run_id, "base": base, "ready_ns": middle,
                    "levers": [asdict(worth) for worth in found]})  # fmt: skip
        return
    accelerator = run.arms.get(base, {}).get("accelerator")
    took = f"ready after {format_ns(middle)} (median)" if middle is not None else "never ready"
    click.echo(f"{base}{f' ({accelerator})' if accelerator else ''}: {took}; each lever alone, in the same blocks\n")
    _print_rows(found)
    click.echo("\n- saves, + costs; intervals of 95 % where 6 blocks or more were measured")
    for text in dict.fromkeys(text for worth in found for text in worth.changes):
        who = ", ".join(worth.lever for worth in found if text in worth.changes)
        click.echo(f"! {who}: also changes what is compared: {text}")
    click.echo(f"\nharness report {directory.path}")


def _print_rows(found: Sequence[Worth]) -> None:
    from rich.table import Table  # noqa: PLC0415

    table = Table("lever", "ready", "95 % interval", "most of it in", "memory.pss", box=None, pad_edge=False)
    for worth in found:
        phase = "-" if worth.phase is None else f"{worth.phase[0]} {_signed(worth.phase[1], format_ns)}"
        ready, interval = _estimate(worth.ready, format_ns)
        table.add_row(worth.lever, ready, interval, phase, _estimate(worth.memory, format_bytes)[0])
    print_table(table)


def _estimate(found: Estimate | None, unit: Any) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    if found.lo is None or found.hi is None:
        return _signed(found.value, unit), f"- ({found.n} blocks)"
    return _signed(found.value, unit), f"[{_signed(found.lo, unit)}, {_signed(found.hi, unit)}]"


def _signed(value: float, unit: Any) -> str:
    return f"{'-' if value < 0 else '+'}{unit(abs(value))}"
