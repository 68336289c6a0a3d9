"""What a build would refuse, and how its image would be run, told from the Containerfile without building.

Left to the build itself is what only trees can tell: whether a target of COPY is a directory there, what a stage holds,
who a named owner is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BuildError, HarnessError
from harness.images import containerfile as parser
from harness.images import oci
from harness.images.build_plan import Located, Wishes, located, plan_build
from harness.images.build_steps import BuildPlan, Copy, Run, StagePlan, Step
from harness.images.context import Context, ContextError, open_context
from harness.images.files import find_all
from harness.images.instructions import NotSupportedError
from harness.images.store import Store
from harness.model.spec import ImageConfig


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line that a build would stop at: `PATH:LINE: INSTRUCTION: why`."""

    message: str
    hint: str | None


@dataclass(slots=True)
class Preview:
    """A build before it is made. `config` is complete only where nothing is refused; `user_at` is PATH:LINE of USER.

    `base` is the image on which the result stands, or `scratch`.
    """

    base: str = ""
    config: ImageConfig = field(default_factory=ImageConfig)
    refused: list[Refusal] = field(default_factory=list)
    user_at: str = ""


def preview_build(containerfile: Path, store: Store) -> Preview:
    """Return what a build of this file would refuse, all of it, and the configuration that it would give its image.

    Raises: BuildError where the file cannot be read, or is no Containerfile at all.
    """
    file = parser.read(containerfile)
    found = Preview()
    noted = _noting(file.path, found.refused)
    plan = plan_build(file, Wishes(), store.find, noted)
    try:
        with open_context(containerfile.parent, containerfile) as context:
            for step in (step for stage in plan.stages for step in stage.steps):
                with noted(step.line, step.keyword):
                    _check(step, context)
    except ContextError as error:
        raise BuildError(str(error), hint=error.hint) from error
    chain = _chain(plan)
    found.base = str(chain[-1].base)
    found.config = oci.parse_config(chain[0].document, file.path)
    users = [step.line for stage in chain for step in reversed(stage.steps) if step.keyword == "USER"]
    found.user_at = f"{file.path}:{users[0]}" if users else ""
    found.refused.sort(key=lambda refusal: _line(refusal.message, file.path))
    return found


def _line(message: str, path: str) -> int:
    number = message.removeprefix(f"{path}:").partition(":")[0]
    return int(number) if number.isdigit() else 0


def _noting(path: str, refused: list[Refusal]) -> Located:
    """Return what notes an error of a line and goes on: it does not keep the next ones from being looked at."""
    at = located(path)

    @contextmanager
    def noted(line: int, keyword: str) -> Iterator[None]:
        try:
            with at(line, keyword):
                yield
        except HarnessError as error:
            refused.append(Refusal(error.message, error.hint))

    return noted


def _check(step: Step, context: Context) -> None:
    """Look for what a step takes from the context. Raises: ContextError, NotSupportedError."""
    action = step.action
    if isinstance(action, Copy) and action.origin is None:
        find_all(action.sources, context)
    elif isinstance(action, Run):
        find_all([m.source for m in action.mounts if m.kind == "bind" and m.origin is None], context)
        if os.geteuid() != 0:
            raise NotSupportedError("not root", "run as root: the overlay and the owners of files need it")


def _chain(plan: BuildPlan) -> list[StagePlan]:
    """Return the target and the stages on which it stands, itself first."""
    stages = {stage.number: stage for stage in plan.stages}
    chain = [plan.stages[-1]]
    while chain[-1].base.kind == "stage":
        chain.append(stages[chain[-1].base.stage])
    return chain
