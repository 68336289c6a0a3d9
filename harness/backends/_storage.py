"""Which storage driver makes the roots of an arm's containers, over how many layers: a scenario's option `storage`.

Preparing a writable layer and mounting it is part of a start, as it is in any engine. What the agent attests is a
read-only mount of the same layers, made once by the same driver.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.container.frozen import replace
from harness.container.spec import ContainerSpec, Detached, Overlay
from harness.errors import BackendError, CapabilityError
from harness.host.paths import data_dir
from harness.images import layer_disks
from harness.images.stack import open_stack
from harness.images.storage import detached, kinds, padding
from harness.images.storage.overlay import make_writable
from harness.images.store import Store
from harness.interfaces import ArmSpec, Capability, Json, RunContext

DriverName = Literal["overlay", "fuse-overlayfs", "vfs", "btrfs", "erofs", "devicemapper", "aufs"]
_VIEW = "view"


class Storage(BaseModel):
    """The long form. `depth` read-only layers lie beneath the writable one: the image's, and what changes nothing.

    `layers` says what of the image is at the bottom: its merged `tree`, one layer, or the `image`'s own layers.
    `writable` is where the writable layer of overlay is: in memory (a tmpfs of the container's own) unless it says
    `disk`, as every other driver has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: DriverName = "overlay"
    depth: int | None = Field(default=None, ge=1, le=detached.OVERLAY_MAX_LAYERS)
    layers: Literal["tree", "image"] = "tree"
    writable: Literal["memory", "disk"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Storage:
        if self.writable == "memory" and self.driver != "overlay":
            raise ValueError(f"writable: memory is for overlay alone; {self.driver} writes to the disk")
        return self

    @property
    def in_memory(self) -> bool:
        return self.driver == "overlay" and self.writable != "disk"


def _long_form(value: object) -> object:
    """`storage: btrfs` is `storage: {driver: btrfs}`."""
    return {"driver": value} if isinstance(value, str) else value


StorageOption = Annotated[Storage, BeforeValidator(_long_form, json_schema_input_type=DriverName | Storage)]


def needs(storage: Storage) -> list[Capability]:
    """Return what the driver needs; the overlay of every container is among the backend's own needs."""
    if storage.in_memory:
        return []
    found = kinds.available(storage.driver, data_dir())
    return [dataclasses.replace(found, name=f"storage {storage.driver}")]


@dataclass(frozen=True, slots=True)
class _Layers:
    """The layers of an arm, lowest first."""

    directories: tuple[Path, ...]

    @property
    def topmost_first(self) -> tuple[Path, ...]:
        return self.directories[::-1]


@dataclass(frozen=True, slots=True)
class Root:
    """One container's: the mounts that the launcher is given, and the pids of processes of the host that serve it."""

    fds: tuple[int, ...]
    helpers: tuple[int, ...] = ()


class Roots:
    """Makes the roots of an arm's containers. What it puts on the disk is in the run's own directory."""

    def __init__(self, spec: ArmSpec, storage: Storage, context: RunContext) -> None:
        self._storage = storage
        self._base, self._token = data_dir(), context.token
        self._fds: tuple[int, ...] = ()
        self._facts: Mapping[str, Json] = {}
        with ExitStack() as undo:
            undo.callback(kinds.release, self._base, self._token)
            self._layers = self._stack(spec, undo)
            if storage.in_memory and self._layers.directories != (spec.tree.path,):
                self._view_overlay(spec.runtime, undo)
            elif not storage.in_memory:
                self._open_driver(spec.runtime, undo)
            self._undo = undo.pop_all()

    def _stack(self, spec: ArmSpec, undo: ExitStack) -> _Layers:
        own = self._own_layers(spec, undo)
        count = (self._storage.depth or len(own)) - len(own)
        if count < 0:
            raise CapabilityError(f"{spec.runtime}: depth: {self._storage.depth}: the image has {len(own)} layers")
        if count == 0:
            return _Layers(own)
        place = kinds.home(self._base, self._token) / f"{spec.runtime}-layers"
        undo.callback(shutil.rmtree, place)
        return _Layers((*own, *padding.pad(spec.tree.path, count, place)))

    def _own_layers(self, spec: ArmSpec, undo: ExitStack) -> tuple[Path, ...]:
        """The tree alone, or the layers that it was merged from, which its store keeps as long as we hold it."""
        if self._storage.layers == "tree":
            return (spec.tree.path,)
        store = Store(spec.tree.path.parents[1])
        undo.callback(lambda: store)
        try:
            image = layer_disks.image_of(store, spec.tree)
        except CapabilityError as error:
            raise CapabilityError(
                f"{spec.runtime}: layers: image: {spec.tree.path}: no image of the store is this tree",
                hint="layers: tree takes any tree",
            ) from error
        return open_stack(store, image).directories

    def _view_overlay(self, runtime: str, undo: ExitStack) -> None:
        home = kinds.home(self._base, self._token) / f"{runtime}-{_VIEW}"
        home.parent.mkdir(parents=True, exist_ok=True)
        make_writable(home, self._layers.directories[-1])
        undo.callback(shutil.rmtree, home)
        fd = detached.overlay(self._layers.topmost_first, home, readonly=True)
        undo.callback(os.close, fd)
        self._fds = (fd,)

    def _open_driver(self, runtime: str, undo: ExitStack) -> None:
        driver = kinds.open_driver(self._storage.driver, self._base, self._token, runtime)
        undo.callback(driver.close)
        parent = None
        for number, directory in enumerate(self._layers.directories):
            driver.add(f"layer-{number}", parent, directory)
            parent = f"layer-{number}"
        assert parent is not None
        self._top, self._driver, self._facts = parent, driver, driver.facts
        driver.prepare(_VIEW, parent)
        undo.callback(driver.remove, _VIEW)
        view = driver.mount(_VIEW, readonly=True)
        undo.callback(os.close, view.fd)
        self._fds = (view.fd,)

    def fill(self, container: ContainerSpec, first_fd: int) -> ContainerSpec:
        """Return the container with this storage; from `first_fd` on the launcher has the mounts that it is given."""
        if not self._fds:
            return container
        lowers = tuple(map(str, self._layers.topmost_first))
        root = Overlay(lowers) if self._storage.in_memory else Detached(first_fd + 1)
        return replace(container, root=root, attested=Detached(first_fd))

    @contextmanager
    def prepared(self, trial_id: str, undo: ExitStack) -> Iterator[Root]:
        """Yield the root of a new container; `undo` gets what takes its writable layer away again.

        Our own hold on the mount ends with the block: by then the container has it. Raises: BackendError.
        """
        if self._storage.in_memory:
            yield Root(self._fds)
            return
        with _translated(self._storage.driver):
            self._driver.prepare(trial_id, self._top)
            undo.callback(self.drop, trial_id)
            mounted = self._driver.mount(trial_id)
        try:
            yield Root((*self._fds, mounted.fd), mounted.helpers)
        finally:
            os.close(mounted.fd)

    def drop(self, trial_id: str) -> None:
        """Remove the writable layer of a container that is gone. Raises: BackendError."""
        if not self._storage.in_memory:
            with _translated(self._storage.driver):
                self._driver.remove(trial_id)

    def facts(self) -> dict[str, Json]:
        where = "memory" if self._storage.in_memory else "disk"
        depth = len(self._layers.directories)
        return {"driver": self._storage.driver, "depth": depth, "layers": self._storage.layers, "writable": where,
                **self._facts}  # fmt: skip

    def close(self) -> None:
        self._undo.close()


@contextmanager
def _translated(driver: str) -> Iterator[None]:
    try:
        yield
    except (CapabilityError, OSError) as error:
        raise BackendError(f"storage: {driver}: {error}") from error
