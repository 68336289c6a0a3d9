"""`matrix:` of a scenario: lists of values for dotted keys. Each combination is a cell, measured in a run of its own.

    matrix:
      limits.memory: [128MiB, 512MiB]
      runtimes.vm.machine: [q35, microvm]

A cell is the scenario without `matrix`, with its values in their places. Pure: documents in, documents out.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.errors import Problem, ScenarioError
from harness.model.document import Document, Loc, flow, moved

KEY = "matrix"
MAX_CELLS = 100
"""A run each: more than anybody waits for, and most likely a mistake."""
FIXED = ("schema", "name", KEY)
"""What names a scenario cannot differ within it."""
_SHORT_LETTERS = 26
WHOLE = ("control", "runtimes", "arms", "study", "study.kind")
"""What is compared with what must be the same in all cells; parts of it, such as `runtimes.vm.cpus`, may differ."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: keys that are swept, each with the index of its value. Empty without a matrix."""

    places: tuple[tuple[str, int], ...] = ()

    def settings(self, document: Document) -> dict[str, str]:
        """Return each swept key with its value as YAML in one line: `--set KEY=VALUE` makes the same scenario."""
        return {key: flow(document.data[KEY][key][index]) for key, index in self.places}

    def within(self, document: Document) -> Document:
        """Return the scenario of this cell. Raises: ScenarioError for a key that there cannot be."""
        if not isinstance(document.data, dict) or KEY not in document.data:
            return document
        for key, index in self.places:
            document = moved(document, (KEY, key, index), key)
        return replace(document, data={key: value for key, value in document.data.items() if key != KEY})


def cells(document: Document, pinned: Iterable[str] = ()) -> tuple[Cell, ...]:
    """Return every combination, the first key changing slowest; one empty cell where nothing is swept.

    Keys in `pinned` have one value already, and are left out. Raises: ScenarioError with every mistake in `matrix`.
    """
    matrix = document.data.get(KEY) if isinstance(document.data, dict) else None
    if matrix is None:  # there is none, or `--set matrix=null`
        return (Cell(),)
    problems = list(_problems(document, matrix, fixed := set(pinned)))
    if problems:
        raise ScenarioError(problems)
    axes = [[(key, index) for index in range(len(values))] for key, values in matrix.items() if key not in fixed]
    if math.prod(map(len, axes)) > MAX_CELLS:
        sizes = " x ".join(str(len(axis)) for axis in axes)
        message = f"{sizes} combinations are more than {MAX_CELLS}: split it, or pin a key with --set KEY=VALUE"
        raise ScenarioError([document.problem((KEY,), message, code="matrix", at="key")])
    return tuple(Cell(places) for places in itertools.product(*axes))


def _problems(document: Document, matrix: object, pinned: Collection[str]) -> Iterable[Problem]:
    if not isinstance(matrix, dict) or not matrix:
        yield document.problem((KEY,), "expected keys with lists of values: limits.memory: [128MiB, 512MiB]",
                               code="matrix")  # fmt: skip
        return
    if len(matrix) > MAX_CELLS:
        yield document.problem((KEY,), f"{len(matrix)} keys are more than {MAX_CELLS}", code="matrix", at="key")
        return
    for key, values in matrix.items():
        loc: Loc = (KEY, key)
        if not all(key.split(".")) or key.partition(".")[0] in FIXED or key in WHOLE:
            yield document.problem(loc, f"{key}: cannot be swept: expected a dotted key of the scenario",
                                   code="matrix", at="key")  # fmt: skip
        holder = next((other for other in matrix if key.startswith(f"{other}.")), None)
        if holder is not None:
            yield document.problem(loc, f"is a part of {holder}, which is swept too", code="matrix", at="key")
        for part in pinned:
            if part.startswith(f"{key}.") and key not in pinned:
                yield document.problem(loc, f"--set {part}: is a part of what is swept", code="matrix", at="key")
        yield from _values(document, loc, values)


def _values(document: Document, loc: Loc, values: object) -> Iterable[Problem]:
    if not isinstance(values, list) or not values:
        yield document.problem(loc, "expected a list of values", code="matrix")
        return
    if len(values) > MAX_CELLS:
        yield document.problem(loc, f"{len(values)} values are more than {MAX_CELLS}", code="matrix", at="key")
        return
    seen: set[str] = set()
    for index, text in enumerate(map(flow, values)):
        if text in seen:
            yield document.problem((*loc, index), f"{text}: is there twice", code="matrix")
        seen.add(text)


def label(settings: Mapping[str, str]) -> str:
    """Return a cell in one line: `limits.memory=128MiB, runtimes.vm.machine=q35`."""
    return ", ".join(f"{key}={text}" for key, text in settings.items())


def shortened(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the values of one key as a table or a picture names them; as they are where that would make two alike."""
    short = {text: _short(text) for text in texts}
    return tuple(texts if len({*short.values()}) < len(short) else (short[text] for text in texts))


def _short(text: str) -> str:
    """Return `kind=http port=8080` of a mapping, the words of a list, and of what is still long its two ends."""
    value = json.loads(text) if text.startswith(("{", "[")) else text
    if isinstance(value, dict):
        text = " ".join(f"{key}={flow(part)}" for key, part in value.items())
    elif isinstance(value, list):
        text = " ".join(flow(part) for part in value)
    return text if len(text) <= _SHORT_LETTERS else f"{text[: _SHORT_LETTERS // 2]}…{text[-_SHORT_LETTERS // 2 + 1 :]}"


def pinned_keys(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the keys that `--set` gives a value."""
    return tuple(assignment.partition("=")[0] for assignment in overrides)
