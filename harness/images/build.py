"""Carry out a build: stage by stage, step by step, one layer for each instruction that changes files.

    file -> build_plan -> BuildPlan -> here -> Image

A step is looked up in the build cache first (`build_cache`), and then no tree is touched: what is not found there is
made over the layers so far, by `copying` or in a container by `build_run`. With $SOURCE_DATE_EPOCH no time is later
than that, and the same input gives the same digest on any machine; without it, files keep their times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BuildError, UsageError
from harness.images import containerfile as parser
from harness.images import oci
from harness.images.build_cache import BuildCache, Made, chain_id, image_key, step_key
from harness.images.build_plan import Wishes, located, plan_build
from harness.images.build_progress import Lines, Log, Progress, Quiet, StepResult
from harness.images.build_steps import BuildPlan, Copy, MakeDirectory, Origin, Run, StagePlan, Step
from harness.images.build_work import Workshop
from harness.images.containerfile import Containerfile
from harness.images.context import ContextError, open_context
from harness.images.files import content_digest, find_all
from harness.images.oci import Document, Image, Layer
from harness.images.store import Store

__all__ = ["BuildOptions", "BuildResult", "Log", "StepResult", "build_image", "build_image_of"]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What is said of a build beside its file and its context. Every name of `names` is given to the image."""

    names: Sequence[str]
    wishes: Wishes = field(default_factory=Wishes)
    use_cache: bool = True
    progress: Progress = field(default_factory=Quiet)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made: `steps` are the instructions that change files, in the order in which they were done."""

    image: Image
    steps: tuple[StepResult, ...]
    duration_ns: int


def build_image(
    containerfile: Path,
    context: Path,
    store: Store,
    *,
    name: str,
    arguments: Mapping[str, str] | None = None,
    log: Log = lambda _: None,
) -> Image:
    """Build an image and name it. `arguments` give values to ARG; `log` gets the lines of a plain progress.

    Raises: BuildError `FILE:LINE: INSTRUCTION: why`; ImageError when the base is not in the store.
    """
    options = BuildOptions((name,), Wishes(dict(arguments or {})), progress=Lines(log))
    return build_image_of(parser.read(containerfile), context, store, options).image


def build_image_of(file: Containerfile, context: Path, store: Store, options: BuildOptions) -> BuildResult:
    """Build the image of a Containerfile. Raises: BuildError `FILE:LINE: INSTRUCTION: why`; ImageError."""
    began_ns = time.monotonic_ns()
    epoch_s = _epoch_s()
    plan = plan_build(file, options.wishes, store.find)
    try:
        files = open_context(context, Path(file.path))
    except ContextError as error:
        raise BuildError(str(error), hint=error.hint) from error
    with store.adding(), store.scratch() as scratch, files:
        work = Workshop(store, scratch, files, epoch_s, {})
        made = _Build(plan, work, BuildCache(store, enabled=options.use_cache), options.progress)
        image = made.run(options.names)
    return BuildResult(image, tuple(made.results), time.monotonic_ns() - began_ns)


def _epoch_s() -> int | None:
    """Return the latest time of all entries, in seconds. Source: reproducible-builds.org/specs/source-date-epoch."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None or text.isdigit():
        return None if text is None else int(text)
    raise UsageError(f"environment: SOURCE_DATE_EPOCH: {text!r}: expected seconds since 1970")


@dataclass(slots=True)
class _Stack:
    """What one stage is so far."""

    layers: list[Layer] = field(default_factory=list)
    history: list[Document] = field(default_factory=list)

    @property
    def chain(self) -> str:
        return chain_id(self.layers)


class _Build:
    """One build: `results` are what came out so far."""

    def __init__(self, plan: BuildPlan, work: Workshop, cache: BuildCache, progress: Progress) -> None:
        self.results: list[StepResult] = []
        self._plan = plan
        self._work = work
        self._cache = cache
        self._progress = progress
        self._at = located(plan.path)
        self._stages: dict[int, _Stack] = {}

    def run(self, names: Sequence[str]) -> Image:
        for stage in self._plan.stages:
            self._stages[stage.number] = self._stage(stage)
            self._work.stages[stage.number] = tuple(self._stages[stage.number].layers)
        last = self._plan.stages[-1]
        return self._image(last.document, self._stages[last.number], names)

    # Stages

    def _stage(self, stage: StagePlan) -> _Stack:
        stack = self._base(stage)
        count = 1 + sum(step.makes_files for step in stage.steps)
        title = f"{stage.title} " if len(self._plan.stages) > 1 else ""
        self._progress.begin(f"[{title}1/{count}] FROM {stage.base}")
        number = 1
        for step in stage.steps:
            made = Made(None, self._work.now())
            if step.makes_files:
                number += 1
                made = self._told(step, stack, f"[{title}{number}/{count}] {_first_line(step.text)}", stage.title)
            entry: Document = {"created": made.created, "created_by": step.text}
            stack.history.append(entry if made.layer is not None else {**entry, "empty_layer": True})
            stack.layers += [made.layer] if made.layer is not None else []
        return stack

    def _base(self, stage: StagePlan) -> _Stack:
        if stage.base.kind == "stage":
            base = self._stages[stage.base.stage]
            return _Stack(list(base.layers), list(base.history))
        if stage.image is None:
            return _Stack()
        return _Stack(list(stage.image.layers), list(stage.image.document.get("history") or []))

    def _told(self, step: Step, stack: _Stack, label: str, stage: str) -> Made:
        """Do one step, and tell of it."""
        self._progress.begin(label)
        began_ns = time.monotonic_ns()
        with self._at(step.line, step.keyword):
            made, cached = self._step(step, stack, lambda line: self._progress.output(label, line))
        spent_ns = time.monotonic_ns() - began_ns
        result = StepResult(stage, step.keyword, step.line, step.text, cached, spent_ns, made.layer)
        self.results.append(result)
        self._progress.end(label, result)
        return made

    # Steps

    def _step(self, step: Step, stack: _Stack, output: Callable[[str], None]) -> tuple[Made, bool]:
        """Return what a step made, and whether it was known already."""
        action = step.action
        if isinstance(action, Copy):
            return self._copy(action, stack)
        if isinstance(action, Run):
            key = self._key(action, stack, self._mounted(action))
            where = f"{self._plan.path}:{step.line}: {_first_line(step.text)}"
            return self._once([key], lambda: self._work.run(action, stack.layers, where, output))
        assert isinstance(action, MakeDirectory)
        key = self._key(action, stack, {})
        return self._once([key], lambda: self._work.make_directory(action.path, stack.layers))

    def _copy(self, action: Copy, stack: _Stack) -> tuple[Made, bool]:
        """Copies from a tree are looked up by its name first: then nobody needs to read it."""
        keys = []
        if action.origin is not None:
            patterns = "\0".join(action.sources)
            keys.append(self._key(action, stack, {"tree": self._chain(action.origin), "patterns": patterns}))
            if (made := self._cache.find(keys[0])) is not None:
                return made, True
        files = self._work.files(action.origin)
        sources = find_all(action.sources, files)
        keys.append(self._key(action, stack, {"content": content_digest(files, sources, action.inline)}))
        return self._once(keys, lambda: self._work.copy(action, sources, files, stack.layers))

    def _mounted(self, action: Run) -> dict[str, str]:
        """Return what decides of the trees that a RUN mounts."""
        told = {}
        for mount in action.mounts:
            if mount.kind == "bind" and mount.origin is None:
                files = self._work.files(None)
                told[mount.target] = content_digest(files, find_all([mount.source], files), ())
            elif mount.origin is not None:
                told[mount.target] = self._chain(mount.origin)
        return told

    def _key(self, action: Copy | Run | MakeDirectory, stack: _Stack, inputs: Mapping[str, str]) -> str:
        return step_key(stack.chain, action, inputs, self._work.epoch_s)

    def _chain(self, origin: Origin) -> str:
        return chain_id(self._work.layers_of(origin))

    def _once(self, keys: Sequence[str], make: Callable[[], Layer | None]) -> tuple[Made, bool]:
        """Return what is known under the last key, or made now; it is kept under all of them."""
        found = self._cache.find(keys[-1])
        made = found or Made(make(), self._work.now())
        for key in keys if found is None else keys[:-1]:
            self._cache.keep(key, made)
        return made, found is not None

    # The image

    def _image(self, settings: Document, stack: _Stack, names: Sequence[str]) -> Image:
        """Name the image; one that was made before keeps its times, and so its digest."""
        key = image_key(settings, stack.history, stack.layers, self._work.epoch_s)
        store, names = self._work.store, [oci.full_name(name) for name in names]
        manifest = self._cache.find_image(key)
        if manifest is not None:
            images = [store.add_manifest(manifest, name) for name in names]
            return images[0] if images else store.read_image(manifest)
        document = {**settings, "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in stack.layers]}}
        document["history"], document["created"] = stack.history, self._work.now()
        images = [store.add_image(document, stack.layers, name) for name in names]
        self._cache.keep_image(key, images[0])
        return images[0]


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
