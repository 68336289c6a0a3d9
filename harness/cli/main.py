"""The `harness` command: finds the verb, runs it, and turns every error into an exit code. The only sys.exit.

Subcommands are imported when they are used, so that `harness --help` stays quick: each verb's line of help is here.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from harness import __version__
from harness.cli._output import print_error
from harness.errors import HarnessError

EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
# What a program that SIGPIPE kills ends with: the reader of our output has gone (`harness list | head -1`).
EXIT_BROKEN_PIPE = 141


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a subcommand is, and its line in the list."""

    module: str
    attribute: str
    help: str


VERBS = {
    "run": Verb("harness.cli.run", "run", "Plan, measure, analyse and report a scenario."),
    "plan": Verb("harness.cli.scenario", "plan", "Show what a run would do, and what is missing for it."),
    "validate": Verb("harness.cli.scenario", "validate", "Check scenario files; every mistake at once."),
    "schema": Verb("harness.cli.scenario", "schema", "Print the JSON Schema of a scenario, for editors."),
    "doctor": Verb("harness.cli.doctor", "doctor", "Say what works on this host, why not, and how noisy it is."),
    "probe": Verb("harness.cli.probe", "probe", "Ask once what each runtime lets its workload reach."),
    "list": Verb("harness.cli.listing", "listing", "List backends, workloads, probes, metrics or runs."),
    "report": Verb("harness.cli.report", "report", "Show a finished run again, in any format."),
    "explain": Verb("harness.cli.explain", "explain", "Toggle one lever of a runtime at a time: what is each worth?"),
    "bundle": Verb("harness.cli.bundle", "bundle", "Put a finished run into one archive, with its reports."),
    "compare": Verb("harness.cli.gate", "compare", "Compare two runs of one scenario, metric by metric."),
    "gate": Verb("harness.cli.gate", "gate", "Fail where a run got worse than a base run or its history."),
    "history": Verb("harness.cli.history", "history", "Keep the summaries of runs, and look at how they moved."),
    "claims": Verb("harness.cli.claims", "claims", "Hold runs against the common claims on VMs and containers."),
    "image": Verb("harness.cli._image_verbs", "image", "Build, import, list and export images."),
    "container": Verb("harness.cli.container", "container", "Run containers of the built-in runtime by hand."),
    "volume": Verb("harness.cli.volume", "volume", "Keep data apart from containers: named volumes."),
    "clean": Verb("harness.cli.clean", "clean", "List and remove what a dead run left behind."),
}

HIDDEN = {"remote-serve": Verb("harness.cli.remote", "remote_serve", "Make trials for the harness of another host.")}
"""What no person types."""

EPILOG = """\b
Exit codes:
  0  ok                             4  trials failed, or something was left behind
  1  a gate failed                  5  undecided (only where asked)
  2  wrong usage or scenario        70  a bug
  3  a prerequisite is missing      130  interrupted"""


class BrokenOutput(Exception):
    """Whoever read our stdout has gone."""


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(cmd_name) or HIDDEN.get(cmd_name)
        if verb is None:
            return None
        command: click.Command = getattr(importlib.import_module(verb.module), verb.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in {*VERBS, *HIDDEN}:
            from harness.model.document import did_you_mean  # noqa: PLC0415

            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reader_gone():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader_gone():
            result = super().invoke(ctx)
            sys.stdout.flush()
        return result


@contextlib.contextmanager
def _reader_gone() -> Iterator[None]:
    """Tell a closed pipe from other errors before click does: it would end with 1, which means that a gate failed."""
    try:
        yield
    except BrokenPipeError as error:
        raise BrokenOutput from error


@click.command(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
@click.option("-v", "--verbose", is_flag=True, help="Log each helper program that is run (such as mkfs.erofs).")
def cli(*, verbose: bool) -> None:
    """Start the identical workload in virtual machines and in containers, and measure what each costs."""
    if verbose:
        import logging  # noqa: PLC0415

        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is written to stderr here."""
    try:
        result = cli.main(args=list(arguments), prog_name="harness", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):  # Abort is click's name for Ctrl-C
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        _print_usage_error(error)
        return EXIT_USAGE
    except HarnessError as error:
        print_error(error)
        return error.exit_code
    except BrokenOutput:
        # The interpreter flushes stdout once more at its end: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001  (the last door: a bug, told as one)
        return _bug(error)
    return result if isinstance(result, int) else 0


def _print_usage_error(error: click.ClickException) -> None:
    """Write click's complaint in our form; `harness` alone shows its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "harness"
    print_error(HarnessError(f"{path}: {error.format_message()}", hint=f"{path} --help"))


def _bug(error: Exception) -> int:
    import traceback  # noqa: PLC0415

    traceback.print_exception(error)
    click.echo(f"error: {type(error).__name__}: {error}", err=True)
    click.echo("hint: this is a bug in harness; please report it with the lines above", err=True)
    return EXIT_BUG


_PLAIN = str.maketrans({"µ": "u", "↓": "v", "↑": "^", "━": "=", "╌": "-", "—": "-", "…": "~"})


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """Replace letters that the output's encoding lacks: `µs` must not lose its unit, nor the report its end."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(letter if letter.isascii() else "?" for letter in letters), error.end


def _tolerate_narrow_encodings() -> None:
    """Let stdout and stderr take any text, also where they are ASCII or Latin-1 (a bare C locale, some CI)."""
    codecs.register_error("harness-plainer", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="harness-plainer")


def main() -> NoReturn:
    _tolerate_narrow_encodings()
    sys.exit(run(sys.argv[1:]))
