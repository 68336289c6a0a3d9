"""A Containerfile and its context to an image: one layer for each instruction that changes files.

The result depends only on the base, the instructions, the build arguments and the files' names, modes and bytes: all
times are $SOURCE_DATE_EPOCH (0 where it is not set). Building twice gives the same digest and stores nothing new.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import BuildError, ImageError, UsageError
from harness.images import containerfile as parser
from harness.images import oci, words
from harness.images.confine import Confined
from harness.images.containerfile import Containerfile, Instruction, Stage
from harness.images.context import Context, ContextError, open_context
from harness.images.copying import Copier, parse_mode, parse_owner, plan_copy, refuse_archives
from harness.images.instructions import HANDLERS, NotSupportedError, Settings
from harness.images.layers import Budget, LayerReader
from harness.images.oci import Image, Layer
from harness.images.pack import LayerWriter, Owner
from harness.images.roots import unpack_image
from harness.images.store import BlobWriter, Store
from harness.images.unpack import Unpacker
from harness.images.words import WordError

Log = Callable[[str], None]


def build_image(
    containerfile: Path,
    context: Path,
    store: Store,
    *,
    name: str,
    arguments: Mapping[str, str] | None = None,
    log: Log = lambda _: None,
) -> Image:
    """Build an image and name it. `arguments` give values to ARG; `log` gets one line for each instruction.

    Raises: BuildError `FILE:LINE: INSTRUCTION: why`; ImageError when the base is not in the store.
    """
    try:
        text = containerfile.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{containerfile}: cannot be read: {error}") from error
    file = parser.parse(text, str(containerfile))
    if len(file.stages) > 1:
        hint = "build the first stage's files beforehand and COPY them"
        what = "FROM: not supported yet: a second stage"
        raise parser.error(file.path, file.stages[1].line, what, hint=hint)
    given = dict(arguments or {})
    _check_arguments(file, given)
    with store.adding(), store.scratch() as scratch:
        try:
            files = open_context(context, containerfile)
        except ContextError as error:
            raise BuildError(str(error), hint=error.hint) from error
        with files:
            return _Build(file, files, store, scratch, _epoch_s(), log).run(file.stages[0], given, name)


def _check_arguments(file: Containerfile, given: Mapping[str, str]) -> None:
    """Refuse a build argument that no ARG asks for: it would change nothing, unnoticed."""
    everything = (*file.arguments, *(step for stage in file.stages for step in stage.instructions))
    asked = [part.partition("=")[0] for step in everything if step.keyword == "ARG" for part in step.text.split()]
    for name in given:
        if name not in asked:
            near = difflib.get_close_matches(name, asked, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"add to the file: ARG {name}"
            raise BuildError(f"{file.path}: build argument: {name}: no ARG asks for it", hint=hint)


def _epoch_s() -> int:
    """Return the one time of all entries, in seconds. Source: reproducible-builds.org/specs/source-date-epoch."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isdigit():
        raise UsageError(f"environment: SOURCE_DATE_EPOCH: {text!r}: expected seconds since 1970")
    return int(text)


@dataclass(slots=True)
class _Build:
    """One build: the working tree (names and types only, to resolve paths in) and what came out so far."""

    file: Containerfile
    context: Context
    store: Store
    scratch: Path
    epoch_s: int
    log: Log
    layers: list[Layer] = field(default_factory=list)
    history: list[oci.Document] = field(default_factory=list)

    def run(self, stage: Stage, given: Mapping[str, str], name: str) -> Image:
        platform = {"TARGETOS": "linux", "TARGETARCH": oci.host_architecture()}
        platform["TARGETPLATFORM"] = f"linux/{platform['TARGETARCH']}"
        outer = Settings({}, given, platform, self.file.escape)
        for step in self.file.arguments:
            with self._located(step.line, "ARG"):
                HANDLERS["ARG"](outer, step)
        document = self._base(stage, outer.arguments)
        settings = Settings(document["config"], given, {**platform, **outer.arguments}, self.file.escape)
        pairs = [text.partition("=") for text in document["config"].get("Env") or []]
        settings.env.update({key: value for key, _, value in pairs})
        for step in stage.instructions:
            self.log(f"{step.keyword} {step.text}")
            with self._located(step.line, step.keyword):
                self._step(step, settings)
        document["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]}
        document["history"], document["created"] = self.history, self._created
        return self.store.add_image(document, self.layers, name)

    @property
    def _created(self) -> str:
        return datetime.fromtimestamp(self.epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @contextmanager
    def _located(self, line: int, keyword: str) -> Iterator[None]:
        """Give every error of one instruction its file and line."""
        try:
            yield
        except (ContextError, NotSupportedError) as error:
            raise parser.error(self.file.path, line, f"{keyword}: {error}", hint=error.hint) from error
        except WordError as error:
            raise parser.error(self.file.path, line, f"{keyword}: {error}") from error
        except ImageError as error:
            raise ImageError(f"{self.file.path}:{line}: {keyword}: {error.message}", hint=error.hint) from error
        except OSError as error:
            raise parser.error(self.file.path, line, f"{keyword}: {error}") from error

    def _base(self, stage: Stage, arguments: Mapping[str, str]) -> oci.Document:
        """Return the base's configuration to go on from; unpack it into the working tree."""
        self._tree.mkdir()
        document: oci.Document = {"architecture": oci.host_architecture(), "os": "linux", "config": {}}
        with self._located(stage.line, "FROM"):
            base = words.expand(stage.base, arguments, escape=self.file.escape)
            if not base:
                raise WordError(f"{stage.base}: empty once its variables are replaced")
            platform = words.expand(stage.platform, arguments, escape=self.file.escape)
            if platform not in {"", f"linux/{oci.host_architecture()}"}:
                raise WordError(f"--platform={platform}: this machine is linux/{oci.host_architecture()}")
            if base == "scratch":
                return document
            image = self.store.find(base)
            unpack_image(self.store, image, self._tree, owners=False)
        self.layers += image.layers
        self.history += image.document.get("history") or []
        document.update(
            {key: image.document[key] for key in ("architecture", "os", "variant") if key in image.document}
        )
        return {**document, "config": copy.deepcopy(image.document.get("config") or {})}

    @property
    def _tree(self) -> Path:
        return self.scratch / "tree"

    def _step(self, step: Instruction, settings: Settings) -> None:
        if step.flags and step.keyword not in {"ADD", "COPY", "RUN", "HEALTHCHECK"}:
            raise WordError(f"--{step.flags[0][0]}: unknown option")
        before = len(self.layers)
        if step.keyword in {"ADD", "COPY"}:
            self._copy(step, settings)
        else:
            HANDLERS[step.keyword](settings, step)
            if step.keyword == "WORKDIR":
                self._make_workdir(settings.workdir)
        flags = "".join(f"--{name}={value} " for name, value in step.flags)
        entry: oci.Document = {"created": self._created, "created_by": f"{step.keyword} {flags}{step.text}"}
        self.history.append(entry if len(self.layers) > before else {**entry, "empty_layer": True})

    def _copy(self, step: Instruction, settings: Settings) -> None:
        sources = copy_words(step, settings)
        owner, mode = _copy_flags(step, settings)
        with Confined(self._tree) as image:
            plan = plan_copy(sources, self.context, image, settings.workdir, owner=owner, mode=mode)
            if step.keyword == "ADD":
                refuse_archives(plan.sources)
            self._add_layer(lambda writer: Copier(plan, self.context, image, writer).copy())

    def _make_workdir(self, workdir: str) -> None:
        with Confined(self._tree) as image:
            names = image.canonical(os.fsencode(workdir))
            missing = [names[:depth] for depth in range(1, len(names) + 1) if image.status(names[:depth]) is None]

        def write(writer: LayerWriter) -> None:
            for place in missing:
                writer.directory(b"/".join(place))

        if missing:
            self._add_layer(write)

    def _add_layer(self, write: Callable[[LayerWriter], None]) -> None:
        """Store what `write` writes as a layer and bring the working tree up to it; nothing written is no layer."""
        count = 0

        def fill(out: BlobWriter) -> None:
            nonlocal count
            with LayerWriter(out, self.epoch_s) as writer:
                write(writer)
            count = writer.count

        blob = self.store.add_blob(oci.LAYER, fill)
        if not count:
            return
        self.layers.append(Layer(blob, blob.digest))
        unpacker = Unpacker(self._tree, Budget(), owners=False)
        with self.store.open_blob(blob) as packed:
            unpacker.apply(LayerReader(packed, "layer", Budget()))
        unpacker.finish()


def copy_words(step: Instruction, settings: Settings) -> list[str]:
    """Return the sources and the target of COPY or ADD, variables replaced. Raises: NotSupportedError, WordError."""
    if step.heredocs:
        raise NotSupportedError("not supported yet: a document in the file", "put it into a file of the context")
    _copy_flags(step, settings)
    form = step.exec_form
    found = [settings.expand(word) for word in form] if form is not None else settings.split(step.text)
    if step.keyword == "ADD":
        _refuse_urls(found)
    return found


def _copy_flags(step: Instruction, settings: Settings) -> tuple[Owner, int | None]:
    owner, mode = Owner(), None
    for name, text in step.flags:
        value = settings.expand(text)
        if name == "chown":
            owner = parse_owner(value)
        elif name == "chmod":
            mode = parse_mode(value)
        elif name == "from":
            raise NotSupportedError(f"--from={value}: not supported yet: a second stage", "COPY from the context")
        else:
            raise NotSupportedError(f"--{name}: unknown or not supported option", "supported: --chown, --chmod")
    return owner, mode


def _refuse_urls(sources: list[str]) -> None:
    for source in sources[:-1]:
        if "://" in source or source.startswith("git@"):
            hint = "download it beforehand and COPY it: a build must not depend on the network"
            raise NotSupportedError(f"{source}: not supported: a URL", hint)
