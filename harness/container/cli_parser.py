"""The command line of `harness-oci` as data."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from harness.container.version import VERSION

Parser = argparse.ArgumentParser


def default_root() -> str:
    """Return where states lie: below /run as root, else below $XDG_RUNTIME_DIR."""
    if os.geteuid() == 0:
        return "/run/harness-oci"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR", f"/tmp/harness-oci-{os.geteuid()}"), "harness-oci")


def parse(argv: Sequence[str]) -> SimpleNamespace:
    """Return the options; a command line that is wrong ends the process with exit code 2 and the usage."""
    return _parser().parse_args(argv, namespace=SimpleNamespace())


def _parser() -> Parser:
    parser = Parser(
        "harness-oci",
        description="Run containers by the OCI runtime specification.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # --version has two lines
    )
    parser.add_argument("--version", "-v", action="version", version=f"harness-oci version {VERSION}\nspec: 1.2.0")
    parser.add_argument("--root", default=default_root(), metavar="DIR", help="where states lie (%(default)s)")
    parser.add_argument("--log", metavar="FILE", help="append errors to a file as well")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--debug", action="store_true", help="print every step of a plan before it is taken")
    parser.add_argument("--systemd-cgroup", action="store_true", help="refused: cgroups are made without systemd")
    parser.add_argument("--cgroup-manager", choices=("cgroupfs",), default="cgroupfs", help="cgroupfs alone is there")
    parser.add_argument("--rootless", default="auto", help=argparse.SUPPRESS)
    parser.add_argument("--criu", help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for name, text, add in VERBS:
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        if add is not None:
            add(verb)
    return parser


def _id(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID")


def _streams(parser: Parser) -> None:
    parser.add_argument("--console-socket", metavar="SOCKET", help="where the other end of its terminal is sent")
    parser.add_argument("--pid-file", metavar="FILE", help="where its pid is written")
    parser.add_argument("--preserve-fds", type=_count, default=0, metavar="N", help="fds after stdio that it gets")


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: 0 to 1000")
    return number


def _create(parser: Parser) -> None:
    parser.add_argument("--bundle", "-b", default=".", metavar="DIR", help="directory with config.json (here)")
    parser.add_argument("--config", "-f", metavar="FILE", help="another file than config.json of the bundle")
    _streams(parser)
    parser.add_argument("--no-pivot", action="store_true", help="refused: chroot alone is no boundary")
    parser.add_argument("--no-new-keyring", action="store_true", help="leave the caller's session keyring")
    parser.add_argument("--trace", action="store_true", help="print how long each step took, to stderr")
    _id(parser)


def _run(parser: Parser) -> None:
    parser.add_argument("--detach", "-d", action="store_true", help="return when it runs")
    parser.add_argument("--keep", action="store_true", help="do not delete it when it ends")
    parser.add_argument("--no-subreaper", action="store_true", help=argparse.SUPPRESS)
    _create(parser)


def _kill(parser: Parser) -> None:
    parser.add_argument("--all", "-a", action="store_true", help="every process, not the first alone")
    _id(parser)
    parser.add_argument("signal", nargs="?", default="SIGTERM", metavar="SIGNAL", help="name or number (SIGTERM)")


def _delete(parser: Parser) -> None:
    parser.add_argument("--force", "-f", action="store_true", help="end it first if it runs")
    parser.add_argument("--regex", action="store_true", help="ID is a regular expression: every container it fits")
    _id(parser)


def _exec(parser: Parser) -> None:
    parser.add_argument("--process", "-p", metavar="FILE", help="process.json; without it the options below")
    parser.add_argument("--cwd", metavar="DIR")
    parser.add_argument("--env", "-e", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--tty", "-t", action="store_true")
    parser.add_argument("--user", "-u", metavar="UID[:GID]")
    parser.add_argument("--additional-gids", "-g", action="append", type=int, default=[], metavar="GID")
    parser.add_argument("--cap", "-c", action="append", default=[], metavar="CAP_NAME")
    parser.add_argument("--no-new-privs", action="store_true")
    parser.add_argument("--apparmor", metavar="PROFILE")
    parser.add_argument("--process-label", metavar="LABEL")
    parser.add_argument("--detach", "-d", action="store_true")
    parser.add_argument("--ignore-paused", action="store_true")
    parser.add_argument("--trace", action="store_true", help="print how long each step took, to stderr")
    _streams(parser)
    _id(parser)
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="COMMAND [ARGUMENT...]")


def _list(parser: Parser) -> None:
    parser.add_argument("--format", "-f", choices=("table", "json"), default="table")
    parser.add_argument("--quiet", "-q", action="store_true", help="ids alone")


def _ps(parser: Parser) -> None:
    parser.add_argument("--format", "-f", choices=("table", "json"), default="table")
    _id(parser)
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="PS_OPTION...")


def _events(parser: Parser) -> None:
    parser.add_argument("--stats", action="store_true", help="once, then end")
    parser.add_argument("--interval", default="5s", metavar="DURATION")
    _id(parser)


_UPDATES = (
    "memory", "memory-reservation", "memory-swap", "cpu-period", "cpu-quota", "cpu-burst", "cpu-share", "cpu-idle",
    "pids-limit", "blkio-weight", "cpu-rt-period", "cpu-rt-runtime", "kernel-memory", "kernel-memory-tcp",
)  # fmt: skip


def _update(parser: Parser) -> None:
    parser.add_argument("--resources", "-r", metavar="FILE", help="JSON of linux.resources, - for stdin")
    for name in _UPDATES:
        parser.add_argument(f"--{name}", metavar="VALUE")
    parser.add_argument("--cpuset-cpus", metavar="LIST")
    parser.add_argument("--cpuset-mems", metavar="LIST")
    _id(parser)


def _spec(parser: Parser) -> None:
    parser.add_argument("--bundle", "-b", default=".", metavar="DIR", help="where config.json is written (here)")
    parser.add_argument("--rootless", action="store_true", dest="without_root", help="for a caller without privileges")


VERBS: tuple[tuple[str, str, Callable[[Parser], None] | None], ...] = (
    ("create", "make a container; its program waits for `start`", _create),
    ("start", "let a created container run its program", _id),
    ("state", "print the state of a container as JSON", _id),
    ("kill", "send a signal to a container", _kill),
    ("delete", "remove a container that stopped", _delete),
    ("run", "create and start a container; wait for it", _run),
    ("exec", "run another process in a container", _exec),
    ("list", "list the containers", _list),
    ("ps", "list the processes of a container", _ps),
    ("pause", "freeze a container", _id),
    ("resume", "thaw a container", _id),
    ("update", "change the limits of a container", _update),
    ("events", "print what a container uses", _events),
    ("features", "print what this runtime can do, as JSON", None),
    ("spec", "write an example of config.json", _spec),
)
