"""What moving an image to another place costs: as layers for a container, as disk, kernel and initramfs for a VM.

The other place is an empty directory on this host: bytes and the work at both ends are measured, no network is.
"""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field

from harness.errors import CapabilityError, ImageError
from harness.host.paths import data_dir
from harness.host.process import find_program
from harness.images import kernel
from harness.images.disk import disk_image
from harness.images.roots import open_tree
from harness.images.store import Store
from harness.interfaces import Arm, ArmSpec, Backend, Capability, Emit, Json, RunContext, Study, StudyArm
from harness.model.fields import Strict, Strings
from harness.model.metrics import Absent, Assume, Better, Measurement, Metric, Unit
from harness.model.milestones import READY, REQUESTED
from harness.model.spec import Limits, RootTree, WorkloadSpec
from harness.studies import _shipping
from harness.studies._shipping import Artefacts, Form, Shipment

BYTES = Metric("portability.bytes", Unit.BYTES, Better.LOWER,
               "size of all files to ship: an OCI archive; or disk, kernel and initramfs")  # fmt: skip
EXPORT = Metric("portability.export", Unit.NS, Better.LOWER, "from the store, or the VM's disk, to those files")
IMPORT = Metric("portability.import", Unit.NS, Better.LOWER,
                "from those files, in an empty place, to what can be started: an unpacked tree, or a disk")  # fmt: skip
FIRST = Metric("portability.first", Unit.NS, Better.LOWER,
               "first start there, from asking for it to the end of the command: container or VM")  # fmt: skip
NEEDS = Metric("portability.needs", Unit.COUNT, Better.LOWER,
               "what the other host must have for that start, as `harness plan` asks for it", Assume.EXACT)  # fmt: skip
BOOT = Metric("portability.bytes.boot", Unit.BYTES, Better.LOWER, "of that, the guest's kernel and initramfs")
METRICS = (BYTES, BOOT, EXPORT, IMPORT, FIRST, NEEDS)

_HINT = "harness image bootstrap busybox"
_TRIAL_NS = 120 * 10**9
T = TypeVar("T")


class Options(Strict):
    """What is shipped, and what is run first where it arrives."""

    image: str = Field(default="busybox", description="image of the local store")
    command: Strings = Field(default=("/bin/true",), min_length=1, description="the first run: a command that ends")


class ArmOptions(Strict):
    """In which form it is shipped."""

    form: Form = Field(description="oci, oci-gzip, oci-zstd; of a VM: raw, qcow2, qcow2-zstd")
    accel: Literal["auto", "kvm", "tcg"] = Field(default="auto", description="what the VM runs on where it arrives")


@dataclass
class PortabilityArm:
    """One form. `backend` starts what arrived, with `started` as its options."""

    place: Path
    shipment: Shipment
    spec: ArmSpec
    backend: Backend
    started: BaseModel
    context: RunContext
    store: Store  # open as long as the arm: it keeps the image's tree from being removed
    facts: Mapping[str, Json]
    artefacts: Artefacts | None = None
    accelerator: str | None = None

    def measure(self, trial_id: str, emit: Emit) -> None:
        box, there = self.place / trial_id / "box", self.place / trial_id / "there"
        box.mkdir(parents=True)
        there.mkdir()
        try:
            export_ns, _ = _timed(lambda: self.shipment.pack(box))
            size_bytes = sum(path.stat().st_size for path in box.iterdir())
            import_ns, tree = _timed(lambda: self.shipment.unpack(box, there))
            if self.artefacts is not None:
                _shipping.refuse_changed(self.artefacts, there)
            first_ns = self._first(trial_id, tree)
        finally:
            shutil.rmtree(self.place / trial_id)
        for metric, value in ((BYTES, size_bytes), (EXPORT, export_ns), (IMPORT, import_ns), (FIRST, first_ns)):
            emit(Measurement(metric, value))
        boot = self.artefacts.boot if self.artefacts else ()
        size = Measurement(BOOT, sum(path.stat().st_size for path in boot))
        emit(size if boot else Absent(BOOT, "a container has no kernel of its own"))
        names = [need.name for need in self.backend.needs(self.started)]
        emit(Measurement(NEEDS, len(names), {"names": ", ".join(names)}))

    def _first(self, trial_id: str, tree: RootTree) -> int:
        """Start the command on what arrived; return the ns from asking to its end. What is prepared does not count."""
        spec = ArmSpec(self.spec.runtime, tree, self.spec.workload, self.spec.limits)
        arm: Arm = self.backend.prepare(spec, self.started, self.context)
        try:
            self.accelerator = arm.accelerator
            deadline_ns = time.monotonic_ns() + _TRIAL_NS
            instance = arm.launch(trial_id)
            try:
                ready = instance.wait(READY, deadline_ns)
                return ready.at_ns - next(mark.at_ns for mark in instance.marks if mark.milestone == REQUESTED)
            finally:
                instance.stop(deadline_ns)
        finally:
            arm.close()

    def close(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)


@dataclass
class _MissingArm:
    """A form that cannot be tried here, and why."""

    reason: str
    facts: Mapping[str, Json]
    accelerator: str | None = None

    def measure(self, trial_id: str, emit: Emit) -> None:
        for metric in METRICS:
            emit(Absent(metric, self.reason))

    def close(self) -> None:
        """There is nothing to let go of."""


def _timed(work: Callable[[], T]) -> tuple[int, T]:
    started_ns = time.monotonic_ns()
    result = work()
    return time.monotonic_ns() - started_ns, result


class PortabilityStudy:
    name = "portability"
    doc = "what moving an image costs: bytes to ship, packing, unpacking in an empty place, and the first start there"
    options = Options
    arm_options = ArmOptions
    metrics = METRICS
    backends = ("builtin", "libvirt")
    disturbs: frozenset[str] = frozenset()

    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        root = os.geteuid() == 0
        try:
            Store(data_dir() / "images").find(options.image)
            image = Capability("image", available=True, reason=options.image)
        except ImageError as error:
            image = Capability("image", available=False, reason=error.message, hint=_HINT)
        return [Capability("root", root, "" if root else f"uid {os.geteuid()}", None if root else "run as root"), image]

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> StudyArm:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        is_vm = arm_options.form in _shipping.DISK_FORMS
        facts: dict[str, Json] = {"form": arm_options.form, "side": "vm" if is_vm else "container"}
        try:
            backend, started = _starter(arm_options, is_vm=is_vm)
        except CapabilityError as error:
            return _MissingArm(f"{error.message}: a VM cannot be started here" if is_vm else error.message, facts)
        store = Store(data_dir() / "images")
        tree = open_tree(store, store.find(options.image), options.image)
        spec = ArmSpec(arm, tree, WorkloadSpec(options.command, {"PATH": "/bin:/usr/bin:/sbin:/usr/sbin"}), Limits())
        place = context.work / arm
        place.mkdir(parents=True)
        made = partial(PortabilityArm, place, spec=spec, backend=backend, started=started, context=context, store=store)
        facts["image"] = tree.digest
        if not is_vm:
            return made(_shipping.image_shipment(store, options.image, arm_options.form), facts=facts)
        artefacts, accelerator = _artefacts(spec, backend, started, context)
        facts["accelerator"] = accelerator
        shipment = _shipping.disk_shipment(artefacts, tree, arm_options.form)
        return made(shipment, facts=facts, artefacts=artefacts, accelerator=accelerator)


def _starter(arm_options: ArmOptions, *, is_vm: bool) -> tuple[Backend, BaseModel]:
    """Return the backend that starts what arrives, and its options. Raises: CapabilityError for what it lacks here."""
    name = "libvirt" if is_vm else "builtin"
    try:
        backend: Backend = importlib.import_module(f"harness.backends.{name}").PLUGIN
    except ImportError as error:
        raise CapabilityError(f"backend {name}: cannot be loaded: {error}") from error
    options = backend.options.model_validate({"accel": arm_options.accel} if is_vm else {})
    if is_vm:
        find_program("qemu-img")
    for need in backend.needs(options):
        if not need.available:
            raise CapabilityError(f"{need.name}: {need.reason}", hint=need.hint)
    return backend, options


def _artefacts(
    spec: ArmSpec, backend: Backend, started: BaseModel, context: RunContext
) -> tuple[Artefacts, str | None]:
    """Return what the VM consists of, its initramfs kept beside its other files, and what it will run on here."""
    arm = backend.prepare(spec, started, context)
    try:
        initrd = context.work / spec.runtime / "initramfs"
        shutil.copyfile(context.scratch / f"{spec.runtime}.initrd", initrd)
        found = kernel.find(context.cache)
        if found is None:
            raise CapabilityError("guest kernel: not in the cache")
        disk = disk_image(spec.tree, data_dir() / "images" / "disks")
        return Artefacts(disk.path, (found.bzimage or found.vmlinux, initrd)), arm.accelerator
    finally:
        arm.close()


PLUGIN: Study = PortabilityStudy()
