"""Requests of a start that was prepared: let the workload run, be ready again, have all memory read."""

from __future__ import annotations

from harness.agent import answers
from harness.agent.session import AgentSession
from harness.errors import AgentError
from harness.model.milestones import Mark


def go(session: AgentSession, deadline_ns: int) -> None:
    """Let the workload run, of an agent that was told to hold it (`WorkloadSpec.hold`)."""
    session.request("go", deadline_ns)


def again(session: AgentSession, deadline_ns: int) -> Mark:
    """Return a mark of the moment at which the workload is ready again, after its instance stood still.

    Raises: AgentError when it is not ready any more.
    """
    first = len(session.calibration)
    session.request("again", deadline_ns)
    found = session.samples(first, 1)
    if not found:
        raise AgentError("agent: again: its mark did not come")
    return found[0]


def touch(session: AgentSession, deadline_ns: int) -> int:
    """Have every page of the workload's processes read that is there; return how many bytes that were."""
    try:
        return answers.parse_numbers(session.request("touch", deadline_ns), 1)[0]
    except ValueError as error:
        raise AgentError(f"agent: touch: malformed answer: {error}") from error
