"""Volumes of containers: which uses which, and what becomes of them when a container is made or gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.engine import bundle
from harness.engine.prepare import Prepared
from harness.engine.record import Shelf
from harness.errors import UsageError
from harness.images.volumes import Volume


@dataclass(frozen=True, slots=True)
class User:
    """A container that mounts a volume, by name and by the place where it is mounted."""

    container: str
    target: str


def prepare(shelf: Shelf, prepared: Prepared) -> None:
    """Make the volumes of a container, and fill those that are empty. Whoever calls holds the lock of the shelf.

    Raises: CapabilityError, CommandError.
    """
    for number, wish in enumerate(bundle.wishes(prepared.request, prepared.image)):
        if wish.kind == "volume":
            name = prepared.place.sources[number].name
            shelf.volumes.create(name, anonymous=not wish.source)
            if "nocopy" not in wish.options:
                shelf.volumes.fill(name, prepared.place.tree, wish.target)


def users(shelf: Shelf) -> Mapping[str, list[User]]:
    """Return who uses each volume that is used: containers that exist, whether they run or not.

    What a container mounts is read from its config.json. One whose record is damaged counts by its id.
    """
    found: dict[str, list[User]] = {}
    names = {record.id: record.name for record in shelf.records()}
    for container_id in shelf.ids():
        for source, target in _binds(shelf.path / container_id / "config.json"):
            if source.parent == shelf.volumes.path:
                found.setdefault(source.name, []).append(User(names.get(container_id, container_id), target))
    return found


def _binds(config: Path) -> list[tuple[Path, str]]:
    try:
        mounts = json.loads(config.read_text()).get("mounts", [])
        return [(Path(mount["source"]), mount["destination"]) for mount in mounts if mount["type"] == "bind"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def remove(shelf: Shelf, name: str) -> None:
    """Remove a volume that no container uses. Raises: UsageError for one that is used or not there."""
    with shelf.changing():
        shelf.volumes.find(name)
        used = users(shelf).get(name, [])
        if used:
            who = ", ".join(dict.fromkeys(user.container for user in used))
            hint = f"harness container rm {used[0].container} first, also where it does not run any more"
            raise UsageError(f"volume: {name}: is used by {who}", hint=hint)
        shelf.volumes.remove(name)


def prune(shelf: Shelf, *, named: bool) -> list[Volume]:
    """Remove all volumes that no container uses, without `named` those alone that have no name; return them."""
    with shelf.changing():
        used = users(shelf)
        unused = [volume for volume in shelf.volumes.all() if volume.name not in used]
        chosen = [volume for volume in unused if named or volume.anonymous]
        for volume in chosen:
            shelf.volumes.remove(volume.name)
    return chosen
