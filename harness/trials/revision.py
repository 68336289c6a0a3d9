"""The project around a scenario as it was at another revision: what a change is measured against.

The files of the commit are written into a directory of their own, through an index of its own: nothing in the checkout,
its index or its list of worktrees changes, so that a killed run leaves only files that `harness clean` finds.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CommandError, StoreError, UsageError
from harness.host.process import run
from harness.trials import ownership

_GIT_NS = 300_000_000_000
SHALLOW = "a clone of only the newest commits lacks it: git fetch --deepen, or fetch-depth: 0 in a workflow"


@dataclass(frozen=True, slots=True)
class BaseTree:
    """`scenario` is the file as it was at `commit`, in a copy of the whole project, as `revision` named it."""

    scenario: Path
    revision: str
    commit: str
    notes: tuple[str, ...] = ()


@contextmanager
def checkout(scenario: Path, revision: str) -> Iterator[BaseTree]:
    """Give the scenario's project as of a revision, for the time of the block.

    Raises: UsageError where the scenario is in no git checkout, or the revision or the scenario in it does not exist;
    StoreError where it cannot be written; CapabilityError without git.
    """
    project = _project(scenario)
    commit = _commit(project, revision)
    inside = scenario.resolve().relative_to(project)
    if not _knows(project, commit, inside):
        raise UsageError(f"--base: {inside}: is not in {revision} ({commit[:12]})", hint="name a revision that has it")
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, f"base-{commit[:12]}")
    try:
        place = ownership.work_base() / token
        notes = _write(project, commit, place, scratch / "index")
        yield BaseTree(place / inside, revision, commit, notes)
    finally:
        ownership.reap(token, (), dry_run=False)


def _git(project: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    done = run(["git", "-C", str(project), *arguments], timeout_ns=_GIT_NS, env=environment)
    return done.stdout.decode("utf-8", "surrogateescape").strip("\n")


def _project(scenario: Path) -> Path:
    if not scenario.is_file():
        raise UsageError(f"--base: {scenario}: no such file")
    try:
        return Path(_git(scenario.resolve().parent, "rev-parse", "--show-toplevel"))
    except CommandError as error:
        raise UsageError(f"--base: {scenario}: in no git checkout: {_last(error)}") from error


def _commit(project: Path, revision: str) -> str:
    try:
        return _git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except CommandError as error:
        raise UsageError(f"--base: {revision}: no such revision in {project}", hint=SHALLOW) from error


def _knows(project: Path, commit: str, path: Path) -> bool:
    try:
        _git(project, "cat-file", "-e", f"{commit}:{path}")
    except CommandError:
        return False
    return True


def _write(project: Path, commit: str, place: Path, index: Path) -> tuple[str, ...]:
    """Write the files of a commit, by an index at `index`. Return what is missing there.

    Source: git-checkout-index(1), EXAMPLES, "Using git checkout-index to export an entire tree".
    """
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"{place}: cannot be created: {error.strerror}") from error
    own = {"GIT_INDEX_FILE": str(index)}
    try:
        _git(project, "read-tree", commit, env=own)
        _git(project, "checkout-index", "--all", f"--prefix={place}/", env=own)
        staged = _git(project, "ls-files", "--stage", env=own)
    except CommandError as error:
        raise StoreError(f"--base: {commit[:12]}: cannot be written to {place}: {_last(error)}") from error
    modules = [line.partition("\t")[2] for line in staged.splitlines() if line.startswith("160000 ")]
    return (f"the base revision is without its submodules: {', '.join(modules)}",) if modules else ()


def _last(error: CommandError) -> str:
    return (error.stderr_tail.strip().splitlines() or ["git says nothing"])[-1]
