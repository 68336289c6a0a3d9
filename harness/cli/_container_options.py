"""The options of `harness container run` and `exec`, named as Docker names them, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.errors import UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _text(*names: str, metavar: str, text: str, many: bool = False) -> Callable[[_Command], _Command]:
    return click.option(*names, metavar=metavar, multiple=many, help=text + (" Repeat it." if many else ""))


def _flag(*names: str, text: str) -> Callable[[_Command], _Command]:
    return click.option(*names, is_flag=True, help=text)


_RUN = (
    _flag("-d", "--detach", text="Leave it in the background and print its id; `logs` shows what it writes."),
    _flag("-i", "--interactive", text="Give it our stdin; without this, reading ends at once."),
    _flag("-t", "--tty", text="Give it a terminal."),
    _flag("--rm", "remove", text="Remove it, and volumes without a name, when it ends."),
    _text("--name", metavar="NAME", text="Its name; made up where left out."),
    _text("-e", "--env", metavar="NAME[=VALUE]", text="Set a variable; NAME alone passes ours on.", many=True),
    _text("--env-file", metavar="FILE", text="Variables from a file, one NAME=VALUE a line.", many=True),
    _text("-w", "--workdir", metavar="PATH", text="Where it starts; made if missing."),
    _text("-u", "--user", metavar="USER[:GROUP]", text="Names of the image's own /etc/passwd, or numbers."),
    _text("--group-add", metavar="GROUP", text="One more group.", many=True),
    _text("--entrypoint", metavar="COMMAND", text="Instead of the image's; empty for none."),
    _text("-h", "--hostname", metavar="NAME", text="Its own id where left out."),
    _text("--add-host", metavar="NAME:ADDRESS", text="A line for /etc/hosts.", many=True),
    _text("-l", "--label", metavar="NAME=VALUE", text="A label, shown by `inspect`.", many=True),
    _text("-v", "--volume", metavar="PATH|NAME:/inside[:ro]", many=True,
          text="A path of the host, or a volume: made when missing, kept when the container is gone."),
    _text("--mount", metavar="type=...,src=...,dst=...", text="The same, in Docker's long form.", many=True),
    _text("--tmpfs", metavar="/inside[:OPTIONS]", text="A directory in memory, such as /tmp:size=64m.", many=True),
    _flag("--read-only", text="Its root cannot be written; volumes and --tmpfs can."),
    _text("-m", "--memory", metavar="SIZE", text="Memory, such as 256m; without swap unless --memory-swap."),
    _text("--memory-swap", metavar="SIZE", text="Memory and swap together; -1 is unlimited swap."),
    _text("--memory-reservation", metavar="SIZE", text="What it keeps when memory gets scarce."),
    _text("--cpus", metavar="N", text="CPU time, such as 1.5."),
    click.option("-c", "--cpu-shares", type=click.IntRange(2, 262144), help="Its weight beside others; 1024 is usual."),
    _text("--cpuset-cpus", metavar="LIST", text="Which CPUs, such as 0-2,7."),
    _text("--cpuset-mems", metavar="LIST", text="Which memory nodes."),
    click.option("--pids-limit", type=click.IntRange(min=-1), help="Processes and threads; -1 is unlimited."),
    click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), help="How soon the kernel kills it for memory."),
    _text("--shm-size", metavar="SIZE", text="/dev/shm; 64m where left out."),
    _text("--ulimit", metavar="NAME=SOFT[:HARD]", text="Such as nofile=1024:2048.", many=True),
    _text("--sysctl", metavar="NAME=VALUE", text="Of its own namespaces, such as net.core.somaxconn.", many=True),
    _text("--network", "--net", metavar="none|host|container:NAME",
          text="none (the default): loopback alone. host: the host's. container:NAME: that of another one."),
    _text("--cap-add", metavar="NAME", text="One more capability, or ALL.", many=True),
    _text("--cap-drop", metavar="NAME", text="One less of Docker's 14, or ALL.", many=True),
    _text("--security-opt", metavar="WHAT", many=True,
          text="no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, systempaths=unconfined."),
    _text("--stop-signal", metavar="SIGNAL", text="What `stop` sends; the image's, or TERM."),
    click.option("--stop-timeout", type=click.IntRange(min=0), default=10, show_default=True,
                 help="Seconds until `stop` kills it."),
    _flag("--dry-run", text="Print the numbered steps that would be taken, and start nothing."),
    _flag("--trace", text="Show on stderr what each step of the start took."),
)  # fmt: skip

_EXEC = (
    _flag("-d", "--detach", text="Do not wait for it; what it writes is lost."),
    _flag("-i", "--interactive", text="Give it our stdin."),
    _flag("-t", "--tty", text="Give it a terminal."),
    _text("-e", "--env", metavar="NAME[=VALUE]", text="Set a variable; NAME alone passes ours on.", many=True),
    _text("-w", "--workdir", metavar="PATH", text="Where it starts."),
    _text("-u", "--user", metavar="USER[:GROUP]", text="Names of the container's own /etc/passwd, or numbers."),
)


def run_options(command: _Command) -> _Command:
    """Give a command the options of `run`."""
    for option in reversed(_RUN):
        command = option(command)
    return command


def exec_options(command: _Command) -> _Command:
    """Give a command the options of `exec`."""
    for option in reversed(_EXEC):
        command = option(command)
    return command


def check_terminal(options: dict[str, Any]) -> None:
    """Raise UsageError for `-it` where our stdin is no terminal, as Docker does: keys could not be passed on."""
    import os  # noqa: PLC0415

    if options["tty"] and options["interactive"] and not options["detach"] and not os.isatty(0):
        raise UsageError("-t: stdin is no terminal", hint="leave out -t to pipe something in, or -i to show output")
    if options["detach"] and options.get("trace"):
        raise UsageError("--trace: with -d there is nobody to show it to", hint="leave out -d")


def _environment(options: dict[str, Any]) -> tuple[str, ...]:
    lines: list[str] = []
    for name in options["env_file"]:
        try:
            text = Path(name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--env-file: {name}: {error}") from error
        lines += [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    for word in (*lines, *options["env"]):
        if not word.partition("=")[0] or "\0" in word:
            raise UsageError(f"-e: {word}: expected NAME=VALUE or NAME")
    return (*lines, *options["env"])


def _limits(options: dict[str, Any]) -> Any:
    from harness.engine import request  # noqa: PLC0415

    pids = options["pids_limit"]
    swap = request.parse_size("--memory-swap", options["memory_swap"], unlimited=True)
    memory = request.parse_size("--memory", options["memory"])
    if swap is not None and memory is None:
        raise UsageError("--memory-swap: needs --memory", hint="-m 256m --memory-swap 512m")
    return request.Limits(
        memory_bytes=memory,
        swap_bytes=swap,
        reservation_bytes=request.parse_size("--memory-reservation", options["memory_reservation"]),
        quota_us=request.parse_quota_us(options["cpus"]),
        shares=options["cpu_shares"],
        cpus=options["cpuset_cpus"] or "",
        mems=options["cpuset_mems"] or "",
        pids=pids or None,
        oom_score_adj=options["oom_score_adj"],
        shm_bytes=request.parse_size("--shm-size", options["shm_size"]) or 64 << 20,
    )


def request_of(image: str, command: tuple[str, ...], options: dict[str, Any]) -> Any:
    """Return the container that the command line asks for. Raises: UsageError."""
    from harness.engine import request  # noqa: PLC0415

    check_terminal(options)
    name = options["name"] or ""
    if name and not request.is_name(name):
        raise UsageError(f"--name: {name}: letters, digits and _ . - only, a letter or digit first")
    mounts = (
        *map(request.parse_volume, options["volume"]),
        *map(request.parse_mount, options["mount"]),
        *map(request.parse_tmpfs, options["tmpfs"]),
    )
    targets = [mount.target for mount in mounts]
    for target in targets:
        if targets.count(target) > 1:
            raise UsageError(f"-v: {target}: is mounted on twice")
    entrypoint = options["entrypoint"]
    return request.Request(
        image,
        command,
        name=name,
        entrypoint=None if entrypoint is None else tuple(filter(None, (entrypoint,))),
        env=_environment(options),
        workdir=request.check_workdir(options["workdir"] or ""),
        user=options["user"] or "",
        groups=options["group_add"],
        hostname=request.check_hostname(options["hostname"] or ""),
        hosts=options["add_host"],
        labels=request.parse_pairs("--label", options["label"]),
        interactive=options["interactive"],
        tty=options["tty"],
        remove=options["remove"],
        detach=options["detach"],
        network=request.check_network(options["network"] or "none"),
        mounts=mounts,
        read_only=options["read_only"],
        capabilities=request.choose_capabilities(options["cap_add"], options["cap_drop"]),
        security=request.parse_security(options["security_opt"]),
        limits=_limits(options),
        ulimits=tuple(map(request.parse_ulimit, options["ulimit"])),
        sysctls=request.parse_pairs("--sysctl", options["sysctl"]),
        stop_signal=options["stop_signal"] or "",
        stop_timeout_s=options["stop_timeout"],
    )
