"""Every error that a user can meet, and the exit code it ends with.

    HarnessError                70   a bug, unless a subclass says otherwise
    ├── UsageError               2   the command line is wrong; nothing ran
    ├── ScenarioError            2   the scenario is wrong: carries one Problem per mistake, all at once
    ├── BuildError               2   a Containerfile is wrong or one of its steps failed
    ├── CapabilityError          3   a prerequisite is missing; nothing was measured
    │   ├── ImageError           3   an image is missing, damaged or hostile
    │   └── CommandError         3   a tool that we call failed (argv, return code, end of its stderr)
    ├── StoreError               2   a run directory is missing, damaged or of an unknown schema
    ├── TrialError               4   one trial failed; it becomes a record, the run goes on
    │   ├── BackendError         4   the system under test could not be started or stopped
    │   ├── AgentError           4   the agent inside did not answer, or answered nonsense
    │   └── TrialTimeout         4   a milestone did not come in time
    ├── RunFailed                4   trials failed beyond tolerance, or arms were not identical
    └── Interrupted            130   Ctrl-C; the run directory can be resumed

Messages read `what: which: why`; `hint` says what to do next. Only `harness.cli` turns an error into an exit.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass


class HarnessError(Exception):
    """Base of all: `message` is one line, `hint` the next step or None."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HarnessError):
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file; `line` and `column` count from 1, `key` is the dotted path, may be empty.

    `line` is 0 where the mistake has no place: a file that cannot be read, a value given on the command line.
    """

    path: str
    line: int
    column: int
    key: str
    message: str
    code: str = "invalid"

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}:{self.column}: " if self.line else f"{self.path}: "
        return where + (f"{self.key}: {self.message}" if self.key else self.message)


class ScenarioError(HarnessError):
    exit_code = 2

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)
        self.problems = tuple(problems)


class BuildError(HarnessError):
    exit_code = 2


class CapabilityError(HarnessError):
    exit_code = 3


class ImageError(CapabilityError):
    pass


class CommandError(CapabilityError):
    """A subprocess failed. `returncode` is negative for a signal; `stderr_tail` holds its last lines."""

    def __init__(self, argv: Sequence[str], returncode: int, stderr_tail: str, *, hint: str | None = None) -> None:
        how = f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
        last = stderr_tail.strip().splitlines()[-1:] or ["no message"]
        super().__init__(f"{shlex.join(argv)}: {how}: {last[0]}", hint=hint)
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr_tail = stderr_tail


class StoreError(HarnessError):
    exit_code = 2


class TrialError(HarnessError):
    """One trial failed. `ending` says what became of the instance where that is known: of `model.records.ENDINGS`."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str | None = None, ending: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.ending = ending


class BackendError(TrialError):
    pass


class AgentError(TrialError):
    pass


class TrialTimeout(TrialError):
    pass


class RunFailed(HarnessError):
    exit_code = 4


class Interrupted(HarnessError):
    exit_code = 130
