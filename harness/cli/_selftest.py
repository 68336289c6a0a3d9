"""`harness doctor --self-test`: known times and a known amount of memory, found again in each kind of runtime."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from harness import plugins
from harness.cli._output import note, print_json
from harness.cli._subject import backend_needs
from harness.errors import RunFailed, TrialError
from harness.host.paths import cache_dir, data_dir
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, Backend, RunContext
from harness.model.metrics import Unit
from harness.model.spec import Limits, RootTree
from harness.model.units import format_bytes, format_ns
from harness.trials import ownership, selftest

RUNTIMES = ("process", "builtin", "libvirt")
_LIMITS = Limits()
_FORMATS = {Unit.NS: format_ns, Unit.BYTES: format_bytes}

Found = Mapping[str, Sequence[selftest.Check] | str]
"""By runtime: its checks, or why there are none."""


def self_test(*, as_json: bool) -> None:
    """Test each runtime that works here and show what was found. Raises: RunFailed where something was not."""
    found = _found()
    if as_json:
        runtimes = {name: _json(checks) for name, checks in found.items()}
        print_json({"schema": "harness.self-test/1", "runtimes": runtimes})
    else:
        for name, checks in found.items():
            _show(name, checks)
    wrong = [name for name, checks in found.items() if not isinstance(checks, str) and not all(c.holds for c in checks)]
    if wrong:
        hint = "on a busy host: try again when it is quiet; else please report it as a bug"
        raise RunFailed(f"self-test: {', '.join(wrong)}: not all of it was found again", hint=hint)


def _found() -> Found:
    found: dict[str, Sequence[selftest.Check] | str] = {}
    with _ground() as (context, tree):
        for name in RUNTIMES:
            note(f"self-test: {name}")
            found[name] = _checked(name, tree, context)
    return found


def _checked(name: str, tree: RootTree, context: RunContext) -> Sequence[selftest.Check] | str:
    backend = plugins.try_load("backends", name)
    if isinstance(backend, plugins.Unavailable):
        return backend.reason
    options = backend.options()
    missing = [f"{need.name}: {need.reason}" for need in backend_needs(name, options) if not need.available]
    if missing:
        return "; ".join(missing)
    return _run(backend, options, ArmSpec(name, tree, selftest.WORKLOAD, _LIMITS), context)


def _run(backend: Backend, options: Any, spec: ArmSpec, context: RunContext) -> Sequence[selftest.Check] | str:
    arm = backend.prepare(spec, options, context)
    try:
        return selftest.check(arm, plugins.load("probes", "memory"))
    except TrialError as error:
        return error.message
    finally:
        arm.close()


@contextlib.contextmanager
def _ground() -> Iterator[tuple[RunContext, RootTree]]:
    """Yield a run's context and an image with nothing in it; all that was made for it goes."""
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "self-test")
    try:
        empty = scratch / "image"
        for name in ("dev", "proc", "sys", "tmp"):
            (empty / name).mkdir(parents=True)
        store = Store(data_dir() / "images")
        tree = resolve_image(ImageRef("rootfs", str(empty)), Path(), store)
        yield RunContext("self-test", token, scratch, cache_dir(), note), tree
    finally:
        backends = [plugins.try_load("backends", name) for name in RUNTIMES]
        known = [backend for backend in backends if not isinstance(backend, plugins.Unavailable)]
        ownership.reap(token, known, dry_run=False)


def _show(name: str, checks: Sequence[selftest.Check] | str) -> None:
    click.echo(f"{name}" if not isinstance(checks, str) else f"{name}: not tested: {checks}")
    for check in () if isinstance(checks, str) else checks:
        unit = _FORMATS[check.unit]
        found = check.reason if check.found is None else f"found {unit(check.found)}"
        click.echo(f"  {'ok   ' if check.holds else 'WRONG'}  {check.what}: {unit(check.known)}, {found}"
                   f" (allowed: {unit(check.allowed)} off)")  # fmt: skip


def _json(checks: Sequence[selftest.Check] | str) -> dict[str, Any]:
    if isinstance(checks, str):
        return {"tested": False, "reason": checks}
    rows = [
        {"what": c.what, "unit": c.unit.value, "known": c.known, "found": c.found, "allowed": c.allowed,
         "holds": c.holds, "reason": c.reason or None}
        for c in checks
    ]  # fmt: skip
    return {"tested": True, "checks": rows}
