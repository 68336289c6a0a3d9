"""What a build would refuse, and how its image would be run, told from the Containerfile without building.

Left to the build itself is what only the base's files can tell: whether a target of COPY is a directory there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BuildError, HarnessError
from harness.images import build, oci, words
from harness.images import containerfile as parser
from harness.images.containerfile import Containerfile, Instruction, Stage
from harness.images.context import Context, ContextError, open_context
from harness.images.copying import refuse_archives
from harness.images.instructions import HANDLERS, NotSupportedError, Settings
from harness.images.store import Store
from harness.images.words import WordError
from harness.model.spec import ImageConfig


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line that a build would stop at: `PATH:LINE: INSTRUCTION: why`."""

    message: str
    hint: str | None


@dataclass(slots=True)
class Preview:
    """A build before it is made. `config` is complete only where nothing is refused; `user_at` is PATH:LINE of USER."""

    base: str = ""
    config: ImageConfig = field(default_factory=ImageConfig)
    refused: list[Refusal] = field(default_factory=list)
    user_at: str = ""


def preview_build(containerfile: Path, store: Store) -> Preview:
    """Return what a build of this file would refuse, all of it, and the configuration that it would give its image.

    Raises: BuildError where the file cannot be read, or is no Containerfile at all.
    """
    try:
        text = containerfile.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{containerfile}: cannot be read: {error}") from error
    file = parser.parse(text, str(containerfile))
    return _Pass(file, store).run(containerfile)


class _Pass:
    """One pass over a file; a line that is refused does not keep the next ones from being looked at."""

    def __init__(self, file: Containerfile, store: Store) -> None:
        self._file = file
        self._store = store
        self._found = Preview()

    def run(self, path: Path) -> Preview:
        platform = {"TARGETOS": "linux", "TARGETARCH": oci.host_architecture()}
        platform["TARGETPLATFORM"] = f"linux/{platform['TARGETARCH']}"
        outer = Settings({}, {}, platform, self._file.escape)
        for step in self._file.arguments:
            with self._noted(step.line, "ARG"):
                HANDLERS["ARG"](outer, step)
        stage = self._file.stages[0]
        document: oci.Document = {"config": {}}
        with self._noted(stage.line, "FROM"):
            document = self._base(stage, outer)
        settings = Settings(document["config"], {}, {**platform, **outer.arguments}, self._file.escape)
        pairs = [text.partition("=") for text in document["config"].get("Env") or []]
        settings.env.update({key: value for key, _, value in pairs})
        try:
            with open_context(path.parent, path) as context:
                for step in stage.instructions:
                    with self._noted(step.line, step.keyword):
                        self._step(step, settings, context)
        except ContextError as error:
            raise BuildError(str(error), hint=error.hint) from error
        if len(self._file.stages) > 1:
            hint = "build the first stage's files beforehand and COPY them"
            self._refuse(self._file.stages[1].line, "FROM: not supported yet: a second stage", hint)
        self._found.config = oci.parse_config(document, str(path))
        return self._found

    @contextmanager
    def _noted(self, line: int, keyword: str) -> Iterator[None]:
        try:
            yield
        except (ContextError, NotSupportedError) as error:
            self._refuse(line, f"{keyword}: {error}", error.hint)
        except HarnessError as error:
            self._refuse(line, f"{keyword}: {error.message}", error.hint)
        except (WordError, OSError) as error:
            self._refuse(line, f"{keyword}: {error}", None)

    def _refuse(self, line: int, what: str, hint: str | None) -> None:
        self._found.refused.append(Refusal(f"{self._file.path}:{line}: {what}", hint))

    def _base(self, stage: Stage, outer: Settings) -> oci.Document:
        base = words.expand(stage.base, outer.arguments, escape=self._file.escape)
        if not base:
            raise WordError(f"{stage.base}: empty once its variables are replaced")
        platform = words.expand(stage.platform, outer.arguments, escape=self._file.escape)
        if platform not in {"", f"linux/{oci.host_architecture()}"}:
            raise WordError(f"--platform={platform}: this machine is linux/{oci.host_architecture()}")
        self._found.base = base
        if base == "scratch":
            return {"config": {}}
        return {"config": copy.deepcopy(self._store.find(base).document.get("config") or {})}

    def _step(self, step: Instruction, settings: Settings, context: Context) -> None:
        if step.keyword in {"ADD", "COPY"}:
            self._copy(step, settings, context)
            return
        if step.flags and step.keyword not in {"RUN", "HEALTHCHECK"}:
            raise WordError(f"--{step.flags[0][0]}: unknown option")
        HANDLERS[step.keyword](settings, step)
        if step.keyword == "USER":
            self._found.user_at = f"{self._file.path}:{step.line}"

    def _copy(self, step: Instruction, settings: Settings, context: Context) -> None:
        *sources, target = build.copy_words(step, settings)
        if not sources:
            raise WordError(f"{target}: expected SOURCE... TARGET")
        found = [path for source in sources for path in context.find(source)]
        if step.keyword == "ADD":
            refuse_archives(found)
