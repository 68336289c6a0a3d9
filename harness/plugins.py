"""Find a backend, probe, workload or report format by name: module name = plugin name.

`names` lists without importing; `load` imports only what is asked for, so that `import libvirt` happens only when a
scenario names it. Other distributions add plugins through entry points of the groups `harness.backends`,
`harness.probes`, `harness.workloads` and `harness.report`; a name defined twice is an error.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from harness.errors import HarnessError, UsageError

Group = Literal["backends", "probes", "workloads", "report"]


@cache
def _index(group: Group) -> dict[str, str]:
    """Map plugin name -> module path."""
    package = importlib.import_module(f"harness.{group}")
    found = {
        info.name: f"harness.{group}.{info.name}"
        for info in pkgutil.iter_modules(package.__path__)
        if not info.name.startswith("_")
    }
    for point in entry_points(group=f"harness.{group}"):
        if point.name in found:
            message = f"plugin: {group}.{point.name}: defined by {found[point.name]} and by {point.value}"
            raise HarnessError(message, hint="uninstall one of the two distributions")
        found[point.name] = point.module
    return found


def names(group: Group) -> tuple[str, ...]:
    """Return the names of all plugins of a group, sorted; imports none of them."""
    return tuple(sorted(_index(group)))


def load(group: Group, name: str) -> Any:
    """Return the PLUGIN of one module. Raises UsageError for an unknown name."""
    index = _index(group)
    if name not in index:
        raise UsageError(f"{group}: {name}: unknown", hint=f"known: {', '.join(sorted(index))}")
    return importlib.import_module(index[name]).PLUGIN
