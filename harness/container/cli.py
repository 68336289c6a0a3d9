"""`harness-oci`: the built-in runtime on the command line that OCI engines speak (runc's, with crun's additions)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace

from harness.container import cli_parser
from harness.container.errors import ContainerError

EXIT_FAILURE = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 for what failed, or that of the program for `run` and `exec`."""
    options = cli_parser.parse(sys.argv[1:] if argv is None else argv)
    try:
        if options.systemd_cgroup:
            raise ContainerError(
                "--systemd-cgroup", 0, "not supported: this runtime makes cgroups itself (cgroupfs); leave it out"
            )
        from harness.container import cli_verbs

        return cli_verbs.run(options)
    except ContainerError as error:
        return _fail(options, str(error))
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return 130


def _fail(options: SimpleNamespace, message: str) -> int:
    report(options, message)
    return EXIT_FAILURE


def report(options: SimpleNamespace, message: str, level: str = "error") -> None:
    """Say what is wrong on stderr, and in the file of `--log`."""
    print(f"harness-oci: {'' if level == 'error' else f'{level}: '}{message}", file=sys.stderr)
    if options.log:
        _log(options, message, level)


def _log(options: SimpleNamespace, message: str, level: str) -> None:
    """Append a line in the form in which runc's are read by containerd and conmon."""
    import json
    import time

    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if options.log_format == "json":
        line = json.dumps({"level": level, "msg": message, "time": moment})
    else:
        line = f"time={json.dumps(moment)} level={level} msg={json.dumps(message)}"
    try:
        with open(options.log, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        print(f"harness-oci: --log {options.log}: {error.strerror}", file=sys.stderr)
