"""`harness container ...`: the built-in runtime by hand, with the words of Docker's command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from harness.cli._container_options import check_terminal, exec_options, request_of, run_options
from harness.cli._output import note, print_json
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.engine.prepare import Prepared
    from harness.engine.record import Shelf

_SCHEMA = "harness.container/1"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
_COMMAND = {"help_option_names": ["--help"], "allow_interspersed_args": False}  # what follows IMAGE is the command's
EXIT_CODES = """\b
Exit codes:
  that of the program; 128 + n where signal n ended it
  125  the container could not be made     127  there is no such program in it
  126  its program cannot be executed      2, 3, 70, 130  as everywhere: harness --help"""


def _shelf() -> Shelf:
    from harness.engine.record import Shelf  # noqa: PLC0415

    return Shelf()


@click.group()
def container() -> None:
    """Run containers of the built-in runtime by hand.

    The words are Docker's. Containers start from images of the store (`harness image ls`) and live until they end; they
    are listed by `ps`, kept with their output until `rm`, and lost from sight by nothing but that: `harness clean` does
    not touch them. Needs root.

    \b
    First steps:
      harness image bootstrap busybox
      harness container run --rm -it busybox sh
      harness container run -d --name web -v /srv/www:/www:ro busybox httpd -f -p 8080 -h /www
      harness container exec web ps
      harness container logs -f web
      harness container stop web && harness container rm web
    """


# -- run -------------------------------------------------------------------------------------------------------------


@container.command(context_settings=_COMMAND, epilog=EXIT_CODES)
@run_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(image: str, command: tuple[str, ...], **options: Any) -> int:
    """Make a container from IMAGE and run COMMAND in it, or what the image says.

    In the foreground we stay until it ends, pass on what it writes and the signals that we get, and log both; Ctrl-C is
    the container's. A first process that ignores being asked twice is killed at the third Ctrl-C. If this command is
    itself killed (kill -9), the container ends with it. With -d it stays when we go.

    \b
    Examples:
      harness container run --rm busybox echo hello
      harness container run --rm -it -v "$PWD":/src -w /src busybox sh
      harness container run -d --name db -v data:/var/lib/db -m 256m --cpus 1.5 --pids-limit 100 IMAGE
      harness container run --rm --read-only --cap-drop ALL -u 1000 --security-opt no-new-privileges busybox id
      harness container run --dry-run busybox true      what would be done, step by step
      harness container run --rm --trace busybox true   what each step takes
    """
    from harness.engine import prepare  # noqa: PLC0415

    request = request_of(image, command, options)
    shelf = _shelf()
    prepared = prepare.prepare(shelf, request)
    if options["dry_run"]:
        click.echo(prepare.describe(prepared))
        return 0
    shelf.sweep()
    return _run_detached(shelf, prepared) if request.detach else _run_attached(shelf, prepared, trace=options["trace"])


def _run_attached(shelf: Shelf, prepared: Prepared, *, trace: bool) -> int:
    from harness.engine import life  # noqa: PLC0415

    made = life.make(shelf, prepared)
    started = life.start(shelf, made, trace=trace)
    if trace:
        from harness.cli._container_show import print_trace  # noqa: PLC0415

        print_trace(prepared, started)
    return life.watch(shelf, made, started, note)


def _run_detached(shelf: Shelf, prepared: Prepared) -> int:
    from harness.cli._container_detach import detached  # noqa: PLC0415
    from harness.engine import life  # noqa: PLC0415

    made = life.make(shelf, prepared)

    def work(begun: Callable[[], None]) -> None:
        started = life.start(shelf, made)
        begun()
        life.watch(shelf, made, started, lambda _text: None)

    try:
        detached(work)
    finally:
        os.close(made.lock)  # the child's copy keeps it locked
    click.echo(prepared.record.id)
    return 0


@container.command(name="exec", context_settings=_COMMAND, epilog=EXIT_CODES)
@exec_options
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND in the container NAME, beside what runs there.

    It gets the container's namespaces, cgroup, capabilities, seccomp filter and environment.

    \b
    Examples:
      harness container exec web ps
      harness container exec -it -e DEBUG=1 -w /www -u www web sh
    """
    from harness.cli._container_detach import detached  # noqa: PLC0415
    from harness.engine import life  # noqa: PLC0415
    from harness.engine.request import check_workdir  # noqa: PLC0415

    check_terminal(options)
    shelf = _shelf()
    sight = shelf.look(shelf.home(shelf.find(name)).read())
    request = life.ExecRequest(
        command, options["env"], check_workdir(options["workdir"] or ""), options["user"] or "",
        options["interactive"], options["tty"], options["detach"],
    )  # fmt: skip
    if not request.detach:
        return life.attend(*life.execute(shelf, sight, request), note)

    def work(begun: Callable[[], None]) -> None:
        pid, relay = life.execute(shelf, sight, request)
        begun()
        life.attend(pid, relay, lambda _text: None)

    detached(work)
    return 0


# -- what there is ---------------------------------------------------------------------------------------------------


@container.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Those that ended as well.")
@click.option("-q", "--quiet", is_flag=True, help="Ids alone.")
@_JSON
def ps(*, everything: bool, quiet: bool, as_json: bool) -> None:
    """List the containers that run; with -a also those that ended and were not removed."""
    from harness.cli._container_show import print_containers, sight_json  # noqa: PLC0415

    shelf = _shelf()
    sights = [shelf.look(record) for record in shelf.records()]
    shown = [sight for sight in sights if everything or sight.is_running]
    if as_json:
        print_json({"schema": _SCHEMA, "containers": [sight_json(sight) for sight in shown]})
    elif quiet:
        click.echo("".join(f"{sight.record.id}\n" for sight in reversed(shown)), nl=False)
    elif shown:
        print_containers(shown)
    elif sights:
        note(f"no container runs; {len(sights)} ended: harness container ps -a")
    else:
        note("no containers; make one: harness container run --rm busybox echo hello")


@container.command()
@click.argument("name")
def inspect(name: str) -> None:
    """Print what is known of the container NAME as one JSON document, its config.json included."""
    import json  # noqa: PLC0415

    from harness.cli._container_show import sight_json  # noqa: PLC0415

    shelf = _shelf()
    home = shelf.home(shelf.find(name))
    sight = shelf.look(home.read())
    config = json.loads((home.path / "config.json").read_text())
    print_json({"schema": _SCHEMA, "container": {**sight_json(sight), "bundle": str(home.path), "config": config}})


@container.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what it writes, until it ends.")
@click.option("-n", "--tail", type=click.IntRange(min=0), help="Only the last so many lines.")
@click.option("-t", "--timestamps", is_flag=True, help="Say when each line came.")
@click.argument("name")
def logs(name: str, *, follow: bool, tail: int | None, timestamps: bool) -> None:
    """Print what the container NAME wrote: its stdout to ours, its stderr to ours."""
    from harness.engine import logs as log_files  # noqa: PLC0415

    shelf = _shelf()
    home = shelf.home(shelf.find(name))
    home.read()
    is_over = (lambda: not home.is_watched()) if follow else None
    for entry in log_files.read(home.log, tail=tail, is_over=is_over):
        stream = sys.stderr.buffer if entry.stream == "stderr" else sys.stdout.buffer
        stream.write((f"{entry.time} ".encode() if timestamps else b"") + entry.text)
        if follow:
            stream.flush()


# -- the end ---------------------------------------------------------------------------------------------------------


def _each(names: Sequence[str], act: Callable[[str], None]) -> None:
    """Do something with each container, print its name; what fails does not keep the others. Raises: HarnessError."""
    failed: list[HarnessError] = []
    for name in dict.fromkeys(names):
        try:
            act(name)
            click.echo(name)
        except HarnessError as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        hints = "; ".join(dict.fromkeys(error.hint for error in failed if error.hint))
        joined = type(failed[0])("\n".join(error.message for error in failed), hint=hints or None)
        raise joined


_NAMES = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@container.command()
@click.option("-t", "--time", "timeout_s", type=click.IntRange(min=0), metavar="SECONDS",
              help="Until it is killed; 10 unless --stop-timeout of `run` said otherwise.")  # fmt: skip
@_NAMES
def stop(names: tuple[str, ...], timeout_s: int | None) -> None:
    """End containers: ask with their stop signal, wait, then kill. One that has ended is left as it is."""
    from harness.engine import life  # noqa: PLC0415

    shelf = _shelf()
    _each(names, lambda name: life.stop(shelf, shelf.look(shelf.home(shelf.find(name)).read()), timeout_s))


@container.command()
@click.option("-s", "--signal", "word", default="KILL", show_default=True, help="Such as TERM, HUP or 9.")
@_NAMES
def kill(names: tuple[str, ...], word: str) -> None:
    """Send a signal to the first process of containers. The kernel keeps from it what it has no handler for."""
    from harness.engine import life  # noqa: PLC0415
    from harness.engine.prepare import signal_number  # noqa: PLC0415

    shelf, number = _shelf(), signal_number(word)
    _each(names, lambda name: life.kill(shelf, shelf.look(shelf.home(shelf.find(name)).read()), number))


@container.command()
@click.option("-f", "--force", is_flag=True, help="End those that run first.")
@_NAMES
def rm(names: tuple[str, ...], *, force: bool) -> None:
    """Remove containers with what they wrote and logged. Volumes that have a name stay."""
    from harness.engine import life  # noqa: PLC0415

    shelf = _shelf()
    _each(names, lambda name: life.remove(shelf, shelf.find(name), force=force))
