"""What each command of `harness-oci` does: options in, text on stdout, an exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace

from harness.container import cli_parser
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.hooks import state_document
from harness.container.oci import Runtime

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from harness.container.create import Streams
    from harness.container.launcher import Launched

Options = SimpleNamespace
_MAX_PRESERVED = 1000
_EVENT_PAUSE_S = 0.1
_REAL_TIME = {"RTMIN": "+", "RTMAX": "-"}


def run(options: Options) -> int:
    """Run the command that was parsed. Raises ContainerError."""
    return _VERBS[options.verb](options)


def runtime_of(options: Options) -> Runtime:
    """Return the runtime of `--root`; compiled filters are kept in it, by a name that no id can have."""
    from harness.container.cli import report

    cache_dir = os.path.join(os.path.abspath(options.root), ".seccomp")
    runtime = Runtime(options.root, cache_dir=cache_dir, warn=lambda text: report(options, text, "warning"))
    if options.debug:
        runtime.debug = lambda text: report(options, text, "debug")
    return runtime


# -- the life of a container -----------------------------------------------------------------------------------------


def _streams(options: Options) -> Streams:
    from harness.container.create import Streams

    return Streams(options.console_socket, preserved(options.preserve_fds), options.pid_file)


def preserved(count: int) -> tuple[int | None, ...]:
    """Return the fds from 3 on that the program shall have, None for holes: those of our own are close-on-exec.

    With $LISTEN_FDS set, as by systemd, as many more (sd_listen_fds(3)).
    """
    import fcntl

    listening = os.environ.get("LISTEN_FDS", "")
    count += int(listening) if listening.isdigit() else 0
    found: list[int | None] = []
    for fd in range(3, 3 + min(count, _MAX_PRESERVED)):
        try:
            found.append(None if fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC else fd)
        except OSError:
            found.append(None)
    while found and found[-1] is None:
        found.pop()
    return tuple(found)


def _created(options: Options, *, proxied: bool = False) -> Launched:
    if options.no_pivot:
        raise ContainerError("--no-pivot", 0, "not supported: a process can leave a chroot")
    from harness.container.create import CreateOptions

    runtime = runtime_of(options)
    how = CreateOptions(config=options.config, keyring=not options.no_new_keyring, proxied=proxied, trace=options.trace)
    launched = runtime.create(options.id, options.bundle, _streams(options), how)
    if options.trace:
        _print_trace(launched)
    return launched


def _print_trace(launched: Launched) -> None:
    """To stderr: the container's own output is on stdout."""
    for line in launched.trace_lines():
        print(line, file=sys.stderr)


def _create(options: Options) -> int:
    _created(options)
    return 0


def _start(options: Options) -> int:
    runtime_of(options).start(options.id)
    return 0


def _run(options: Options) -> int:
    """As `create` and `start`; in the foreground, stay until it ends, then delete it."""
    from harness.container import foreground

    runtime = runtime_of(options)
    launched = _created(options, proxied=not options.detach and options.console_socket is None)
    if "terminal" in launched.fds:
        foreground.give_size(launched.fds["terminal"])  # before the program can ask for it
    with foreground.passing_signals(launched.pid):
        try:
            runtime.start(options.id)
        except ContainerError:
            runtime.delete(options.id, force=True)
            raise
        if options.detach:
            return 0
        code = foreground.wait(launched.pid, launched.fds.get("terminal"))
    if not options.keep:
        runtime.delete(options.id, force=True)
    return code


def _state(options: Options) -> int:
    record, status = runtime_of(options).state(options.id)
    more = {"rootfs": record.rootfs, "created": record.created, "owner": record.owner}
    print(json.dumps({**state_document(record, status), **more}, indent=2))
    return 0


def signal_number(word: str) -> int:
    """Return the number of `9`, `KILL`, `SIGKILL` or `RTMIN+1`. Raises ContainerError for what is no signal."""
    if word.isascii() and word.isdigit() and 0 <= int(word) <= 64:
        return int(word)
    name = word.upper().removeprefix("SIG")
    base, count = name[:5], name[6:]
    if base in _REAL_TIME and name[5:6] == _REAL_TIME[base] and count.isascii() and count.isdigit():
        number = signal.Signals[f"SIG{base}"] + int(name[5:])
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise ContainerError("kill", 0, f"{word}: unknown signal") from None


def _kill(options: Options) -> int:
    runtime_of(options).kill(options.id, signal_number(options.signal), everything=options.all)
    return 0


def _delete(options: Options) -> int:
    runtime, failed = runtime_of(options), 0
    for container_id in _fitting(runtime, options.id) if options.regex else (options.id,):
        try:
            runtime.delete(container_id, force=options.force)
        except ContainerError as error:
            if options.force and error.step == "container":  # it is gone: that is what was asked for
                continue
            if not options.regex:
                raise
            failed = 1  # one that resists does not keep the others
            runtime.warn(f"{container_id}: {error}")
    return failed


def _fitting(runtime: Runtime, pattern: str) -> list[str]:
    import re

    try:
        return [container_id for container_id in runtime.homes.ids() if re.search(pattern, container_id)]
    except re.error as error:
        raise ContainerError("--regex", 0, f"{pattern}: {error}") from error


def _pause(options: Options) -> int:
    runtime_of(options).pause(options.id)
    return 0


def _resume(options: Options) -> int:
    runtime_of(options).resume(options.id)
    return 0


# -- exec ------------------------------------------------------------------------------------------------------------


def _exec(options: Options) -> int:
    """What fails before the program runs is 255, as runc's: 1 is the program's own."""
    try:
        return _executed(options)
    except ContainerError as error:
        from harness.container.cli import report

        report(options, str(error))
        return 255


def _executed(options: Options) -> int:
    from harness.container import attach, cli_exec, foreground

    runtime = runtime_of(options)
    process = cli_exec.process(options, lambda: attach.base_process(runtime, options.id))
    attached = not options.detach and options.console_socket is None
    if attached and process.terminal and process.console_size is None:
        process = replace(process, console_size=foreground.own_size())
    how = attach.ExecOptions(options.ignore_paused, options.trace, proxied=attached)
    launched = attach.execute(runtime, options.id, process, _streams(options), how)
    if options.trace:
        _print_trace(launched)
    return 0 if options.detach else foreground.wait(launched.pid, launched.fds.get("terminal"))


# -- what there is ---------------------------------------------------------------------------------------------------


def _entries(options: Options) -> list[dict[str, object]]:
    entries = []
    runtime = runtime_of(options)
    for container_id in runtime.homes.ids():
        try:
            record, status = runtime.state(container_id)
        except ContainerError:  # it went away meanwhile, or its runtime was killed before it said anything
            continue
        more = {"rootfs": record.rootfs, "created": record.created, "owner": record.owner}
        entries.append({**state_document(record, status), "pid": record.pid if status != "stopped" else 0, **more})
    return entries


def _list(options: Options) -> int:
    if options.quiet:
        print("".join(f"{container_id}\n" for container_id in runtime_of(options).homes.ids()), end="")
        return 0
    entries = _entries(options)
    if options.format == "json":
        print(json.dumps(entries, separators=(",", ":")))
        return 0
    columns = ("id", "pid", "status", "bundle", "created", "owner")
    rows = [tuple(column.upper() for column in columns), *(tuple(str(row[key]) for key in columns) for row in entries)]
    widths = [max(len(row[i]) for row in rows) + 3 for i in range(len(columns))]
    for row in rows:
        print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _ps(options: Options) -> int:
    runtime = runtime_of(options)
    record, _ = runtime.state(options.id)
    pids = runtime.group(record, "ps").pids()
    if options.format == "json":
        print(json.dumps(list(pids)))
        return 0
    import subprocess

    shown = subprocess.run(["ps", *(options.args or ["-ef"])], capture_output=True, text=True, check=False)
    if shown.returncode:
        raise ContainerError("ps", 0, shown.stderr.strip())
    head, *lines = shown.stdout.splitlines()
    column = head.split().index("PID")
    print(head)
    for line in lines:
        if int(line.split()[column]) in pids:
            print(line)
    return 0


def _events(options: Options) -> int:
    """Print what it uses, once an interval, and each OOM kill soon after it happened; until it is gone."""
    import time

    from harness.container import cli_stats

    runtime, due_s, killed = runtime_of(options), 0.0, 0
    while True:
        try:
            record, status = runtime.state(options.id)
        except ContainerError as error:
            if due_s and error.step == "container":  # deleted since we looked first
                return 0
            raise
        if status == "stopped" and options.stats:
            raise ContainerError("events", 0, f"{options.id}: container is stopped")
        stats = runtime.group(record, "events").stats()
        for _ in range((stats.memory.oom_kills_count or 0) - killed):
            _event("oom", options.id)
        killed = stats.memory.oom_kills_count or 0
        if time.monotonic() >= due_s and status != "stopped":
            _event("stats", options.id, cli_stats.document(stats))
            due_s = time.monotonic() + cli_stats.duration_s(options.interval)
        if options.stats or status == "stopped":
            return 0
        time.sleep(min(_EVENT_PAUSE_S, cli_stats.duration_s(options.interval)))


def _event(kind: str, container_id: str, data: object = None) -> None:
    more = {} if data is None else {"data": data}
    print(json.dumps({"type": kind, "id": container_id, **more}, separators=(",", ":")), flush=True)


def _update(options: Options) -> int:
    from harness.container import cli_update

    runtime_of(options).update(options.id, cli_update.resources(options))
    return 0


def _features(_options: Options) -> int:
    from harness.container import features

    print(json.dumps(features.document(), indent=2))
    return 0


def _spec(options: Options) -> int:
    from harness.container import config_example

    path = os.path.join(options.bundle, "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(config_example.example(rootless=options.without_root), file, indent=2)
    except OSError as error:
        raise ContainerError("spec", error.errno or 0, path) from error
    return 0


_VERBS: Mapping[str, Callable[[Options], int]] = {
    "create": _create, "start": _start, "state": _state, "kill": _kill, "delete": _delete, "run": _run, "exec": _exec,
    "list": _list, "ps": _ps, "pause": _pause, "resume": _resume, "update": _update, "events": _events,
    "features": _features, "spec": _spec,
}  # fmt: skip
assert set(_VERBS) == {name for name, _, _ in cli_parser.VERBS}
