"""The command line of `harness-oci`: words, durations, numbers, logs; nothing here starts a container."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.container import cli, cli_parser, cli_stats, cli_update, cli_verbs, config_example, features
from harness.container.config import read, read_resources
from harness.container.errors import ContainerError


@pytest.mark.parametrize(
    ("word", "number"),
    [("9", 9), ("0", 0), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("usr1", 10), ("RTMIN", signal.SIGRTMIN),
     ("RTMIN+3", signal.SIGRTMIN + 3), ("SIGRTMAX-1", signal.SIGRTMAX - 1), ("64", 64)],
)  # fmt: skip
def test_signals(word: str, number: int) -> None:
    assert cli_verbs.signal_number(word) == number


@pytest.mark.parametrize(
    "word", ["", "SIG", "65", "-1", "NONE", "KILL+1", "RTMIN+99", "RTMIN-1", "RTMAX+1", "RTMIN+", "９"]
)
def test_what_is_no_signal(word: str) -> None:
    with pytest.raises(ContainerError, match="unknown signal"):
        cli_verbs.signal_number(word)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("100ms", 0.1), ("2m", 120), ("1.5s", 1.5), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert cli_stats.duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "0s", "5 s", "1.2.3s", "xs", "5d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ContainerError, match="--interval"):
        cli_stats.duration_s(text)


def test_limits_by_options() -> None:
    words = ["--memory", "64m", "--cpu-quota", "-1", "--pids-limit", "5", "--cpuset-cpus", "0"]
    found = cli_update.resources(cli_parser.parse(["update", *words, "x"]))
    expected = {"memory": {"limit": 64 << 20}, "cpu": {"quota": -1, "cpus": "0"}, "pids": {"limit": 5}}
    assert found == read_resources(expected)


@pytest.mark.parametrize(
    ("words", "why"),
    [(["x"], "nothing to change"), (["--memory", "much", "x"], "--memory"),
     (["--kernel-memory", "1", "x"], "no such limit"),
     (["--resources", "/nowhere", "x"], "--resources")],
)  # fmt: skip
def test_limits_that_make_no_sense(words: list[str], why: str) -> None:
    with pytest.raises(ContainerError, match=why):
        cli_update.resources(cli_parser.parse(["update", *words]))


def test_every_command_of_the_specification_and_of_engines_is_there() -> None:
    wanted = "create start state kill delete run exec list ps pause resume update events features spec"
    assert {name for name, _, _ in cli_parser.VERBS} >= set(wanted.split())


def test_options_may_stand_before_the_command_alone() -> None:
    options = cli_parser.parse(["--root", "/r", "--log", "/l", "--log-format", "json", "state", "x"])
    assert (options.root, options.log, options.log_format, options.verb, options.id) == (
        "/r",
        "/l",
        "json",
        "state",
        "x",
    )


def test_the_command_of_exec_keeps_its_own_options() -> None:
    options = cli_parser.parse(["exec", "--cwd", "/x", "id", "ls", "-l", "--cwd", "/y"])
    assert (options.cwd, options.id, options.args) == ("/x", "id", ["ls", "-l", "--cwd", "/y"])


def test_errors_are_said_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    words = ["--root", str(tmp_path), "--log", str(log), "--log-format", "json", "state", "none"]
    assert cli.main(words) == 1
    assert capsys.readouterr().err == f"harness-oci: {json.loads(log.read_text())['msg']}\n"


def test_systemd_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--systemd-cgroup", "list"]) == 1
    assert "--systemd-cgroup" in capsys.readouterr().err


@pytest.mark.parametrize("rootless", [True, False])
def test_the_example_is_read_without_complaint(rootless: bool) -> None:
    made = config_example.example(rootless=rootless)
    found = read(made, "/bundle", "/workspace")
    assert found.container.has_new("mount")
    assert found.container.has_new("user") == rootless
    assert found.version == config_example.VERSION


def test_features_name_what_the_specification_wants() -> None:
    made = features.document()
    assert {"ociVersionMin", "ociVersionMax", "hooks", "mountOptions", "linux"} <= set(made)
    json.dumps(made)


def test_it_runs_without_site_packages_and_heavy_imports() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from harness.container import cli;"
        "cli.main(['--root', '/nowhere', 'list', '-q']);"
        "print(sorted({'subprocess', 'logging', 'ctypes.util', 'asyncio'} & set(sys.modules)))"
    )
    place = str(Path(cli.__file__).parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, place], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
