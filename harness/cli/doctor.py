"""`harness doctor`: what works on this host and why not, what helps, and how noisy it is now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from harness import plugins
from harness.cli._output import print_json, print_need
from harness.cli._plan import capability_json
from harness.cli._subject import backend_needs
from harness.container import kernel_features
from harness.errors import CapabilityError
from harness.host import facts as host
from harness.host import noise
from harness.host.paths import data_dir
from harness.host.process import find_program
from harness.images.storage import kinds
from harness.interfaces import Capability
from harness.model.units import format_bytes

# Long enough for a hundred ticks of steal on each CPU, short enough to wait for.
SAMPLE_S = 1.0
GOVERNOR_REMEDY = "set it for the time of a run: cpupower frequency-set -g performance"
NEIGHBOUR_REMEDY = "stop them for the time of a run; their load is measured as if it were ours"
EMULATION = "tcg: kvm is not usable"
EMULATION_REMEDY = (
    "times of a VM mean nothing for production here: take bare metal, or a host that passes VMX/SVM to its guests"
)
# Each is of use only to the backend of its name.
ENGINES = frozenset({"docker", "podman", "runc", "crun"})
EXIT_MISSING = 3


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing about noise: what was found, whether it disturbs (None: cannot be told here), what helps."""

    name: str
    disturbs: bool | None
    found: str
    remedy: str = ""


@click.command(short_help="Say what works on this host, why not, and how noisy it is.")
@click.option("--aa", type=click.Path(path_type=Path), metavar="SCENARIO",
              help="Measure SCENARIO against itself: the smallest change that this host can tell.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="With --aa: change a value.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
              help="With --aa: where the run goes.")  # fmt: skip
@click.option("--self-test", "self_tests", is_flag=True, help="Find known times and a known amount of memory again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def doctor(
    ctx: click.Context, *, aa: Path | None, overrides: tuple[str, ...], results: Path, self_tests: bool, as_json: bool
) -> None:
    """Say what this host is, which backends work here and why the others do not, and how noisy it is now.

    Takes a second to watch the CPUs, and another to try storage drivers; starts nothing. Ends with 3 when no backend at
    all works.

    \b
    harness doctor --aa scenarios/boot.yaml --set trials.blocks.min=20    how much noise, and what it hides
    harness doctor --self-test      are 10 ms, 100 ms, 1 s and 64 MiB found again in process, container and VM?
    """
    if self_tests:
        from harness.cli._selftest import self_test  # noqa: PLC0415  (starts instances)

        self_test(as_json=as_json)
        return
    if aa is not None:
        from harness.cli._aa import show_aa  # noqa: PLC0415  (the whole of a run)

        show_aa(aa, overrides, results, as_json=as_json)
        return
    facts = host.host_facts()
    backends = {name: default_needs(name) for name in plugins.names("backends")}
    tools = {tool: version for tool, version in host.tool_versions().items() if tool not in ENGINES - backends.keys()}
    diagnoses = diagnose(facts)
    if as_json:
        print_json(_document(facts, tools, backends, diagnoses))
    else:
        _show(facts, tools, backends, diagnoses)
    if not any(all(need.available for need in needs) for needs in backends.values()):
        ctx.exit(EXIT_MISSING)


def image_tools() -> list[Capability]:
    """Return the programs that bring images from elsewhere; nothing else needs them."""
    found = []
    for name, use in (("skopeo", "image pull and push"), ("mmdebstrap", "image bootstrap debian:SUITE")):
        try:
            found.append(Capability(name, available=True, reason=f"{use}: {find_program(name)}"))
        except CapabilityError as error:
            found.append(Capability(name, available=False, reason=f"{use}: not found", hint=error.hint))
    return found


def storage_drivers() -> list[Capability]:
    """Return each storage driver, tried with a tiny image."""
    return [kinds.available(name, data_dir()) for name in kinds.KINDS]


def default_needs(name: str) -> tuple[Capability, ...]:
    """Return what a backend needs with the options that a scenario leaves out."""
    backend = plugins.try_load("backends", name)
    if isinstance(backend, plugins.Unavailable):
        return backend_needs(name, None)
    try:
        options = backend.options()
    except ValidationError as error:
        required = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        return (Capability("options", available=False, reason=f"depends on the scenario: it must say {required}"),)
    return tuple(_with_remedy(need) for need in backend_needs(name, options))


def _with_remedy(need: Capability) -> Capability:
    if not _is_emulation(need):
        return need
    return replace(need, hint=f"{need.hint}; {EMULATION_REMEDY}" if need.hint else EMULATION_REMEDY)


def _is_emulation(need: Capability) -> bool:
    """Return whether something is there, but makes the numbers say little."""
    return need.name == "accel" and need.available and need.reason.startswith(EMULATION)


def diagnose(facts: Mapping[str, Any], proc: Path = Path("/proc")) -> list[Diagnosis]:
    """Watch this host for a second and return what could disturb a run."""
    sampler = noise.Sampler(proc)
    time.sleep(SAMPLE_S)
    seen = sampler.finish()
    load1 = noise.read_sample(proc).load1
    return [
        _ratio(noise.STEAL, seen.steal_ratio, "of CPU time stolen by the hypervisor", seen.flags),
        _ratio(noise.CPU_PRESSURE, seen.psi_cpu_some_ratio, "of the time something waited for a CPU", seen.flags),
        Diagnosis(
            noise.LOAD,
            None if load1 is None else noise.LOAD in seen.flags,
            "not told by this kernel" if load1 is None else f"{load1:.2f} on {facts['cpu_count']} CPUs",
            noise.REMEDIES[noise.LOAD],
        ),
        _governor(facts.get("governor")),
        _neighbours(proc),
    ]


def _ratio(name: str, value: float | None, words: str, flags: tuple[str, ...]) -> Diagnosis:
    if value is None:
        return Diagnosis(name, None, "not told by this kernel")
    return Diagnosis(name, name in flags, f"{value:.1%} {words}", noise.REMEDIES[name])


def _governor(name: str | None) -> Diagnosis:
    if name is None:
        return Diagnosis("governor", None, "no cpufreq here (usual in a guest): the frequency is not ours to set")
    return Diagnosis("governor", name not in {"performance", "schedutil"}, name, GOVERNOR_REMEDY)


def _neighbours(proc: Path) -> Diagnosis:
    """Other virtual machines: their CPUs and page cache are ours too."""
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "comm").read_text().strip()
            except OSError:  # it has ended since
                continue
            if name.startswith(("qemu-system", "qemu-kvm", "firecracker", "cloud-hypervisor", "VBoxHeadless")):
                found.append(name)
    words = f"{len(found)} running: {', '.join(sorted(set(found)))}" if found else "none running"
    return Diagnosis("other-vms", bool(found), words, NEIGHBOUR_REMEDY)


def _show(
    facts: Mapping[str, Any],
    tools: Mapping[str, str],
    backends: Mapping[str, tuple[Capability, ...]],
    diagnoses: list[Diagnosis],
) -> None:
    cgroup = facts["cgroup"]
    memory = "memory unknown" if facts["memory_bytes"] is None else format_bytes(facts["memory_bytes"])
    click.echo("host")
    click.echo(f"  {facts['cpu_model'] or 'unknown CPU'}, {facts['cpu_count']} CPUs, {memory}")
    click.echo(f"  {facts['os'] or 'unknown system'}, Linux {facts['kernel']}, Python {facts['python']}")
    click.echo(
        f"  virtualisation {facts['virtualisation'] or 'unknown'}, clocksource {facts['clocksource'] or 'unknown'}"
    )
    click.echo(f"  cgroup {cgroup['mode']}: v1 {' '.join(cgroup['v1']) or '-'}; v2 {' '.join(cgroup['v2']) or '-'}")
    click.echo(f"  class {host.host_class(facts)}")
    click.echo("\ntools")
    for name, version in tools.items():
        click.echo(f"  {name} {version}")
    click.echo("\nbackends")
    for needs, names in _grouped(backends).items():
        works = all(need.available for need in needs)
        words = ("works", "does not work here") if len(names) == 1 else ("work", "do not work here")
        click.echo(f"  {', '.join(names)}: {words[0] if works else words[1]}")
        for need in needs:
            _print_need(need)
    click.echo("\nkernel, for the built-in container runtime")
    for feature in kernel_features.probe():
        verdict = "?    " if feature.available is None else "ok   " if feature.available else "no   "
        click.echo(f"  {verdict}  {feature.name}: {feature.use if feature.available else feature.without}")
    _show_section("storage drivers, for the built-in container runtime", storage_drivers())
    _show_section("images from registries and distributions", image_tools())
    click.echo("\nnoise now")
    for item in diagnoses:
        verdict = "?    " if item.disturbs is None else "NOISY" if item.disturbs else "ok   "
        click.echo(f"  {verdict}  {item.name}: {item.found}")
        if item.disturbs and item.remedy:
            click.echo(f"         {item.remedy}")


def _show_section(title: str, needs: list[Capability]) -> None:
    click.echo(f"\n{title}")
    for need in needs:
        print_need(need, indent=2)


def _grouped(backends: Mapping[str, tuple[Capability, ...]]) -> dict[tuple[Capability, ...], list[str]]:
    """Return the backends that find the same, each finding once."""
    groups: dict[tuple[Capability, ...], list[str]] = {}
    for name, needs in backends.items():
        groups.setdefault(needs, []).append(name)
    return groups


def _print_need(need: Capability) -> None:
    """Write a need like `harness plan` does; emulation with a sign of its own and what would be better."""
    if not _is_emulation(need):
        print_need(need, indent=4)
        return
    click.echo(f"    !        {need.name}: {need.reason}")
    click.echo(f"             {need.hint}")


def _document(
    facts: Mapping[str, Any],
    tools: Mapping[str, str],
    backends: Mapping[str, tuple[Capability, ...]],
    diagnoses: list[Diagnosis],
) -> dict[str, Any]:
    return {
        "schema": "harness.doctor/1",
        "host": {**facts, "class": host.host_class(facts)},
        "tools": dict(tools),
        "backends": {
            name: {
                "works": all(need.available for need in needs),
                "needs": [capability_json(need) for need in needs],
            }
            for name, needs in backends.items()
        },
        "image_tools": [capability_json(tool) for tool in image_tools()],
        "storage_drivers": [capability_json(driver) for driver in storage_drivers()],
        "kernel_features": [feature._asdict() for feature in kernel_features.probe()],
        "noise": [
            {"name": item.name, "disturbs": item.disturbs, "found": item.found,
             "remedy": item.remedy if item.disturbs else None}
            for item in diagnoses
        ],
    }  # fmt: skip
