"""The history of a scenario: one line a run, appended for ever, small enough to live in git.

    history/<scenario>/<host class>.jsonl              of a cell of a matrix: history/<scenario>,<key>=<value>/...

Lines are whole and independent, so that two branches merge by taking both (`*.jsonl merge=union` in .gitattributes); a
run that stands there twice counts once. A line holds the summary of a run, not its trials:

    {"schema": "harness.history/1", "run_id", "started", "commit", "scenario_hash", "image", "harness", "control",
     "accelerators": {runtime: name}, "noisy": trials, "trials": n,
     "definitions": {metric: [unit, better, assume, hash of its text]},
     "cells": {runtime: {metric: [median, lo, hi, effect, effect lo, effect hi, n]}}}

`effect` is the ratio to the control (a difference where zeros occur, then named in `differences`). Numbers have six
significant digits. The only module that imports orjson: 10,000 runs are read in a second instead of eight.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from harness.errors import StoreError
from harness.model.history import Entry
from harness.model.records import RunRecord

SCHEMA = "harness.history/1"
_NAME_LETTERS = 100
_MAJOR = re.compile(r"harness\.history/1(?:\.\d+)?")


def history_path(root: Path, name: str, host_class: str) -> Path:
    """Return the file of what has this `history_name` on one class of hosts."""
    return root / name / f"{host_class or 'unknown'}.jsonl"


def history_name(run: RunRecord) -> str:
    """Return what a run's history is called: its scenario, and which cell of its matrix, fit for a file's name."""
    if not run.matrix:
        return run.scenario
    cell = ",".join(f"{key}={text}" for key, text in run.matrix["cell"].items())
    plain = re.sub(r"[^\w.=,+-]+", "-", cell, flags=re.ASCII)[:_NAME_LETTERS]
    digest = "" if plain == cell else f"-{hashlib.sha256(cell.encode()).hexdigest()[:8]}"
    return f"{run.scenario},{plain}{digest}"


def append(path: Path, entry: Entry) -> bool:
    """Add a run's line, unless that run is there already; return whether it was added. It is on the disk then.

    Raises: StoreError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
    with os.fdopen(fd, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        data = file.read()
        if any(known.run_id == entry.run_id for known in _parse(data, str(path))):
            return False
        torn = data and not data.endswith(b"\n")
        file.write((b"\n" if torn else b"") + _line(entry) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def read(path: Path) -> tuple[Entry, ...]:
    """Return the runs of a history, oldest first, each once; none where there is no file.

    Half a line that a killed process left is passed over. Raises: StoreError for damage, and for an unknown schema.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    with uncollected():
        found = {entry.run_id: entry for entry in _parse(data, str(path))}
    return tuple(sorted(found.values(), key=lambda entry: (entry.started, entry.run_id)))


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector away in the block: most of the time it would walk a million fresh numbers again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _line(entry: Entry) -> bytes:
    document: dict[str, Any] = {"schema": SCHEMA}
    document |= {name: getattr(entry, name) for name in Entry.__slots__}
    return orjson.dumps(document)


def _parse(data: bytes, what: str) -> Iterator[Entry]:
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except ValueError as error:
            if number == len(lines) or _is_torn(line):
                continue  # a killed process left it; the run directory still holds the run
            raise StoreError(f"{what}:{number}: damaged: {error}") from error
        yield _entry(document, f"{what}:{number}")


def _is_torn(line: bytes) -> bool:
    return line.startswith(b'{"schema"') and not line.endswith(b"}")


def _entry(document: Any, what: str) -> Entry:
    if not isinstance(document, dict):
        raise StoreError(f"{what}: damaged: expected a JSON object")
    schema = document.get("schema")
    if not isinstance(schema, str) or not _MAJOR.fullmatch(schema):
        raise StoreError(f"{what}: schema {schema!r}: not known", hint="a newer harness wrote it: upgrade this one")
    try:
        return Entry(
            **{name: document[name] for name in Entry.__slots__ if name not in {"differences"}},
            differences=tuple(document.get("differences", ())),
        )
    except KeyError as error:
        raise StoreError(f"{what}: damaged: {error.args[0]} is missing") from error
