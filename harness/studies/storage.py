"""What storage drivers cost, operation by operation: a writable layer over N layers, made, written to and removed.

An arm is a driver on this host or, `in: guest`, the same code in a VM with a distribution's kernel, for drivers that
the host's kernel has not. Compare a guest's arms with each other alone: emulated or not, it is another machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, Field

from harness.host.paths import data_dir
from harness.images.storage import detached, kinds
from harness.images.storage.measuring import SIZES_BYTES, SMALL_FILES, Bench
from harness.interfaces import Capability, Emit, Json, RunContext, Study, StudyArm
from harness.model.fields import Strict
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.studies import _storage_guest

DriverName = Literal["overlay", "fuse-overlayfs", "vfs", "btrfs", "erofs", "devicemapper", "aufs"]
_CALL_NS = 600 * 10**9


def _time(name: str, doc: str) -> Metric:
    return Metric(f"driver.{name}", Unit.NS, Better.LOWER, doc)


_SIZES = {"4k": "4 KiB", "1m": "1 MiB", "64m": "64 MiB"}
METRICS = (
    _time("prepare", "the driver makes a writable layer over the topmost layer"),
    _time("mount", "the driver mounts it; a detached mount, ready for a container"),
    _time("lookup", f"stat of {SMALL_FILES} files of the lowest layer, the first time in this mount"),
    _time("first_write", "create a file of 1 KiB, write and close it"),
    *(_time(f"copy_up.{name}", f"open a file of {_SIZES[name]} of the lowest layer for writing, write a byte, close "
            "it; not until it is on the disk") for name in SIZES_BYTES),
    _time("create", f"create {SMALL_FILES} files of 1 KiB in one new directory"),
    _time("stat", "stat each of them"),
    _time("unlink", "remove each of them"),
    Metric("driver.used", Unit.BYTES, Better.LOWER, "disk that the writable layer takes for itself after all that"),
    _time("unmount", "let go of the mount, all data written before"),
    _time("remove", "the driver removes the writable layer"),
)  # fmt: skip


class Options(Strict):
    """What all arms share."""

    depth: int = Field(default=1, ge=1, le=detached.OVERLAY_MAX_LAYERS, description="read-only layers of every arm")


class ArmOptions(Strict):
    """One driver, and where it runs."""

    driver: DriverName = Field(description="overlay, fuse-overlayfs, vfs, btrfs, erofs, devicemapper or aufs")
    where: Literal["host", "guest"] = Field(default="host", alias="in", description="on this host, or in a guest")
    depth: int | None = Field(
        default=None, ge=1, le=detached.OVERLAY_MAX_LAYERS, description="its own number of layers"
    )


@dataclass
class StorageArm:
    """One driver at work. `trial` returns what one writable layer cost."""

    facts: Mapping[str, Json]
    trial: Callable[[str], Mapping[str, int]]
    end: Callable[[], None]
    accelerator: str | None = None

    def measure(self, trial_id: str, emit: Emit) -> None:
        took = self.trial(trial_id)
        for metric in METRICS:
            emit(Measurement(metric, took[metric.name.removeprefix("driver.")]))

    def close(self) -> None:
        self.end()


@dataclass
class UnavailableArm:
    """A driver that this kernel lacks: every metric Absent, with the reason."""

    facts: Mapping[str, Json]
    reason: str
    accelerator: str | None = None

    def measure(self, trial_id: str, emit: Emit) -> None:
        for metric in METRICS:
            emit(Absent(metric, self.reason))

    def close(self) -> None:
        pass


@dataclass
class StorageStudy:
    name: str = "storage"
    doc: str = "storage drivers, operation by operation: prepare, mount, copy-up, metadata, remove; here or in a guest"
    options: type[BaseModel] = Options
    arm_options: type[BaseModel] = ArmOptions
    metrics: tuple[Metric, ...] = METRICS
    backends: tuple[str, ...] = ("builtin", "libvirt")  # the first finds what drivers leave
    disturbs: frozenset[str] = frozenset()
    _guests: dict[str, tuple[_storage_guest.Guest, set[str]]] = field(default_factory=dict)

    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        assert isinstance(arm_options, ArmOptions)
        if arm_options.where == "guest":
            return _storage_guest.needs()
        root = os.geteuid() == 0
        return [Capability("root", root, "" if root else f"uid {os.geteuid()}", None if root else "run as root")]

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> StudyArm:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        depth = arm_options.depth or options.depth
        facts: dict[str, Json] = {"driver": arm_options.driver, "in": arm_options.where, "depth": depth}
        if arm_options.where == "guest":
            return self._in_guest(arm, arm_options.driver, facts, context)
        found = kinds.available(arm_options.driver, data_dir())
        if not found.available:
            return UnavailableArm(facts, found.reason)
        bench = Bench(arm_options.driver, depth, data_dir(), context.token, arm)
        return StorageArm({**facts, **_told(bench.facts)}, bench.trial, bench.close)

    def _in_guest(self, arm: str, driver: str, facts: dict[str, Json], context: RunContext) -> StudyArm:
        if context.token not in self._guests:
            context.say("booting a guest for the drivers that run there")
            self._guests[context.token] = (_storage_guest.Guest(context), set())
        guest, users = self._guests[context.token]
        users.add(arm)

        def leave() -> None:
            users.discard(arm)
            if not users:
                del self._guests[context.token]
                guest.close()

        about = guest.ask(_CALL_NS, call="about", driver=driver)
        assert isinstance(about, dict)
        facts["kernel"] = about["kernel"]
        if not about["available"]:
            leave()
            return UnavailableArm(facts, f"in the guest: {about['reason']}", guest.accelerator)
        told = guest.ask(_CALL_NS, call="open", arm=arm, driver=driver, depth=facts["depth"])
        assert isinstance(told, dict)

        def trial(trial_id: str) -> Mapping[str, int]:
            took = guest.ask(_CALL_NS, call="trial", arm=arm, key=trial_id)
            assert isinstance(took, dict)
            return {name: value for name, value in took.items() if isinstance(value, int)}

        return StorageArm({**facts, **_told(told)}, trial, leave, guest.accelerator)


def _told(facts: Mapping[str, Json]) -> dict[str, Json]:
    """What a driver says of itself, without how long its layers took to make: a resumed run finds the rest the same."""
    return {name: value for name, value in facts.items() if name != "made_ns"}


PLUGIN: Study = StorageStudy()
