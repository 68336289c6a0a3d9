"""Decide everything of a container before anything of it exists; tell it (`--dry-run`) or go on with `life.py`."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.container import cgroup_mounts, cgroups, config, plan, seccomp
from harness.container.cgroup_layout import directories_at
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.spec import Overlay, Seccomp
from harness.engine import bundle
from harness.engine.failure import failed
from harness.engine.record import Record, Shelf, now
from harness.engine.relay import window_size
from harness.engine.request import MountWish, Request
from harness.errors import CapabilityError, UsageError
from harness.host.paths import data_dir
from harness.images import oci
from harness.images.oci import Image
from harness.images.roots import open_tree
from harness.images.store import Store


@dataclass(slots=True)
class Prepared:
    """A container that could be made: nothing of it exists yet. `store` keeps its tree while this object lives."""

    request: Request
    image: Image
    store: Store
    record: Record
    place: bundle.Place
    document: bundle.Document
    times_ns: dict[str, int] = field(default_factory=dict)
    """What each part of the work took, in the order in which it was done."""

    @property
    def overlay(self) -> Overlay:
        at = self.place.directory
        return Overlay((str(self.place.tree),), str(at / "upper"), str(at / "work"), volatile=False)


def prepare(shelf: Shelf, request: Request) -> Prepared:
    """Find the image and decide everything. Raises: UsageError, ImageError, CapabilityError."""
    if os.geteuid() != 0:
        raise CapabilityError("container: root: not root", hint="run as root: the overlay and the cgroup need it")
    began_ns = time.monotonic_ns()
    store = Store(data_dir() / "images")
    image = store.find(request.image)
    tree = open_tree(store, image, request.image)
    opened_ns = time.monotonic_ns()
    container_id = shelf.new_id()
    wishes = bundle.wishes(request, image)
    sources, nameless = _sources(shelf, wishes)
    network = _network_path(shelf, request.network)
    place = bundle.Place(container_id, shelf.path / container_id, tree.path, sources, network)
    document = bundle.document(request, image, place)
    if request.tty and (size := window_size()):
        document["process"]["consoleSize"] = {"height": size[0], "width": size[1]}
    record = Record(
        container_id, request.name, oci.full_name(request.image), image.manifest.digest, str(tree.path),
        bundle.arguments(request, image), now(), request.labels, request.network, request.tty, request.interactive,
        request.detach, request.remove, nameless, bundle.stop_signal(request, image), request.stop_timeout_s,
    )  # fmt: skip
    signal_number(record.stop_signal)
    times = {"find and check the image": opened_ns - began_ns, "decide": time.monotonic_ns() - opened_ns}
    return Prepared(request, image, store, record, place, document, times)


def _sources(shelf: Shelf, wishes: tuple[MountWish, ...]) -> tuple[dict[int, Path], tuple[str, ...]]:
    """Return where each bind and volume is, and the names that volumes without one get. Raises: UsageError."""
    sources: dict[int, Path] = {}
    nameless = []
    for number, wish in enumerate(wishes):
        if wish.kind == "bind":
            if not Path(wish.source).exists():
                hint = f"mkdir -p {wish.source}; or a volume: a name without a slash"
                raise UsageError(f"-v: {wish.source}: no such file or directory on the host", hint=hint)
            sources[number] = Path(wish.source)
        elif wish.kind == "volume":
            name = wish.source or shelf.new_id() + shelf.new_id()
            nameless += [] if wish.source else [name]
            sources[number] = shelf.volumes.path / name
    return sources, tuple(nameless)


def _network_path(shelf: Shelf, network: str) -> str:
    kind, _, name = network.partition(":")
    if kind != "container":
        return ""
    sight = shelf.look(shelf.home(shelf.find(name)).read())
    if not sight.pid:
        raise UsageError(
            f"--network: {network}: it is {sight.status}", hint="only one that runs has a network to share"
        )
    return f"/proc/{sight.pid}/ns/net"


def describe(prepared: Prepared) -> str:
    """Return what would be done, in order: directories, the cgroup, and the numbered steps of the launcher.

    Raises: ContainerFailed for what could not be made.
    """
    place, layout = prepared.place, cgroups.detect()
    try:
        read = config.read(prepared.document, str(place.directory), f"{place.directory}/workspace")
        groups = directories_at(layout.full(), read.cgroups_path or "")
        process = read.container.process
        if read.seccomp is not None:
            process = replace(process, seccomp=Seccomp(b"", seccomp.flags(read.seccomp)))
        spec = cgroup_mounts.expand(replace(read.container, root=prepared.overlay, process=process), layout, groups)
        joins = plan.Joins(sum(tree.version == 1 for tree in layout.full()), layout.unified is not None)
        launch = plan.Launch(joins=joins, waits=True, seccomp=read.seccomp is not None, keyring=f"_ses.{place.id}",
                             dies_with_parent=not prepared.request.detach)  # fmt: skip
        steps = plan.container_steps(spec, launch)
    except ContainerError as error:
        raise failed(error, prepared.request.image) from error
    made = [str(place.directory / name) for name in ("upper", "work", "log")]
    made += [str(path) for path in prepared.place.sources.values() if not path.exists()]
    lines = [
        f"image     {prepared.record.image} {prepared.record.digest}", f"tree      {place.tree}",
        *(f"make      {path}" for path in made), *(f"cgroup    {path}" for path in groups),
        f"limits    {prepared.document['linux']['resources']}", f"run       {list(prepared.record.command)}", "",
    ]  # fmt: skip
    return "\n".join(lines) + plan.describe(steps)


def signal_number(word: str) -> int:
    """Return the number of `9`, `KILL` or `SIGKILL`. Raises: UsageError."""
    name = word.upper()
    if word.isascii() and word.isdigit() and 1 <= int(word) <= 64:
        return int(word)
    try:
        return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except KeyError:
        raise UsageError(f"signal: {word}: unknown", hint="such as TERM, SIGINT or 9") from None
