"""Find a backend, probe, workload, study or report format by name: module name = plugin name, `a_b.py` is `a-b`.

`names` lists without importing; `load` imports only what is asked for, so that `import libvirt` happens only when a
scenario names it. Other distributions add plugins through entry points of the groups `harness.backends`,
`harness.probes`, `harness.workloads`, `harness.studies` and `harness.report`; a name defined twice is an error.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

Group = Literal["backends", "probes", "workloads", "studies", "report"]


@cache
def _index(group: Group) -> dict[str, str]:
    """Map plugin name -> module path."""
    from importlib.metadata import entry_points  # noqa: PLC0415  (30 ms that `--help` need not pay)

    package = importlib.import_module(f"harness.{group}")
    found = {
        info.name.replace("_", "-"): f"harness.{group}.{info.name}"
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


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A plugin whose module cannot be imported here, and why: most often a library that is not installed."""

    name: str
    reason: str


def try_load(group: Group, name: str) -> Any:
    """Return the PLUGIN of one module, or Unavailable where its import fails. Raises UsageError for an unknown name."""
    try:
        return load(group, name)
    except ImportError as error:
        return Unavailable(name, str(error))


class OptionModels(Mapping[str, "type[BaseModel] | None"]):
    """The options model of every plugin of a group: None where the plugin cannot be loaded here.

    Knows all names at once, but imports a plugin only when its model is asked for. `of` names the plugins' attribute:
    a study has one model for itself and one for its arms.
    """

    def __init__(
        self,
        group: Literal["backends", "workloads", "studies"],
        of: Literal["options", "arm_options"] = "options",
    ) -> None:
        self._group = group
        self._of = of

    def __getitem__(self, name: str) -> type[BaseModel] | None:
        if name not in names(self._group):
            raise KeyError(name)
        plugin = try_load(self._group, name)
        return None if isinstance(plugin, Unavailable) else getattr(plugin, self._of)

    def __contains__(self, name: object) -> bool:
        return name in names(self._group)

    def __iter__(self) -> Iterator[str]:
        return iter(names(self._group))

    def __len__(self) -> int:
        return len(names(self._group))


class MetricNames(Mapping[str, tuple[str, ...]]):
    """The names of the metrics of every plugin of a group; one that cannot be loaded here is not in it."""

    def __init__(self, group: Literal["studies", "workloads", "probes"]) -> None:
        self._group: Literal["studies", "workloads", "probes"] = group

    def __getitem__(self, name: str) -> tuple[str, ...]:
        plugin = try_load(self._group, name) if name in names(self._group) else None
        if plugin is None or isinstance(plugin, Unavailable):
            raise KeyError(name)
        return tuple(metric.name for metric in plugin.metrics)

    def __iter__(self) -> Iterator[str]:
        return (name for name in names(self._group) if not isinstance(try_load(self._group, name), Unavailable))

    def __len__(self) -> int:
        return sum(1 for _ in self)
