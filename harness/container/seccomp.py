"""Seccomp profiles as frozen data, and the filters that they become.

The data is `linux.seccomp` of the OCI runtime specification 1.2 (config-linux.md, "Seccomp"), with its own words for
actions, architectures, operators and flags.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arg:
    """A condition on one argument (0 to 5) of a system call, compared as an unsigned 64-bit number.

    For SCMP_CMP_MASKED_EQ, `value` is the mask and `value_two` what the masked argument must be.
    """

    index: int
    value: int
    value_two: int = 0
    op: str = "SCMP_CMP_EQ"


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to system calls of these names whose arguments fulfil all of `args`. `errno` None: EPERM."""

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    args: tuple[Arg, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile. `architectures` beside the host's own, which is always one; `default_errno` None: EPERM."""

    default_action: str
    default_errno: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    listener_path: str | None = None
    listener_metadata: str = ""
