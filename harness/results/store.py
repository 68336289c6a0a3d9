"""Run directories: created once, appended to trial by trial, found again by name.

    results/<UTC>-<name>-<hash8>/
        run.json  scenario.yaml  scenario.resolved.json  origin.json  trials.jsonl  logs/<trial>/  report/

trials.jsonl is the truth: a line is on the disk before the next trial starts. Everything else can be made again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.model.records import RunRecord, TrialRecord
from harness.results.codec import Journal, parse_journal, parse_run, run_text, trial_line

_log = logging.getLogger(__name__)
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-.+-[0-9a-f]{8}")
_TRIALS = "trials.jsonl"
_ORIGIN = "origin.json"


def new_run_id(name: str, digest: str, now: datetime | None = None) -> str:
    """Return `<UTC>-<name>-<first 8 hex digits of digest>`; ids sort by time."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{name}-{digest.removeprefix('sha256:')[:8]}"


class RunDirectory:
    """One run on disk. Opening only reads; the first `append` locks the journal against a second writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._unlock: Callable[[], object] = lambda: None

    @classmethod
    def create(
        cls,
        results_dir: Path,
        run: RunRecord,
        scenario_text: str,
        resolved: Mapping[str, Any],
        *,
        base_dir: Path | None = None,
    ) -> RunDirectory:
        """Make the directory of a new run. `base_dir` is what the scenario's paths count from, for a resume.

        Raises: StoreError when it is there already or cannot be made.
        """
        path = results_dir / run.run_id
        try:
            path.mkdir(parents=True)
            (path / "logs").mkdir()
            (path / "report").mkdir()
            (path / "scenario.yaml").write_text(scenario_text, encoding="utf-8")
            _write_json(path / "scenario.resolved.json", resolved)
            _write_json(path / _ORIGIN, {"base_dir": str((base_dir or Path.cwd()).resolve())})
            (path / _TRIALS).touch()
        except OSError as error:
            raise StoreError(f"{path}: cannot be created: {error.strerror}") from error
        directory = cls(path)
        directory.write_run(run)
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Return the run at `path`. Raises: StoreError when there is none, or not one that can be read."""
        if not (path / "run.json").is_file():
            raise StoreError(f"{path}: no run directory: run.json is missing", hint="harness list runs")
        directory = cls(path)
        directory.run()
        return directory

    def run(self) -> RunRecord:
        """Return run.json. Raises: StoreError."""
        return parse_run(_read(self.path / "run.json").decode("utf-8", "replace"), str(self.path / "run.json"))

    def write_run(self, run: RunRecord) -> None:
        """Replace run.json in one step: a reader sees the old one or the new one."""
        temporary = self.path / ".run.json.new"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(run_text(run))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / "run.json")
        _sync_directory(self.path)

    def append(self, record: TrialRecord) -> None:
        """Write one trial; it is on the disk when this returns. Half a line of a killed run is removed first."""
        if self._fd is None:
            self._fd = self._open_journal()
        line = trial_line(record).encode() + b"\n"
        path = self.path / _TRIALS
        try:
            written = os.write(self._fd, line)
            os.fsync(self._fd)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
        if written != len(line):
            raise StoreError(f"{path}: cannot be written: the disk took {written} of {len(line)} bytes")

    def _open_journal(self) -> int:
        path = self.path / _TRIALS
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._unlock = weakref.finalize(self, os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{path}: another harness writes to it", hint="wait until that run has ended") from None
        journal = self._journal()
        if journal.torn:
            _log.warning("%s: removing half a line that a killed run left; its trial is repeated", path)
            os.ftruncate(fd, journal.size_bytes)
        return fd

    def close(self) -> None:
        """Let another writer in; the end of the process does the same. Reading goes on working."""
        self._unlock()
        self._fd = None

    def _journal(self) -> Journal:
        path = self.path / _TRIALS
        return parse_journal(_read(path), str(path)) if path.exists() else Journal((), 0, torn=False)

    def trials(self) -> tuple[TrialRecord, ...]:
        """Return every finished trial, in the order in which they ran. Raises: StoreError for a damaged line."""
        return self._journal().records

    @property
    def torn(self) -> bool:
        """Whether the journal ends with half a line: the last trial was cut off while it was written."""
        path = self.path / _TRIALS
        try:
            with path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                size_bytes = file.tell()
                file.seek(max(0, size_bytes - 1))
                return size_bytes > 0 and file.read(1) != b"\n"
        except FileNotFoundError:
            return False

    def log_dir(self, trial_id: str) -> Path:
        """Return where a trial's logs go; it need not exist yet."""
        return self.path / "logs" / trial_id

    @property
    def report_dir(self) -> Path:
        """Where reports go; made when it is missing."""
        path = self.path / "report"
        path.mkdir(exist_ok=True)
        return path

    def scenario_path(self) -> Path:
        """Return the scenario as it was typed."""
        return self.path / "scenario.yaml"

    def base_dir(self) -> Path:
        """Return the directory that the scenario's paths count from, on the host where the run was started."""
        return Path(self._json(_ORIGIN)["base_dir"])

    def overrides(self) -> tuple[str, ...]:
        """Return the `--set` values that the run was started with."""
        return tuple(self._json("scenario.resolved.json").get("overrides", ()))

    def only(self) -> tuple[str, ...]:
        """Return the `--only` runtimes that the run was started with."""
        return tuple(self._json("scenario.resolved.json").get("only", ()))

    def gate(self) -> Mapping[str, Any]:
        """Return the scenario's `gate` (margin, metrics); empty where it has none. Raises: StoreError."""
        found = self._json("scenario.resolved.json").get("gate") or {}
        if not isinstance(found, dict):
            raise StoreError(f"{self.path / 'scenario.resolved.json'}: damaged: gate is no object")
        return found

    def check_same_image(self, root_digest: str) -> None:
        """Refuse to go on with another image than the run began with. Raises: StoreError."""
        former = self.run().image.get("root_digest")
        if former != root_digest:
            raise StoreError(
                f"{self.path.name}: image: was {former} and is now {root_digest}",
                hint="the image changed since the run began: start a new run",
            )

    def _json(self, name: str) -> dict[str, Any]:
        try:
            document = json.loads(_read(self.path / name))
        except ValueError as error:
            raise StoreError(f"{self.path / name}: damaged: {error}") from error
        if not isinstance(document, dict):
            raise StoreError(f"{self.path / name}: damaged: expected a JSON object")
        return document


def list_runs(results_dir: Path) -> tuple[Path, ...]:
    """Return the run directories in `results_dir`, oldest first; directories with other names are not runs."""
    if not results_dir.is_dir():
        return ()
    found = (path for path in results_dir.iterdir() if _RUN_ID.fullmatch(path.name) and (path / "run.json").is_file())
    return tuple(sorted(found, key=lambda path: path.name))


@contextmanager
def series_lock(path: Path) -> Iterator[None]:
    """Keep a matrix for this process, by the run of its first cell. Raises: StoreError where another one has it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        message = f"{path}: another harness measures other cells of its matrix"
        raise StoreError(message, hint="wait until it has ended") from None
    finally:
        os.close(fd)


def series_of(path: Path) -> dict[int, Path]:
    """Return the runs beside `path`, and itself, that are cells of the same matrix, by the cell's number.

    A run that cannot be read is left out: which matrix it is of is not known. Raises: StoreError where `path` is no
    cell of a matrix.
    """
    matrix = RunDirectory(path).run().matrix
    if not matrix:
        raise StoreError(f"{path}: no cell of a matrix", hint="its scenario has no `matrix:`: harness report shows it")
    found: dict[int, Path] = {}
    for other in list_runs(path.absolute().parent):
        with suppress(StoreError):
            theirs = RunDirectory(other).run().matrix
            if theirs.get("series") == matrix["series"]:
                found[int(theirs["number"])] = other
    return dict(sorted({**found, int(matrix["number"]): path}.items()))


def find_run(results_dir: Path, text: str) -> Path:
    """Return a run's directory from its path, its id, a part of the id that only it begins or ends with, or `latest`.

    Raises: StoreError when none fits, or more than one.
    """
    if (Path(text) / "run.json").is_file():
        return Path(text)
    runs = list_runs(results_dir)
    if not runs:
        raise StoreError(f"{text}: no such run: {results_dir} holds none", hint="--results DIR says where runs are")
    if text == "latest":
        return runs[-1]
    exact = [path for path in runs if path.name == text]
    fitting = exact or [path for path in runs if path.name.startswith(text) or path.name.endswith(text)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(path.name for path in fitting[-5:])
        raise StoreError(f"{text}: fits {len(fitting)} runs: {names}", hint="give more of the id")
    raise StoreError(f"{text}: no such run in {results_dir}", hint=_nearest(text, [path.name for path in runs]))


def _nearest(text: str, names: list[str]) -> str:
    import difflib  # noqa: PLC0415  (only for a mistake)

    near = difflib.get_close_matches(text, [*names, "latest"], n=1, cutoff=0.5)
    if not near:  # people remember the scenario's name, which is the middle of the id
        near = [name for name in reversed(names) if text and text in name][:1]
    return f"did you mean {near[0]}?" if near else f"the latest is {names[-1]}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
