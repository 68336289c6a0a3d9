"""What sharing layers saves: N images on one base as layers, as flattened images, and as disks of VMs.

Every trial makes the whole set anew in an empty place, so that what the disk then holds is this set and nothing else.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from harness.errors import CapabilityError
from harness.host.process import find_program
from harness.images.oci import Image
from harness.images.stack import open_stack
from harness.images.storage import detached
from harness.images.storage.usage import allocated_bytes
from harness.images.store import Store
from harness.interfaces import Capability, Emit, Json, RunContext, Study
from harness.model.fields import SizeBytes, Strict
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.studies import _image_sets as sets
from harness.studies import _pagecache
from harness.studies._image_sets import Sources

Form = Literal["layers", "flattened", "raw", "qcow2", "erofs-layers"]

DISK = Metric("layers.disk", Unit.BYTES, Better.LOWER,
              "bytes allocated on disk (st_blocks, each file once) when all images are there: stored layers and their "
              "unpacked files, or the disks of as many VMs")  # fmt: skip
USED = Metric(
    "layers.disk.used",
    Unit.BYTES,
    Better.LOWER,
    "of that, what instances run from: the unpacked files without the packed layers they came from, or the disks",
)
MARGINAL = Metric("layers.disk.marginal", Unit.BYTES, Better.LOWER, "what each image after the first added to that")
SAVED = Metric("layers.saved", Unit.RATIO, Better.HIGHER,
               "1 - disk / (images x disk of the first alone): the share that is not stored again")  # fmt: skip
TOOK = Metric("layers.make", Unit.NS, Better.LOWER, "from nothing to all images stored and unpacked, or disks made")
CACHE_FIRST = Metric("layers.cache.first", Unit.BYTES, Better.LOWER,
                     "page cache that reading the base's files in an instance of the first image added")  # fmt: skip
CACHE_SECOND = Metric("layers.cache.second", Unit.BYTES, Better.LOWER,
                      "the same for an instance of the second image, read after: what it does not share")  # fmt: skip
READ_SECOND = Metric("layers.read.second", Unit.NS, Better.LOWER, "how long that second reading took")
METRICS = (DISK, USED, MARGINAL, SAVED, TOOK, CACHE_FIRST, CACHE_SECOND, READ_SECOND)

_CACHE = (CACHE_FIRST, CACHE_SECOND, READ_SECOND)
_GUEST_CACHE = "each guest caches its disk in its own memory, shared with nobody: memory.guest_ram of a run of VMs"
_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "layers": (), "flattened": (), "raw": ("mkfs.erofs",), "erofs-layers": ("mkfs.erofs",),
    "qcow2": ("qemu-img", "qemu-io", "mke2fs", "debugfs"),
}  # fmt: skip


class Options(Strict):
    """The set: how many images, and how large their common base and each one's own files are."""

    images: int = Field(default=8, ge=2, le=200, description="images on one base")
    base_bytes: SizeBytes = Field(default=16 << 20, alias="base", description="size of the base's files")
    own_bytes: SizeBytes = Field(default=2 << 20, alias="own", description="size of the files that each image adds")


class ArmOptions(Strict):
    """One way to keep them."""

    form: Form = Field(description="layers, flattened; of VMs: raw, qcow2, erofs-layers")


@dataclass
class LayersArm:
    """One form. Trials work below `place`, the sources are made once."""

    form: Form
    place: Path
    sources: Sources
    facts: Mapping[str, Json]
    missing: str | None = None
    accelerator: str | None = None
    _images: list[Image] = field(default_factory=list)

    def measure(self, trial_id: str, emit: Emit) -> None:
        if self.missing is not None:
            for metric in METRICS:
                emit(Absent(metric, self.missing))
            return
        trial = self.place / trial_id
        trial.mkdir(parents=True)
        try:
            self._measure(trial, emit)
        finally:
            shutil.rmtree(trial)

    def _measure(self, trial: Path, emit: Emit) -> None:
        started_ns = time.monotonic_ns()
        add, store = self._adder(trial)
        add(0)
        first_bytes = allocated_bytes(trial)
        count = len(self.sources.own)
        for number in range(1, count):
            add(number)
        took_ns = time.monotonic_ns() - started_ns
        disk_bytes = allocated_bytes(trial)
        emit(Measurement(DISK, disk_bytes))
        emit(Measurement(USED, disk_bytes - (allocated_bytes(store.path / "blobs") if store else 0)))
        emit(Measurement(MARGINAL, (disk_bytes - first_bytes) // (count - 1)))
        emit(Measurement(SAVED, round(1 - disk_bytes / (count * first_bytes), 4)))
        emit(Measurement(TOOK, took_ns))
        if store is None:
            for metric in _CACHE:
                emit(Absent(metric, _GUEST_CACHE))
        else:
            self._caches(store, emit)

    def _adder(self, trial: Path) -> tuple[Callable[[int], object], Store | None]:
        """Return what adds the image of a number to the set, and the store that it goes to."""
        self._images = []
        if self.form in ("layers", "flattened"):
            store = Store(trial / "store")
            return partial(self._add_image, store), store
        if self.form == "qcow2":
            base = sets.make_base_disk(trial, self.sources.base, _size_of(self.sources.own[0]))
            return lambda number: sets.add_overlay_disk(trial, self.sources, number, base), None
        make = sets.add_raw_disk if self.form == "raw" else sets.add_layered_disk
        return lambda number: make(trial, self.sources, number), None

    def _add_image(self, store: Store, number: int) -> None:
        self._images.append(sets.add_image(store, self.sources, number, shared=self.form == "layers"))

    def _caches(self, store: Store, emit: Emit) -> None:
        """Read the base's files through the root of an instance of each of two images."""
        paths = sorted(
            str(path.relative_to(self.sources.base)) for path in self.sources.base.rglob("*") if path.is_file()
        )
        stacks = [open_stack(store, image).directories for image in self._images[:2]]
        for lowest in {stack[0] for stack in stacks}:
            with detached.opened([lowest]) as (fd,):
                _pagecache.evict(paths, fd)
        readings = []
        for number, stack in enumerate(stacks):
            writable = store.path.parent / f"writable-{number}"
            for name in ("upper", "work"):
                (writable / name).mkdir(parents=True)
            root = detached.overlay([*reversed(stack)], writable)
            try:
                started_ns = time.monotonic_ns()
                _size, added_bytes = _pagecache.read_all(paths, root)
                readings.append((added_bytes, time.monotonic_ns() - started_ns))
            finally:
                os.close(root)
        emit(Measurement(CACHE_FIRST, readings[0][0]))
        emit(Measurement(CACHE_SECOND, readings[1][0]))
        emit(Measurement(READ_SECOND, readings[1][1]))

    def close(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)


def _size_of(tree: Path) -> int:
    return sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())


class LayersStudy:
    name = "layers"
    doc = "disk and page cache of many images on one base: layers, flattened images, disks of VMs"
    options = Options
    arm_options = ArmOptions
    metrics = METRICS
    backends: tuple[str, ...] = ()
    disturbs: frozenset[str] = frozenset()

    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        root = os.geteuid() == 0
        return [Capability("root", root, "" if root else f"uid {os.geteuid()}", None if root else "run as root")]

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> LayersArm:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        place = context.work / arm
        place.mkdir(parents=True)
        missing = _missing(arm_options.form)
        count = options.images if missing is None else 0
        sources = sets.make_sources(place / "sources", options.base_bytes, options.own_bytes, count)
        facts: dict[str, Json] = {
            "form": arm_options.form,
            "side": "container" if arm_options.form in ("layers", "flattened") else "vm",
            "images": options.images,
        }
        return LayersArm(arm_options.form, place, sources, facts, missing)


def _missing(form: Form) -> str | None:
    """Return which program a form lacks here, None where it lacks none."""
    try:
        for program in _PROGRAMS[form]:
            find_program(program)
    except CapabilityError as error:
        return error.message
    return None


PLUGIN: Study = LayersStudy()
