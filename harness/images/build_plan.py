"""From a Containerfile to what a build does: stages chosen, variables replaced, configurations worked out. Pure.

The only thing asked of outside is `find`, which returns a base image by name. What only files can tell (what a source
of COPY means, who a named owner is) is left to the build.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from harness.errors import BuildError, ImageError, UsageError
from harness.images import containerfile as parser
from harness.images import oci
from harness.images.build_actions import PROXIES, copy_action, run_action
from harness.images.build_steps import Action, BuildPlan, Configure, MakeDirectory, Origin, StagePlan, Step
from harness.images.containerfile import Containerfile, Instruction, Stage
from harness.images.context import ContextError
from harness.images.instructions import HANDLERS, NotSupportedError, Settings
from harness.images.oci import Image
from harness.images.words import WordError, expand

_KEPT = ("architecture", "os", "variant", "config")
_TAKE_FLAGS = {"ADD", "COPY", "RUN", "HEALTHCHECK"}

Located = Callable[[int, str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is said of a build beside its file. `target` is a stage by name or number, empty for the last."""

    arguments: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    network: str = "host"


def located(path: str) -> Located:
    """Return what gives every error of one instruction its file and line."""

    @contextmanager
    def at(line: int, keyword: str) -> Iterator[None]:
        try:
            yield
        except (ContextError, NotSupportedError) as error:
            raise parser.error(path, line, f"{keyword}: {error}", hint=error.hint) from error
        except WordError as error:
            raise parser.error(path, line, f"{keyword}: {error}") from error
        except UsageError as error:
            raise parser.error(path, line, f"{keyword}: {error.message}", hint=error.hint) from error
        except ImageError as error:
            raise ImageError(f"{path}:{line}: {keyword}: {error.message}", hint=error.hint) from error
        except OSError as error:
            reason = error.strerror or str(error)
            where = f"{error.filename}: " if error.filename else ""
            raise parser.error(path, line, f"{keyword}: {where}{reason}", hint=_hint(error)) from error

    return at


def _hint(error: OSError) -> str | None:
    full = "HARNESS_HOME says where images are kept; harness image gc removes what nothing needs"
    return full if error.errno in {28, 122} else None  # ENOSPC, EDQUOT


def plan_build(
    file: Containerfile, wishes: Wishes, find: Callable[[str], Image], at: Located | None = None
) -> BuildPlan:
    """Return what a build of `file` does. `at` may note an error and go on, as `preview` does.

    Raises: BuildError `FILE:LINE: INSTRUCTION: why`; ImageError when a base is missing.
    """
    return _Planner(file, wishes, find, at or located(file.path)).plan()


def platform_arguments() -> dict[str, str]:
    """Return the arguments that are there without being given (Dockerfile reference, "Automatic platform ARGs")."""
    machine = oci.host_architecture()
    made = {f"{side}{name}": value for side in ("TARGET", "BUILD")
            for name, value in (("OS", "linux"), ("ARCH", machine), ("PLATFORM", f"linux/{machine}"))}  # fmt: skip
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return made if epoch is None else {**made, "SOURCE_DATE_EPOCH": epoch}


class _Planner:
    def __init__(self, file: Containerfile, wishes: Wishes, find: Callable[[str], Image], at: Located) -> None:
        self._file = file
        self._wishes = wishes
        self._find = find
        self._at = at
        self._outer = Settings({}, wishes.arguments, platform_arguments(), file.escape)
        self._stages: dict[int, StagePlan] = {}

    def plan(self) -> BuildPlan:
        _check_arguments(self._file, self._wishes.arguments)
        for step in self._file.arguments:
            with self._at(step.line, "ARG"):
                HANDLERS["ARG"](self._outer, step)
        target = self._target()
        for number in sorted(self._needed(target)):
            self._stages[number] = self._stage(number, self._file.stages[number])
        return BuildPlan(self._file.path, tuple(self._stages.values()))

    # Stages

    def _target(self) -> int:
        wanted, stages = self._wishes.target, self._file.stages
        if not wanted:
            return len(stages) - 1
        found = self._number(wanted, len(stages))
        if found is None:
            near = difflib.get_close_matches(wanted, [stage.name for stage in stages if stage.name], n=1)
            named = ", ".join(stage.name or str(number) for number, stage in enumerate(stages))
            hint = f"did you mean '{near[0]}'?" if near else f"stages: {named}"
            raise BuildError(f"{self._file.path}: target: {wanted}: no such stage", hint=hint)
        return found

    def _number(self, word: str, before: int) -> int | None:
        """Return which stage before one a word means: the last of that name, or the number."""
        names = [stage.name for stage in self._file.stages[:before]]
        if word.lower() in names:
            return len(names) - 1 - names[::-1].index(word.lower())
        return int(word) if word.isascii() and word.isdigit() and int(word[:9]) < before else None

    def _base_name(self, stage: Stage) -> str:
        return expand(stage.base, {**self._outer.defaults, **self._outer.arguments}, escape=self._file.escape)

    def _needed(self, target: int) -> set[int]:
        """Return the numbers of the stages that one needs, itself included."""
        needed, pending = set[int](), [target]
        while pending:
            number = pending.pop()
            if number not in needed:
                needed.add(number)
                pending += [found for word in self._words(number) if (found := self._number(*word)) is not None]
        return needed

    def _words(self, number: int) -> Iterator[tuple[str, int]]:
        """Yield what one stage names as base or source, and before which stage that must be."""
        stage = self._file.stages[number]
        try:
            base = self._base_name(stage)
        except WordError:
            base = ""  # told when the stage is planned
        if base and not base.isdigit():
            yield base, number
        for step in stage.instructions:
            for name, value in step.flags:
                if name == "from":
                    yield value, number
                elif name == "mount":
                    yield from ((part[5:], number) for part in value.split(",") if part.startswith("from="))

    def _origin(self, word: str, before: int) -> Origin:
        number = self._number(word, before)
        if number is None:
            return Origin("image", word)
        if number not in self._stages:
            raise WordError(f"{word}: a stage that is named only through a variable or ONBUILD")
        return Origin("stage", self._stages[number].title, number)

    # One stage

    def _stage(self, number: int, stage: Stage) -> StagePlan:
        base, image, document = Origin("scratch"), None, _empty()
        with self._at(stage.line, "FROM"):
            base, image, document = self._base(number, stage)
        config = document["config"]
        defaults = {**self._outer.defaults, **self._outer.arguments}
        settings = Settings(config, self._wishes.arguments, defaults, self._file.escape)
        settings.env.update(_pairs(config))
        steps: list[Step] = []
        with self._at(stage.line, "FROM"):
            triggers = config.pop("OnBuild", None) or []
            for instruction in [parser.parse_trigger(text, self._file.path, stage.line) for text in triggers]:
                self._append(steps, instruction, settings, number)
        for instruction in stage.instructions:
            self._append(steps, instruction, settings, number)
        return StagePlan(number, stage.name, base, stage.line, image, tuple(steps), document)

    def _base(self, number: int, stage: Stage) -> tuple[Origin, Image | None, oci.Document]:
        """Return where a stage begins, and the configuration to go on from."""
        name = self._base_name(stage)
        if not name:
            raise WordError(f"{stage.base}: empty once its variables are replaced")
        variables = {**self._outer.defaults, **self._outer.arguments}
        platform = expand(stage.platform, variables, escape=self._file.escape)
        if platform not in {"", f"linux/{oci.host_architecture()}"}:
            raise WordError(f"--platform={platform}: this machine is linux/{oci.host_architecture()}")
        earlier = None if name.isdigit() else self._number(name, number)
        if earlier is not None:
            origin = self._origin(name, number)
            return origin, None, copy.deepcopy(self._stages[earlier].document)
        if name == "scratch":
            return Origin("scratch"), None, _empty()
        image = self._find(name)
        kept: oci.Document = {
            key: image.document[key] for key in ("architecture", "os", "variant") if key in image.document
        }
        return Origin("image", name), image, {**kept, "config": copy.deepcopy(image.document.get("config") or {})}

    def _append(self, steps: list[Step], instruction: Instruction, settings: Settings, stage: int) -> None:
        with self._at(instruction.line, instruction.keyword):
            steps.append(self._step(instruction, settings, stage))

    def _step(self, step: Instruction, settings: Settings, stage: int) -> Step:
        if step.flags and step.keyword not in _TAKE_FLAGS:
            raise WordError(f"--{step.flags[0][0]}: unknown option")
        action = self._action(step, settings, lambda word: self._origin(word, stage))
        flags = "".join(f"--{name}={value} " if value else f"--{name} " for name, value in step.flags)
        return Step(step.keyword, step.line, f"{step.keyword} {flags}{step.text}", action)

    def _action(self, step: Instruction, settings: Settings, find_origin: Callable[[str], Origin]) -> Action:
        if step.keyword in {"ADD", "COPY"}:
            return copy_action(step, settings, find_origin)
        if step.keyword == "RUN":
            return run_action(step, settings, find_origin, self._wishes.network)
        HANDLERS[step.keyword](settings, step)
        return MakeDirectory(settings.workdir) if step.keyword == "WORKDIR" else Configure()


def _empty() -> oci.Document:
    return {"architecture": oci.host_architecture(), "os": "linux", "config": {}}


def _pairs(config: oci.Document) -> dict[str, str]:
    pairs = [str(text).partition("=") for text in config.get("Env") or []]
    return {key: value for key, _, value in pairs}


def _check_arguments(file: Containerfile, given: Mapping[str, str]) -> None:
    """Refuse a build argument that no ARG asks for: it would change nothing, unnoticed."""
    everything = (*file.arguments, *(step for stage in file.stages for step in stage.instructions))
    asked = [part.partition("=")[0] for step in everything if step.keyword == "ARG" for part in step.text.split()]
    for name in given:
        if name not in asked and name not in PROXIES:
            near = difflib.get_close_matches(name, asked, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"add to the file: ARG {name}"
            raise BuildError(f"{file.path}: build argument: {name}: no ARG asks for it", hint=hint)
