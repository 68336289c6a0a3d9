"""What runs left at the host's own Docker: containers by their label, images by their name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from harness.backends._docker_api import Api
from harness.errors import BackendError

HOST_SOCKET = Path("/var/run/docker.sock")
LABEL = "harness.token"
_IMAGE = re.compile(r"harness-([0-9a-f]{8}):.+")


def repository(token: str) -> str:
    """Return the name of a run's images at an engine."""
    return f"harness-{token}"


@dataclass(frozen=True, slots=True)
class Left:
    """One thing: `path` is where Docker's API has it."""

    token: str
    path: str
    line: str


def find(socket: Path = HOST_SOCKET) -> list[Left]:
    """Return what of runs, living or dead, is at the host's daemon; nothing where there is no daemon."""
    if os.geteuid() != 0 or not socket.is_socket():
        return []
    with closing(Api(socket)) as api:
        try:
            return [*_containers(api), *_images(api)]
        except BackendError:
            return []


def _containers(api: Api) -> Iterator[Left]:
    query = {"all": "1", "filters": json.dumps({"label": [LABEL]})}
    for entry in api.call("GET", "/containers/json", query) or []:
        identity = entry["Id"]
        line = f"container: {identity[:12]} of the host's docker"
        yield Left(entry["Labels"][LABEL], f"/containers/{identity}", line)


def _images(api: Api) -> Iterator[Left]:
    for entry in api.call("GET", "/images/json") or []:
        for name in entry.get("RepoTags") or []:
            match = _IMAGE.fullmatch(name)
            if match:
                yield Left(match[1], f"/images/{name}", f"image: {name} of the host's docker")


def remove(things: Sequence[Left], socket: Path = HOST_SOCKET) -> None:
    """Raises: BackendError for what the daemon does not remove."""
    with closing(Api(socket)) as api:
        for thing in things:
            api.call("DELETE", thing.path, {"force": "1", "v": "1"})
