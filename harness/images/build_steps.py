"""What a build does, as data: stages of steps, each with everything that it needs, variables replaced.

    BuildPlan(path, stages, target)     only the stages that the target needs
    StagePlan(number, name, base, steps, config)
    Step(keyword, line, text, action)   action: Configure | MakeDirectory | Copy | Run

`harness.images.build_plan` makes it, `harness.images.build` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.images.oci import Document, Image


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tree comes from: `scratch`, an image by name, or an earlier stage by its number in the file."""

    kind: Literal["scratch", "image", "stage"]
    name: str = ""
    stage: int = -1

    def __str__(self) -> str:
        return self.name or self.kind


@dataclass(frozen=True, slots=True)
class Configure:
    """Changes the configuration alone: it is in `StagePlan.config` already."""


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """WORKDIR: the directory is there afterwards."""

    path: str


@dataclass(frozen=True, slots=True)
class Inline:
    """A document of the file itself, with the name that it gets in a directory."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY or ADD. `origin` None is the build context; `owner` and `mode` as written, empty for none."""

    sources: tuple[str, ...]
    inline: tuple[Inline, ...]
    target: str
    workdir: str
    origin: Origin | None = None
    owner: str = ""
    mode: str = ""
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class RunMount:
    """One `--mount` of RUN. `origin` None is the build context (for `bind`)."""

    kind: Literal["bind", "cache", "tmpfs"]
    target: str
    source: str = ""
    origin: Origin | None = None
    id: str = ""
    writable: bool = False
    owner: tuple[int, int] = (0, 0)
    mode: int = 0o755
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """RUN. `untold` is environment that no key and no image holds (proxies); `script` is a document to execute."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: str
    workdir: str
    network: str
    untold: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[RunMount, ...] = ()
    script: Inline | None = None


Action = Configure | MakeDirectory | Copy | Run


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction. `text` is what the history tells of it."""

    keyword: str
    line: int
    text: str
    action: Action

    @property
    def makes_files(self) -> bool:
        return not isinstance(self.action, Configure)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage. `image` is the base's, where it is one; `document` the configuration at the end, without layers."""

    number: int
    name: str
    base: Origin
    line: int
    image: Image | None
    steps: tuple[Step, ...]
    document: Document

    @property
    def title(self) -> str:
        return self.name or f"stage-{self.number}"


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """A whole build; the last stage is the target."""

    path: str
    stages: tuple[StagePlan, ...]
