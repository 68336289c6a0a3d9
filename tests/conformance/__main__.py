"""The command behind scripts/conformance."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tests.conformance.build import Missing, build
from tests.conformance.run import SUITES, Job, Results, Runtime, Suite, find_runtime, run_all
from tests.conformance.verdicts import Verdict

OURS = "harness-oci"
DEFAULT_SUITES = ("runtime-tools", "crun")
DEFAULT_RUNTIMES = ("runc", "crun", str(Path(__file__).parents[2] / ".venv" / "bin" / OURS))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance", description="Run the public OCI runtime validation suites.")
    which = f"a runtime to run (default: runc, crun, {OURS}); the one called {OURS} is ours"
    parser.add_argument("--runtime", action="append", metavar="PATH", help=which)
    parser.add_argument("--suite", action="append", choices=list(SUITES), help="default: runtime-tools and crun")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--no-install", action="store_true", help="install no package")
    parser.add_argument("--build", action="store_true", help="fetch and build the suites, and run nothing")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the whole output of each program there")
    parser.add_argument(
        "--peers-where-behind", action="store_true", help="run the peers only on what ours does not pass: quicker"
    )
    parser.add_argument("--workers", type=int, default=2 * (os.cpu_count() or 1), help="programs at a time")
    parser.add_argument(
        "program",
        nargs="*",
        metavar="PROGRAM",
        help="a program's name, or a crun file's (test_exec), or a runc file's (exec.bats)",
    )
    return parser.parse_args()


def _runtimes(asked: list[str] | None) -> list[Runtime]:
    """Return the runtimes to run; raises Missing where one that was asked for is not there."""
    found = {text: find_runtime(text) for text in asked or DEFAULT_RUNTIMES}
    for text, runtime in found.items():
        if runtime is None and asked:
            raise Missing(f"runtime: {text}: no such program")
        if runtime is None:
            print(f"conformance: no {text}: left out", file=sys.stderr)
    return [runtime for runtime in found.values() if runtime]


def _jobs(suites: list[Suite], runtimes: list[Runtime], chosen: list[str]) -> list[Job]:
    """Return what to run, the slowest programs first; raises Missing for a name that no suite has."""
    known = {program for suite in suites for program in suite.programs()}
    for name in chosen:
        if name not in known:
            raise Missing(f"program: {name}: in none of the chosen suites; there are: {' '.join(sorted(known))}")
    slow = ("delete", "kill", "pidfile", "test_", "cgroups.bats", "update.bats", "exec.bats")
    return sorted(
        ((suite, program, runtime) for suite in suites for program in suite.programs() for runtime in runtimes
         if not chosen or program in chosen),
        key=lambda job: not job[1].startswith(slow),
    )  # fmt: skip


# Where ours need not follow, and why.
ACCEPTED = {
    (
        "crun",
        "test_devices: owner-device",
    ): "crun makes nodes that the host lacks for a user namespace; ours binds the host's",
    ("crun", "test_delete: test_multiple_containers_delete"): "the test before it froze a container in another's group",
    ("crun", "test_tty: test-detach-tty"): "its config.json has a number among process.args",
    ("crun", "test_exec: exec_add_no_new_privileges"): "wants exec to drop the container's own no_new_privs",
    ("crun", "test_seccomp: seccomp-listener"): "wants ociVersion 0.2.0, whatever the specification in use",
    ("crun", "test_start: start"): "reads crun's own state file",
    ("crun", "test_uid_gid: keep-groups"): "an annotation of crun's own",
    **{
        ("crun", f"test_start: sd-notify{kind}"): "crun's own proxy for systemd"
        for kind in ("", "-env", "-file", "-proxy")
    },
    ("runtime-tools", "pidfile"): "waits for `running` of a program that ends at once: the slower runtime passes",
}


def behind(results: Results) -> list[tuple[str, str]]:
    """Return (suite, test) of each test that a peer passes and ours does not."""
    return [
        (suite, test)
        for suite, tests in sorted(results.items())
        for test, words in sorted(tests.items())
        if (suite, test) not in ACCEPTED
        and any(verdict.word == "pass" for name, verdict in words.items() if name != OURS)
        and words.get(OURS, Verdict("absent")).word != "pass"
    ]


def _run(arguments: argparse.Namespace) -> tuple[list[Runtime], Results]:
    """Return the runtimes and their results; where ours is behind it gets a second try, alone, which its row tells."""
    built = build(install=not arguments.no_install)
    suites = [SUITES[name](built) for name in arguments.suite or DEFAULT_SUITES]
    runtimes = _runtimes(arguments.runtime)
    jobs = _jobs(suites, runtimes, arguments.program)
    if arguments.peers_where_behind:
        jobs = [job for job in jobs if job[2].name == OURS]
    results = run_all(jobs, arguments.logs, arguments.workers)
    if arguments.peers_where_behind:
        peers = [runtime for runtime in runtimes if runtime.name != OURS]
        _add(results, run_all(_failed(results, jobs, peers), arguments.logs, arguments.workers))
    late = {(suite, test.partition(": ")[0]) for suite, test in behind(results)}
    again = [job for job in jobs if job[2].name == OURS and (job[0].name, job[1]) in late]
    for suite, tests in run_all(again, arguments.logs, 1).items():
        for test, words in tests.items():
            if words[OURS].word == "pass" and (suite, test) in behind(results):
                counts = asdict(words[OURS]) | {"reason": "at the second try, alone"}
                results[suite][test][OURS] = Verdict(**counts)
    return runtimes, results


def _failed(results: Results, jobs: list[Job], peers: list[Runtime]) -> list[Job]:
    """Return the programs of which ours does not pass every test, for the peers to run."""
    passed = {
        (suite, program)
        for suite, program in {(job[0].name, job[1]) for job in jobs}
        if (tests := [words for test, words in results.get(suite, {}).items() if test.partition(": ")[0] == program])
        and all(words.get(OURS, Verdict("absent")).word == "pass" for words in tests)
    }
    return [(job[0], job[1], peer) for job in jobs if (job[0].name, job[1]) not in passed for peer in peers]


def _add(results: Results, more: Results) -> None:
    for suite, tests in more.items():
        for test, words in tests.items():
            results.setdefault(suite, {}).setdefault(test, {}).update(words)


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "absent"
    total = verdict.passed + verdict.failed
    again = " (2nd)" if verdict.word == "pass" and verdict.reason else ""
    return f"{verdict.word} {verdict.passed}/{total}{again}" if total > 1 else verdict.word + again


def _print_table(runtimes: list[Runtime], results: Results) -> None:
    """Print a row for each test: the verdict of each runtime, with the assertions that passed of those made."""
    names = [runtime.name for runtime in runtimes]
    for suite, tests in results.items():
        width = max(len(test) for test in tests)
        print(f"{suite:{width}}  " + "".join(f"{name:18}" for name in names))
        for test, words in sorted(tests.items()):
            print(f"{test:{width}}  " + "".join(f"{_cell(words.get(name)):18}" for name in names))
        count = {name: sum(words[name].word == "pass" for words in tests.values() if name in words) for name in names}
        print(f"{'passed':{width}}  " + "".join(f"{f'{count[name]} of {len(tests)}':18}" for name in names) + "\n")
    for suite, test in behind(results) if OURS in names else []:
        verdict = results[suite][test].get(OURS, Verdict("absent"))
        print(f"behind: {suite}: {test}: {verdict.reason or verdict.word}")


def _print_json(runtimes: list[Runtime], results: Results) -> None:
    plain = {
        suite: {
            test: {name: asdict(verdict) for name, verdict in words.items()} for test, words in sorted(tests.items())
        }
        for suite, tests in sorted(results.items())
    }
    versions = {runtime.name: runtime.version for runtime in runtimes}
    late = [list(pair) for pair in behind(results)] if OURS in versions else []
    document = {"schema": "harness.conformance/1", "runtimes": versions, "results": plain, "behind": late}
    json.dump(document, sys.stdout, indent=1)
    print()


def main() -> int:
    """Return the exit code."""
    arguments = _arguments()
    if os.geteuid() != 0:
        print("error: conformance: only root can run it", file=sys.stderr)
        return 3
    try:
        if arguments.build:
            print(build(install=not arguments.no_install))
            return 0
        runtimes, results = _run(arguments)
    except Missing as error:
        print(f"error: conformance: {error}", file=sys.stderr)
        return 3
    (_print_json if arguments.json else _print_table)(runtimes, results)
    return 1 if any(runtime.name == OURS for runtime in runtimes) and behind(results) else 0


if __name__ == "__main__":
    sys.exit(main())
