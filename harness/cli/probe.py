"""`harness probe`: what a sandbox lets its workload reach, asked once of each runtime, or of one that is not ours."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from harness import plugins
from harness.agent.program import agent_bytes
from harness.analysis import isolation
from harness.analysis.exposure import PARTS, Parts, headlines, weighted
from harness.cli._output import note, print_json
from harness.cli._subject import backend_needs
from harness.cli._weights import weights_option
from harness.errors import CapabilityError, HarnessError, UsageError
from harness.host.facts import host_facts
from harness.host.paths import cache_dir, data_dir
from harness.images.references import parse_reference
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import RunContext
from harness.model.metrics import Absent, Measurement, Metric
from harness.model.spec import RootTree
from harness.model.units import format_ns
from harness.probes import _bracketing, surface
from harness.probes import isolation as isolation_probe
from harness.probes._surface import Missing, read_answer, section
from harness.report._isolation import boundary_table, property_table
from harness.trials import ownership
from harness.trials.probing import Look, Subject, look_at

SCHEMA = "harness.probe/1"
FAMILIES = ("isolation", "surface", "boundary")
FOREIGN = "inside"
_ALIASES = {
    "namespaces_own": "ns_separated",
    "capabilities_effective": "caps_eff",
    "capabilities_bounding": "caps_bnd",
}
_STATUS = re.compile(r"(denied|unsupported|error): (.*)", re.DOTALL)
_METHODS = {"isolation": "/proc read inside", "surface": "tried inside by harness-probe", "boundary": "host side"}


@click.command(short_help="Ask once what each runtime lets its workload reach.")
@click.option("--image", metavar="IMAGE", help="An image of the store, or DIR: a root file system. Else an empty one.")
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME[:KEY=VALUE,..]",
              help="A backend, with options; again for more. Else every one that works here.")  # fmt: skip
@click.option("--static", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Only write the static probe, to be run inside a sandbox that is not ours.")  # fmt: skip
@click.option("--from", "seen", type=click.File("rb"), metavar="SEEN.json",
              help="Judge what the static probe wrote inside a sandbox of this host.")  # fmt: skip
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def probe(
    *, image: str | None, runtimes: tuple[str, ...], static: Path | None, seen: Any, weights: Mapping[str, float],
    as_json: bool,
) -> None:  # fmt: skip
    """Start each runtime once and say what its workload reaches of which kernel, and what stands in between.

    Nothing is exploited: what is tried fails by construction, or is parked before it runs. Values marked * act on a
    kernel of the guest's own. docs/isolation.md explains each.

    \b
    harness probe
    harness probe --runtime docker --runtime builtin:seccomp=unconfined
    harness probe --static ./harness-probe     then, inside: ./harness-probe > seen.json
    harness probe --from seen.json
    """
    if static is not None:
        _export(static)
        return
    parts = weighted(weights)
    looks, failed = ({FOREIGN: _foreign(seen.read())}, {}) if seen else _look(runtimes, image)
    if as_json:
        print_json(document(looks, failed, parts))
    else:
        _show(looks, parts)
    for name, error in failed.items():
        note(f"{name}: {error}")
    if not looks:
        raise CapabilityError("probe: no runtime could be looked at", hint="harness doctor shows what works here")


def _export(path: Path) -> None:
    if path.name != "harness-probe":
        raise UsageError(f"--static: {path.name}: its name must be harness-probe: that is how it knows what to do")
    path.write_bytes(agent_bytes())
    path.chmod(0o755)
    click.echo(
        f"{path}: run it inside: ./harness-probe > seen.json; then here: harness probe --from seen.json", err=True
    )


# -- what is looked at ---------------------------------------------------------------------------------------------


def subject(words: str) -> Subject:
    """Return the backend that NAME[:KEY=VALUE,..] names. Raises: UsageError, CapabilityError."""
    name, _, rest = words.partition(":")
    backend = plugins.try_load("backends", name)
    if isinstance(backend, plugins.Unavailable):
        raise CapabilityError(f"{name}: cannot be loaded: {backend.reason}")
    pairs = [pair.partition("=") for pair in rest.split(",") if pair]
    try:
        options = backend.options(**{key: _value(text) for key, _, text in pairs})
    except ValidationError as error:
        detail = error.errors()[0]
        raise UsageError(f"--runtime {words}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}") from error
    missing = [need for need in backend_needs(name, options) if not need.available]
    if missing:
        reasons = "; ".join(f"{need.name}: {need.reason}" for need in missing)
        raise CapabilityError(f"{name}: {reasons}", hint=missing[0].hint)
    return Subject(_label(words), backend, options)


def _value(text: str) -> Any:
    """A value with + is a list, an empty one too: capabilities=net_raw+kill."""
    if "+" in text or not text:
        return tuple(word for word in text.split("+") if word)
    return {"true": True, "false": False}.get(text, text)


def _label(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:24]


def _look(runtimes: Sequence[str], image: str | None) -> tuple[dict[str, Look], dict[str, str]]:
    """Return what was found by runtime, and why others could not be looked at."""
    failed: dict[str, str] = {}
    subjects = []
    for words in runtimes or sorted(plugins.names("backends"), key=lambda name: name != "process"):  # it calibrates
        try:
            subjects.append(subject(words))
        except HarnessError as error:
            if runtimes:
                raise
            failed[words] = error.message
    token = secrets.token_hex(4)
    backends = [one.backend for one in subjects]
    with contextlib.ExitStack() as cleanup:
        store = Store(data_dir() / "images")
        tree = _tree(image, store, cleanup)
        scratch = ownership.claim(token, f"probe-{token}")
        cleanup.callback(ownership.reap, token, backends, dry_run=False)
        context = RunContext(f"probe-{token}", token, scratch, cache_dir(), note)
        probes = [plugins.load("probes", name) for name in FAMILIES]
        looks = {}
        for one in subjects:
            try:
                looks[one.name] = look_at(one, tree, probes, context)
            except HarnessError as error:
                failed[one.name] = error.message
    return looks, failed


def _tree(image: str | None, store: Store, cleanup: contextlib.ExitStack) -> RootTree:
    if image is None:
        place = cache_dir() / "probe-root"
        _make_root(place)
        return resolve_image(ImageRef("rootfs", str(place)), Path(), store)
    if Path(image).is_dir():
        kind: Any = (
            "build" if any((Path(image) / name).exists() for name in ("Containerfile", "Dockerfile")) else "rootfs"
        )
        return resolve_image(ImageRef(kind, image), Path(), store, log=note)
    parse_reference(image)
    return resolve_image(ImageRef("oci", image), Path(), store, log=note)


def _make_root(place: Path) -> None:
    """A root with nothing in it but what runtimes ask of one: systemd-nspawn wants /usr and an os-release."""
    if (place / "etc/os-release").exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    for name in ("dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"):
        (place / name).mkdir(parents=True)
    os.chmod(place / "tmp", 0o1777)  # noqa: PTH101 - Path.chmod keeps no sticky bit on some systems
    (place / "etc/os-release").write_text("ID=harness-probe\n")


def _foreign(text: bytes) -> Look:
    """Judge what the static probe saw inside a sandbox that somebody else started on this host."""
    try:
        return _judge_foreign(read_answer(text))
    except surface.MALFORMED as error:
        raise UsageError(f"--from: {error}", hint="inside: ./harness-probe > seen.json") from error


def _judge_foreign(answer: Mapping[str, Any]) -> Look:
    identity = section(answer, "identity")
    boot_id = "" if isinstance(identity, Missing) else str(identity.get("boot_id", "")).strip()
    shared = boot_id == surface.host_boot_id()
    now = _bracketing.host_files()
    acts_on = surface.HOST_KERNEL if shared else surface.OWN_KERNEL
    found: dict[str, Measurement | Absent] = {}
    for metric, outcome in surface.judged(surface.Observed(answer, shared, now, now)).items():
        found[metric.name] = (
            Absent(metric, outcome.text())
            if isinstance(outcome, Missing)
            else Measurement(metric, outcome.value, {"acts_on": acts_on, **outcome.labels})
        )

    def emit(item: Measurement | Absent) -> None:
        found[item.metric.name] = item

    inside = surface.as_inside(answer)
    isolation_probe.tell(inside, lambda: _host_processes(inside), emit)
    return Look("", "container" if shared else "vm", None, found, {}, 0)


def _host_processes(inside: Mapping[str, Any]) -> int:
    """Return how many processes are seen where the pid namespace is the host's; none of them can be told from ours."""
    shared = (inside.get("namespaces") or {}).get("pid") == str(Path("/proc/self/ns/pid").readlink())
    return int(inside.get("processes") or 0) if shared else 0


# -- what is printed -----------------------------------------------------------------------------------------------


def key_of(metric: str) -> str:
    """Return a metric's short name: `isolation.syscalls.reachable` is `syscalls_reachable`."""
    key = metric.removeprefix(isolation.PREFIX).replace(".", "_")
    return _ALIASES.get(key, key)


def _methods() -> Mapping[str, str]:
    return {metric.name: _METHODS[name] for name in FAMILIES for metric in plugins.load("probes", name).metrics}


def value_json(item: Measurement | Absent, method: str, shared: bool | None) -> dict[str, Any]:  # noqa: FBT001
    """Return one value as `{value, unit, method, acts_on, status, detail}`."""
    metric: Metric = item.metric
    acts_on = "host-kernel" if shared or "boundary" in metric.name else "own-kernel"
    head: dict[str, Any] = {"value": None, "unit": metric.unit.value, "method": method, "acts_on": acts_on}
    if isinstance(item, Measurement):
        own = item.labels.get("acts_on")
        head |= {"value": item.value, "acts_on": own.replace(" ", "-") if own else acts_on}
        return {**head, "status": "ok", "detail": {k: v for k, v in item.labels.items() if k != "acts_on"}}
    match = _STATUS.fullmatch(item.reason)
    status, reason = (match[1], match[2]) if match else ("absent", item.reason)
    return {**head, "status": status, "detail": {"reason": reason}}


def document(looks: Mapping[str, Look], failed: Mapping[str, str], parts: Parts = PARTS) -> dict[str, Any]:
    """Return everything as one JSON document."""
    methods = _methods()
    runtimes = {}
    for name, one in looks.items():
        kernel = one.found.get(isolation.SHARED)
        shared = bool(kernel.value) if isinstance(kernel, Measurement) else None
        values = {key_of(m): value_json(item, methods[m], shared) for m, item in one.found.items()}
        runtimes[name] = {
            "boundary": one.boundary,
            "accelerator": one.accelerator,
            "took_ns": one.took_ns,
            "values": values,
        }
    return {
        "schema": SCHEMA,
        "host": host_facts(),
        "runtimes": runtimes,
        "failed": dict(failed),
        "headlines": _lines(looks, parts),
    }


def sides(looks: Mapping[str, Look]) -> tuple[isolation.Side, ...]:
    """Return what was found as the analysis takes it."""
    return tuple(
        isolation.Side(
            name,
            {metric: item.value for metric, item in one.found.items() if isinstance(item, Measurement)},
            {metric: item.labels for metric, item in one.found.items() if isinstance(item, Measurement)},
        )
        for name, one in looks.items()
    )


def boundaries(looks: Mapping[str, Look]) -> dict[str, str]:
    """Return what stands between each runtime's workload and the host."""
    return {name: one.boundary for name, one in looks.items()}


def _lines(looks: Mapping[str, Look], parts: Parts) -> list[str]:
    """Return what is to be read first: each runtime, ours beside Docker where both were looked at, the composite."""
    found = sides(looks)
    better = {m: item.metric.better.value for one in looks.values() for m, item in one.found.items()}
    backends = {name: one.backend for name, one in looks.items()}
    lines = headlines(found, boundaries(looks), parts)
    return [*lines[: len(found)], *isolation.peer_lines(found, backends, better), *lines[len(found) :]]


def _show(looks: Mapping[str, Look], parts: Parts) -> None:
    found = sides(looks)
    for line in _lines(looks, parts):
        click.echo(line)
    names = {name: f"{name} ({one.accelerator})" if one.accelerator else name for name, one in looks.items()}
    for table in (property_table(found, names), boundary_table(found, names)):
        click.echo("\n" + "\n".join(table))
    took = ", ".join(f"{name} {format_ns(one.took_ns)}" for name, one in looks.items() if one.took_ns)
    click.echo(f"\n* acts on a kernel of its own: no power over the host\ntook {took}" if took else "")
