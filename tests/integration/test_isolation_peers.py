"""The built-in runtime beside a stock Docker, row by row; and that two ways to count system calls agree, and again."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli import probe as cli
from harness.model.metrics import Metric
from harness.plugins import load

pytestmark = pytest.mark.needs("root", "overlayfs", "dockerd")
ALL = os.environ.get("HARNESS_CONTRACT") == "all"
"""Three looks at each runtime of which two ways must agree, rather than one at the two that are compared."""
NAMES = ("process", "builtin", "docker", "podman", "nspawn") if ALL else ("builtin", "docker")
Document = dict[str, Any]


@pytest.fixture(scope="module")
def looks() -> list[Document]:
    argv = [word for name in NAMES for word in ("--runtime", name)]
    found = []
    for _ in range(3 if ALL else 1):
        said = CliRunner().invoke(cli.probe, [*argv, "--json"])
        assert said.exit_code == 0, said.output
        found.append(json.loads(said.stdout))
    return found


def test_the_built_in_runtimes_defaults_expose_no_more_than_dockers_on_any_row(looks: list[Document]) -> None:
    metrics: list[Metric] = [metric for name in cli.FAMILIES for metric in load("probes", name).metrics]
    ours, dockers = (looks[0]["runtimes"][name]["values"] for name in ("builtin", "docker"))
    compared_count = 0
    for metric in metrics:
        one, other = ours[cli.key_of(metric.name)], dockers[cli.key_of(metric.name)]
        assert (one["status"] == "ok") == (other["status"] == "ok"), metric.name
        compared_count += one["status"] == "ok"
    assert compared_count > 40
    (line,) = [line for line in looks[0]["headlines"] if line.startswith("builtin beside docker exposes less: ")]
    assert "; more on no row; " in line
    for better in ("no_new_privs 1 not 0", "syscalls.reachable", "privileged_ops", "devices.opened", "unmasked"):
        assert better in line, "where a row is better, it says so"


def test_both_ways_to_count_system_calls_agree_and_so_do_looks(looks: list[Document]) -> None:
    for name in NAMES:
        first, *others = (
            {k: v for k, v in look["runtimes"][name]["values"].items() if "syscalls" in k} for look in looks
        )
        assert first["syscalls_disagree"]["value"] == 0, first["syscalls_disagree"]
        assert first["syscalls_reachable"]["value"] == first["syscalls_by_filters"]["value"] > 0
        first.pop("boundary_syscalls_used")
        for other in others:
            other.pop("boundary_syscalls_used")
            assert other == first, name
