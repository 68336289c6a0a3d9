"""What the build cache saves: the same Containerfile built from nothing, unchanged, and with one changed line.

Where the line stands is the point: from it on, every step is made anew.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from harness.errors import CapabilityError, CommandError, ImageError
from harness.host.paths import data_dir
from harness.images.interchange import export_image, import_image
from harness.images.oci import Image
from harness.images.store import Store
from harness.interfaces import Capability, Emit, Json, RunContext, Study
from harness.model.fields import SizeBytes, Strict
from harness.model.metrics import Absent, Assume, Better, Measurement, Metric, Unit
from harness.studies._builders import Builder, Built, Engine, base_name, open_builder

Change = Literal["cold", "none", "top", "middle", "end"]

TOOK = Metric("build.duration", Unit.NS, Better.LOWER, "from starting the engine's build command to its end")
CACHED = Metric("build.steps.cached", Unit.COUNT, Better.HIGHER,
                "steps of the Containerfile that change files and were taken from the cache", Assume.EXACT)  # fmt: skip
RAN = Metric("build.steps.run", Unit.COUNT, Better.LOWER, "such steps that were carried out", Assume.EXACT)
WRITTEN = Metric("build.bytes.written", Unit.BYTES, Better.LOWER,
                 "how much more the engine's store holds on disk after the build (st_blocks)")  # fmt: skip
METRICS = (TOOK, CACHED, RAN, WRITTEN)

_NO_DIRECTORY = "the daemon's directory holds other work too"
_HINT = "harness image bootstrap busybox"


class Options(Strict):
    """The Containerfile: RUN lines that each compute a little and write a file."""

    steps: int = Field(default=9, ge=3, le=100, description="RUN lines")
    step_bytes: SizeBytes = Field(default=1 << 20, alias="step_size", description="size of the file that each writes")
    loops: int = Field(default=20_000, ge=0, description="turns of a shell loop in each: its work")
    base: str = Field(default="busybox", description="image of the local store that has a shell")


class ArmOptions(Strict):
    """Which engine builds, and what was changed since the build before."""

    engine: Engine = "harness"
    change: Change = Field(description="cold: nothing was built before; none; or one line at the top, middle or end")


@dataclass
class BuildCacheArm:
    """A change in one engine. `builder` has built the Containerfile before; a cold arm opens a new one each time."""

    options: Options
    change: Change
    engine: Engine
    place: Path
    archive: Path
    scratch: Path
    facts: Mapping[str, Json]
    builder: Builder | None = None
    missing: str | None = None
    accelerator: str | None = None

    def measure(self, trial_id: str, emit: Emit) -> None:
        if self.missing is not None:
            for metric in METRICS:
                emit(Absent(metric, self.missing))
            return
        context = self.place / f"context-{trial_id}"
        write_context(context, self.options, self.change, revision=trial_id, base=base_name(self.scratch.name))
        try:
            built = self._build(trial_id, context)
        finally:
            shutil.rmtree(context)
        emit(Measurement(TOOK, built.duration_ns))
        emit(Measurement(CACHED, built.cached))
        emit(Measurement(RAN, self.options.steps - built.cached))
        written = built.written_bytes
        emit(Absent(WRITTEN, _NO_DIRECTORY) if written is None else Measurement(WRITTEN, written))

    def _build(self, trial_id: str, context: Path) -> Built:
        """Build; cold is a store of its own, or of Docker, whose daemon has but one, a build that asks no cache."""
        if self.builder is not None:
            return self.builder.build(context, "study", use_cache=self.change != "cold")
        builder = open_builder(self.engine, self.archive, self.place / trial_id, self.scratch)
        try:
            return builder.build(context, "study")
        finally:
            builder.close()

    def close(self) -> None:
        if self.builder is not None:
            self.builder.close()
        shutil.rmtree(self.place, ignore_errors=True)


def write_context(context: Path, options: Options, change: Change, *, revision: str, base: str) -> None:
    """Write a directory with a Containerfile in which the line that `change` names has the text of a revision."""
    places = {"top": 1, "middle": (options.steps + 1) // 2, "end": options.steps}
    changed = places.get(change)
    lines = [f"FROM {base}"]
    for number in range(1, options.steps + 1):
        word = revision if number == changed else "first"
        work = f"i=0; while [ $i -lt {options.loops} ]; do i=$((i+1)); done"
        lines.append(f"RUN {work}; yes {word}-{number} | head -c {options.step_bytes} > /step-{number}")
    context.mkdir(parents=True)
    (context / "Containerfile").write_text("\n".join(lines) + "\n")
    (context / "Dockerfile").symlink_to("Containerfile")


class BuildCacheStudy:
    name = "build-cache"
    doc = "what a build costs from nothing, unchanged, and with one changed line at the top, in the middle, at the end"
    options = Options
    arm_options = ArmOptions
    metrics = METRICS
    backends: tuple[str, ...] = ()
    disturbs: frozenset[str] = frozenset()

    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        root = os.geteuid() == 0
        try:
            Store(data_dir() / "images").find(options.base)
            base = Capability("base image", available=True, reason=options.base)
        except ImageError as error:
            base = Capability("base image", available=False, reason=error.message, hint=_HINT)
        return [Capability("root", root, "" if root else f"uid {os.geteuid()}", None if root else "run as root"), base]

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> BuildCacheArm:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        place = context.work / arm
        place.mkdir(parents=True)
        archive = place / "base.tar"
        image = _pack_base(options.base, base_name(context.token), archive)
        facts = {"engine": arm_options.engine, "change": arm_options.change, "base": image.manifest.digest}
        made = BuildCacheArm(
            options,
            arm_options.change,
            arm_options.engine,
            place,
            archive,
            context.scratch,
            {**facts, "side": "container"},
        )
        try:
            self._fill(made, context)
        except CapabilityError as error:
            if arm_options.engine == "harness":
                raise
            made.missing = f"{arm_options.engine} builds nothing here: {_last_words(error)}"
        return made

    def _fill(self, arm: BuildCacheArm, context: RunContext) -> None:
        """Build once, so that another engine is known to work, and the cache of all but a cold arm is full."""
        if arm.change == "cold" and arm.engine == "harness":
            return
        builder = open_builder(arm.engine, arm.archive, arm.place / "store", arm.scratch)
        first = arm.place / "context-first"
        write_context(first, arm.options, arm.change, revision="first", base=base_name(context.token))
        context.say(f"building with {arm.engine} for {arm.place.name}")
        builder.build(first, "study")
        shutil.rmtree(first)
        if arm.change == "cold" and arm.engine != "docker":
            builder.close()
        else:
            arm.builder = builder


def _pack_base(name: str, new_name: str, archive: Path) -> Image:
    """Write an image of the local store as a `docker save` archive under another name."""
    store = Store(data_dir() / "images")
    with tempfile.TemporaryDirectory(dir=archive.parent) as place:
        first, renamed = Path(place) / "image.tar", Store(Path(place) / "store")
        export_image(store, name, first, "docker-archive")
        import_image(first, renamed, name=new_name)
        export_image(renamed, new_name, archive, "docker-archive")
    return store.find(name)


def _last_words(error: CapabilityError) -> str:
    """Return why, without the command that was tried."""
    text = error.stderr_tail if isinstance(error, CommandError) else error.message
    return (text.strip().splitlines() or ["it did not say why"])[-1].strip()


PLUGIN: Study = BuildCacheStudy()
