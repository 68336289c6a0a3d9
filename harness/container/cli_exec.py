"""The process of `exec`: from a file, or the container's own with the changes of the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

from harness.container import config
from harness.container._fields import MAX_ID
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.spec import Capabilities, Process


def process(options: SimpleNamespace, base: Callable[[], Process]) -> Process:
    """Return what shall run. Raises ContainerError for what is missing or makes no sense."""
    if options.process is not None:
        given = config.load_process(options.process)
        return replace(given, terminal=given.terminal or options.tty)
    if not options.args:
        raise ContainerError("exec", 0, "a command (or --process FILE) is missing")
    own = base()
    uid, gid = _user(options.user) if options.user else (own.uid, own.gid)
    return replace(
        own,
        args=tuple(options.args),
        env=_changed(own.env, options.env),
        cwd=options.cwd or own.cwd,
        uid=uid,
        gid=gid,
        additional_gids=tuple(options.additional_gids) or own.additional_gids,
        terminal=options.tty,
        capabilities=_with(own.capabilities, options.cap),
        no_new_privs=own.no_new_privs or options.no_new_privs,
        apparmor_profile=options.apparmor or own.apparmor_profile,
        selinux_label=options.process_label or own.selinux_label,
        seccomp=None,
    )


def _changed(own: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """Return an environment in which later entries take the place of those with the same name."""
    entries = {entry.partition("=")[0]: entry for entry in (*own, *more)}
    return tuple(entries.values())


def _user(text: str) -> tuple[int, int]:
    """Numbers alone: a name would have to be looked up in files of the container, which may be hostile.

    All ones are no id: setresuid(2) leaves the user as it is then, which is root.
    """
    uid, colon, gid = text.partition(":")
    parts = (uid, gid if colon else "0")
    if not all(part.isascii() and part.isdigit() and len(part) <= 10 and int(part) <= MAX_ID for part in parts):
        raise ContainerError("--user", 0, f"{text}: UID or UID:GID, as numbers")
    return int(parts[0]), int(parts[1])


def _with(sets: Capabilities | None, names: list[str]) -> Capabilities | None:
    if not names:
        return sets
    more = [name.lower().removeprefix("cap_") for name in names]
    own = sets or Capabilities()
    bounding, effective, permitted = (
        tuple(dict.fromkeys((*old, *more))) for old in (own.bounding, own.effective, own.permitted)
    )
    return Capabilities(bounding, effective, permitted, own.inheritable, own.ambient)
