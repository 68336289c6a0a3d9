"""Sandboxes with one known hole each: the static probe, run inside, must find it, name it, and change nothing."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.agent.program import PATH as AGENT
from harness.cli.probe import probe
from tests.integration.oci_kit import Change, Document, Oci, bind, bundle, namespaces

pytestmark = pytest.mark.needs("root", "overlayfs")
Values = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Path:
    tree = tmp_path_factory.mktemp("known") / "tree"
    shutil.copytree(busybox, tree, symlinks=True)
    shutil.copy(AGENT, tree / "harness-probe")
    return tree


@pytest.fixture(scope="module")
def oci() -> Iterator[Oci]:
    with Oci.at() as runtime:
        yield runtime


def judged(oci: Oci, tree: Path, change: Change | None = None) -> Values:
    """Run the probe in a container, and return what `harness probe --from` makes of it."""
    result = oci.run(bundle(tree, ["/harness-probe"], change))
    assert result.code == 0, result.err
    said = CliRunner().invoke(probe, ["--from", str(result.stdout), "--json"])
    assert said.exit_code == 0, said.output
    values: Values = json.loads(said.stdout)["runtimes"]["inside"]["values"]
    return values


def names(value: dict[str, Any]) -> list[str]:
    assert value["status"] == "ok", value
    return str(value["detail"]["names"]).replace(",", "").split()


def filtered(**calls: str) -> Change:
    def change(made: Document) -> None:
        rules = [{"names": [name], "action": action} for name, action in calls.items()]
        # A filter for one ABI alone kills who uses another: a thousand children, which take their time on a busy host.
        abis = [f"SCMP_ARCH_{name}" for name in ("X86_64", "X86", "X32")]
        made["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": abis, "syscalls": rules}

    return change


def test_a_container_without_holes_three_times_the_same(oci: Oci, place: Path) -> None:
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in place.rglob("*"))
    first, *others = (judged(oci, place) for _ in range(3))
    assert first["kernel_shared"]["value"] == 1
    assert (first["ns_separated"]["value"], first["host_processes_visible"]["value"]) == (6, 0)
    assert [first[key]["value"] for key in ("engine_sockets", "writable_sysctls", "mounts_host_writable")] == [0, 0, 0]
    noisy = {"host_counter_bracketing", "views_host"}
    for other in others:
        assert {k: v["value"] for k, v in other.items() if k not in noisy} == {
            k: v["value"] for k, v in first.items() if k not in noisy
        }
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in place.rglob("*")) == before


def test_each_hole_is_found_and_named(oci: Oci, place: Path, tmp_path: Path) -> None:
    """Several at once, each in a row of its own: a start costs more than a look."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "docker.sock"))
    (tmp_path / "shared").mkdir()

    def holes(made: Document) -> None:
        for kind in ("bounding", "effective", "permitted"):
            made["process"]["capabilities"][kind].append("CAP_NET_ADMIN")
        made["linux"]["readonlyPaths"].remove("/proc/sys")
        namespaces(made, pid=None)
        bind(made, tmp_path / "docker.sock", "/odd/docker.sock")
        bind(made, tmp_path / "shared", "/shared")

    values = judged(oci, place, holes)
    listener.close()
    assert "net_admin" in names(values["caps_eff"])
    assert values["writable_sysctls"]["value"] > 0
    assert any(name.startswith("/proc/sys/") for name in names(values["writable_sysctls"]))
    assert values["host_processes_visible"]["value"] == 1
    assert "pid" not in names(values["ns_separated"])
    assert names(values["engine_sockets"]) == ["/odd/docker.sock"]
    assert "/shared" in names(values["mounts_host_writable"])


def test_a_filter_is_seen_call_by_call_and_what_it_kills_is_survived(oci: Oci, place: Path) -> None:
    kill = "SCMP_ACT_KILL_PROCESS"
    values = judged(oci, place, filtered(unshare="SCMP_ACT_ERRNO", bpf="SCMP_ACT_ERRNO", mount=kill, keyctl=kill))
    reachable = values["syscalls_reachable"]
    assert values["seccomp_mode"]["value"] == 2
    assert reachable["value"] == int(reachable["detail"]["of"]) - 4
    assert reachable["detail"]["blocked"].split() == ["mount", "keyctl", "unshare", "bpf"]
    assert reachable["detail"]["killed"].split() == ["mount", "keyctl"]
    assert "unshare_user (EPERM)" in values["privileged_ops"]["detail"]["denied"]
    assert "keyctl (killed by signal 31)" in values["privileged_ops"]["detail"]["denied"]


def test_what_kills_a_whole_section_is_denied_and_never_isolated(oci: Oci, place: Path) -> None:
    """Whoever walks directories is killed here: the counts of files are missing, and no other value."""
    values = judged(oci, place, filtered(getdents64="SCMP_ACT_KILL_PROCESS", getdents="SCMP_ACT_KILL_PROCESS"))
    assert values["writable_sysctls"]["status"] == "denied"
    assert "killed by signal 31" in values["writable_sysctls"]["detail"]["reason"]
    assert values["writable_sysctls"]["value"] is None
    assert values["syscalls_reachable"]["status"] == "ok"


def test_a_bare_process_and_the_runtimes_defaults_side_by_side() -> None:
    asked = ("process", "builtin", "builtin:seccomp=unconfined")
    said = CliRunner().invoke(probe, [*(word for name in asked for word in ("--runtime", name)), "--json"])
    assert said.exit_code == 0, said.output
    document = json.loads(said.stdout)
    assert (document["schema"], document["failed"]) == ("harness.probe/1", {})
    bare, own, open_ = document["runtimes"].values()
    bare, own, open_ = bare["values"], own["values"], open_["values"]
    for values in (bare, own, open_):
        assert all(set(v) == {"value", "unit", "method", "acts_on", "status", "detail"} for v in values.values())
        assert {v["acts_on"] for v in values.values()} == {"host-kernel"}
    for key in (
        "syscalls_reachable",
        "privileged_ops",
        "caps_eff",
        "boundary_syscalls_allowed",
        "boundary_capabilities",
    ):
        assert 0 < own[key]["value"] < bare[key]["value"], key
    assert own["syscalls_reachable"]["value"] == own["syscalls_by_filters"]["value"]
    assert (bare["boundary_threads_unfiltered"]["value"], own["boundary_threads_unfiltered"]["value"]) == (2, 0)
    assert (open_["seccomp_mode"]["value"], open_["seccomp_filters"]["value"]) == (0, 0)
    assert (
        open_["boundary_threads_unfiltered"]["value"] == int(open_["boundary_threads_unfiltered"]["detail"]["of"]) > 0
    )
    for key in ("syscalls_reachable", "boundary_syscalls_allowed"):
        assert (open_[key]["value"], open_[key]["detail"]["blocked"]) == (int(open_[key]["detail"]["of"]), "")
    used = own["boundary_syscalls_used"]
    if shutil.which("strace"):
        assert {"execve", "memfd_create", "pipe"} <= set(names(used))
    else:
        assert "strace" in used["detail"]["reason"]
    assert any(line.startswith("exposure, 0 to 10 (bare root process): process 10.0") for line in document["headlines"])
