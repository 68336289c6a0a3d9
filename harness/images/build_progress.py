"""What a build says while it runs: to a log of lines, or to whoever else implements `Progress`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.images.oci import Layer

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One instruction that was carried out. `layer_bytes` is the size of the layer's blob, 0 without one."""

    stage: str
    keyword: str
    line: int
    text: str
    cached: bool
    duration_ns: int
    layer: Layer | None

    @property
    def layer_bytes(self) -> int:
        return self.layer.blob.size_bytes if self.layer is not None else 0


class Progress(Protocol):
    """Hears of a build. `label` is `[2/5] RUN make`, or `[stage 2/5] RUN make` where there are several stages."""

    def begin(self, label: str) -> None: ...
    def output(self, label: str, line: str) -> None: ...
    def end(self, label: str, result: StepResult) -> None: ...


class Quiet:
    """Nothing is said."""

    def begin(self, label: str) -> None: ...
    def output(self, label: str, line: str) -> None: ...
    def end(self, label: str, result: StepResult) -> None: ...


class Lines:
    """One line for each event, as BuildKit's plain progress has them; output under the step's number and time."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def begin(self, label: str) -> None:
        self._log(label)

    def output(self, label: str, line: str) -> None:
        self._log(f"{label.partition(']')[0]}] {line}")

    def end(self, label: str, result: StepResult) -> None:
        number = f"{label.partition(']')[0]}]"
        self._log(f"{number} CACHED" if result.cached else f"{number} DONE {result.duration_ns / 1e9:.1f}s")
