"""The mount option `idmap=uids=0-1000-1#1-2000-9;gids=...`, as podman has it: owners of a bind as others see them.

Three numbers a range: the first id in the directory, the first id that the container sees, and how many. Ids of no
range are seen as nobody's (65534), and nobody can give them away.
"""

from __future__ import annotations

from typing import Any

from harness.errors import UsageError

_PREFIX = "idmap="
_HINT = "for instance: -v ./src:/src:idmap=uids=1000-0-1;gids=1000-0-1 (in quotes, because of the semicolon)"


def is_idmap(option: str) -> bool:
    """Return whether a mount option is this one, with or without ranges."""
    return option == "idmap" or option.startswith(_PREFIX)


def mappings(option: str) -> dict[str, list[dict[str, int]]]:
    """Return `uidMappings` and `gidMappings` of config.json; where one is left out, it is as the other.

    Raises: UsageError. Without ranges podman takes those of the container's user namespace, which ours have not.
    """
    if option == "idmap":
        raise UsageError("idmap: without ranges it means the user namespace's, and here is none", hint=_HINT)
    found: dict[str, Any] = {}
    for part in option.removeprefix(_PREFIX).split(";"):
        kind, equals, ranges = part.partition("=")
        if kind not in {"uids", "gids"} or not equals or kind in found:
            raise UsageError(f"idmap: {option}: {part!r} is neither uids= nor gids=", hint=_HINT)
        found[kind] = [_range(word, option) for word in ranges.split("#")]
    uids = found.get("uids", found.get("gids", []))
    return {"uidMappings": uids, "gidMappings": found.get("gids", uids)}


def _range(word: str, option: str) -> dict[str, int]:
    numbers = word.split("-")
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers) or int(numbers[2]) < 1:
        raise UsageError(f"idmap: {option}: {word!r} is not FROM-TO-COUNT", hint=_HINT)
    inside, outside, size = map(int, numbers)
    if max(inside, outside) + size > 2**32 - 1:
        raise UsageError(f"idmap: {option}: {word!r}: there are no such ids", hint=_HINT)
    return {"containerID": inside, "hostID": outside, "size": size}
