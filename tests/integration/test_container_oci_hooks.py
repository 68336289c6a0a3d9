"""Hooks of OCI containers: when they run, where, with what, and what follows when one fails.

| point           | runs                                       | a failure                                             |
|-----------------|--------------------------------------------|-------------------------------------------------------|
| prestart        | on the host, after the namespaces are made | `create` fails; nothing is left; poststop runs        |
| createRuntime   | on the host, after prestart                | the same                                              |
| createContainer | in the container's namespaces, host's root | the same                                              |
| startContainer  | in the container, before its program       | `start` fails; the program does not run, it stopped   |
| poststart       | on the host, once the program was executed | a warning (runtime.md, "Lifecycle")                   |
| poststop        | on the host, after `delete`                | a warning                                             |

Each gets the state on its stdin, its own arguments and environment, and may take as long as its timeout says.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.oci_kit import Document, Oci, bind, bundle, namespace_of, new_id

pytestmark = pytest.mark.needs("root")
POINTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
BEFORE_CREATED = POINTS[:3]
ON_THE_HOST = ("prestart", "createRuntime", "poststart", "poststop")
SLEEP = "exec sleep 1000"


@pytest.fixture
def oci() -> Iterator[Oci]:
    with Oci.at() as runtime:
        yield runtime


@pytest.fixture
def log(tree: Path) -> Path:
    """A directory that is at the same path on the host and in the container."""
    path = tree.parent / "log"
    path.mkdir()
    return path


def _shell(script: str, **more: object) -> Document:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def _with_hooks(tree: Path, log: Path, script: str = SLEEP, **hooks: Document | list[Document]) -> Path:
    def change(made: Document) -> None:
        bind(made, log, str(log))
        made["hooks"] = {point: hook if isinstance(hook, list) else [hook] for point, hook in hooks.items()}

    return bundle(tree, script, change)


def _telling(log: Path, point: str) -> Document:
    """A hook that writes its order, its state, and where it is."""
    script = f"echo {point} >>{log}/order; cat >{log}/{point}.state; readlink /proc/self/ns/mnt >{log}/{point}.mnt"
    return _shell(script)


def _order(log: Path) -> list[str]:
    path = log / "order"
    return path.read_text().split() if path.exists() else []


def test_all_six_in_order(oci: Oci, tree: Path, log: Path) -> None:
    path = _with_hooks(tree, log, f"echo program >>{log}/order", **{point: _telling(log, point) for point in POINTS})
    container_id = new_id()
    oci.ok("create", "--bundle", path, container_id)
    assert _order(log) == ["prestart", "createRuntime", "createContainer"]
    oci.ok("start", container_id)
    oci.await_status(container_id, "stopped")
    order = _order(log)
    assert order[:4] == ["prestart", "createRuntime", "createContainer", "startContainer"]
    assert sorted(order[4:]) == ["poststart", "program"]
    oci.ok("delete", container_id)
    assert _order(log)[-1] == "poststop"


def test_several_of_a_point_run_in_their_order(oci: Oci, tree: Path, log: Path) -> None:
    for point in POINTS:
        (log / "order").unlink(missing_ok=True)
        hooks = [_shell(f"echo {number} >>{log}/order") for number in range(3)]
        with oci.running(_with_hooks(tree, log, **{point: hooks})):
            pass
        assert _order(log) == ["0", "1", "2"], point


def test_each_reads_the_state(oci: Oci, tree: Path, log: Path) -> None:
    path = _with_hooks(tree, log, **{point: _telling(log, point) for point in POINTS})
    with oci.running(path) as container_id:
        pid = oci.pid(container_id)
    expected = {"createRuntime": "creating", "createContainer": "creating", "startContainer": "created",
                "poststart": "running", "poststop": "stopped"}  # fmt: skip
    for point, status in expected.items():
        state = json.loads((log / f"{point}.state").read_text())
        assert (state["id"], state["bundle"], state["ociVersion"]) == (container_id, str(path), "1.2.0"), point
        assert state["status"] == status, point
        assert state.get("pid") == (pid if point != "poststop" else None), point
    assert json.loads((log / "prestart.state").read_text())["status"] in {"creating", "created"}


def test_where_each_runs(oci: Oci, tree: Path, log: Path) -> None:
    path = _with_hooks(tree, log, **{point: _telling(log, point) for point in POINTS})
    with oci.running(path) as container_id:
        inside = namespace_of(oci.pid(container_id), "mnt")
    seen = {point: (log / f"{point}.mnt").read_text().strip() for point in POINTS}
    host = namespace_of("self", "mnt")
    assert seen == {point: host if point in ON_THE_HOST else inside for point in POINTS}


def test_create_container_sees_the_mounts_and_start_container_is_inside(oci: Oci, tree: Path, log: Path) -> None:
    (tree / "bin" / "only-inside").write_text(f"#!/bin/sh\nls / >{log}/inside\n")
    (tree / "bin" / "only-inside").chmod(0o755)
    path = _with_hooks(
        tree, log,
        createContainer=_shell(f"cat /proc/self/mountinfo >{log}/mounts; ls / >{log}/outside"),
        startContainer={"path": "/bin/only-inside"},
    )  # fmt: skip
    with oci.running(path):
        pass
    assert f"root{log} " in (log / "mounts").read_text()
    assert "usr" in (log / "outside").read_text().split()
    assert (tree / "bin" / "only-inside").exists()
    assert "usr" not in (log / "inside").read_text().split() or (tree / "usr").exists()


def test_arguments_environment_and_working_directory(oci: Oci, tree: Path, log: Path) -> None:
    for point in POINTS:
        script = f'echo "$0 $1 $A" >{log}/{point}; pwd >>{log}/{point}'
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script, "arg0", "1"], "env": ["A=b=c", "PATH=/bin"]}
        path = _with_hooks(tree, log, **{point: hook})
        with oci.running(path):
            pass
        said, where = (log / point).read_text().splitlines()
        assert said == "arg0 1 b=c", point
        if point in ON_THE_HOST:
            assert where == str(path), point


def test_without_arguments_it_is_its_path(oci: Oci, tree: Path, log: Path) -> None:
    program = log / "hook"
    program.write_text(f'#!/bin/sh\necho "$0 $#" >{log}/said\n')
    program.chmod(0o755)
    for point in POINTS:
        with oci.running(_with_hooks(tree, log, **{point: {"path": str(program)}})):
            pass
        assert (log / "said").read_text() == f"{program} 0\n", point
        (log / "said").unlink()


@pytest.mark.parametrize("point", BEFORE_CREATED)
@pytest.mark.parametrize("hook", [_shell("echo it is broken >&2; exit 3"), _shell("kill -9 $$"), {"path": "/no/hook"}])
def test_failures_before_it_is_created(oci: Oci, tree: Path, log: Path, point: str, hook: Document) -> None:
    path = _with_hooks(tree, log, **{point: hook, "poststop": _telling(log, "poststop")})
    said = oci.refused(path)
    assert hook["path"] in said
    assert _order(log) == ["poststop"]
    assert json.loads((log / "poststop.state").read_text())["status"] == "stopped"


def test_a_failure_in_start_container(oci: Oci, tree: Path, log: Path) -> None:
    path = _with_hooks(
        tree, log, f"echo program >>{log}/order",
        startContainer=_shell("exit 4"), poststart=_telling(log, "poststart"), poststop=_telling(log, "poststop"),
    )  # fmt: skip
    with oci.created(path) as container_id:
        said = oci.error("start", container_id)
        assert "/bin/sh: exit status 4" in said
        oci.await_status(container_id, "stopped")
        assert "program" not in _order(log)
        assert "poststart" not in _order(log)
    assert _order(log) == ["poststop"]


@pytest.mark.parametrize("point", ["poststart", "poststop"])
def test_failures_after_the_start_are_warned_of(oci: Oci, tree: Path, log: Path, point: str) -> None:
    """And the hooks after it run all the same."""
    path = _with_hooks(tree, log, **{point: [_shell("exit 4"), _telling(log, point)]})
    container_id = new_id()
    oci.ok("create", "--bundle", path, container_id)
    started = oci.ok("start", container_id)
    assert oci.status(container_id) == "running"
    deleted = oci.ok("delete", "--force", container_id)
    assert "exit status 4" in (started if point == "poststart" else deleted).err
    assert _order(log) == [point]
    assert container_id not in oci.call("list", "-q").lines


@pytest.mark.parametrize("point", POINTS)
def test_a_timeout_ends_it(oci: Oci, tree: Path, log: Path, point: str) -> None:
    path = _with_hooks(tree, log, **{point: {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}})
    container_id = new_id()
    before_s = time.monotonic()
    said = oci.call("create", "--bundle", path, container_id).err
    said += oci.call("start", container_id).err
    said += oci.call("delete", "--force", container_id).err
    assert time.monotonic() - before_s < 15
    assert "/bin/sleep: still ran after 1 s" in said


def test_one_that_ends_in_time_and_reads_nothing(oci: Oci, tree: Path, log: Path) -> None:
    path = _with_hooks(tree, log, **{point: {"path": "/bin/true", "timeout": 30} for point in POINTS})
    with oci.running(path) as container_id:
        assert oci.status(container_id) == "running"


@pytest.mark.parametrize(
    "hook", [{}, {"path": "relative"}, {"path": "/bin/true", "timeout": 0}, {"path": "/bin/true", "timeout": -1},
             {"path": "/bin/true", "args": "x"}]
)  # fmt: skip
def test_hooks_that_make_no_sense_are_refused(oci: Oci, tree: Path, log: Path, hook: Document) -> None:
    assert "hooks.poststop[0]" in oci.refused(_with_hooks(tree, log, poststop=hook))


def test_a_hook_may_join_the_namespaces_that_it_is_told_of(oci: Oci, tree: Path, log: Path) -> None:
    """As network plugins do: the pid of the state leads to a network namespace that exists already."""
    script = f"pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net >{log}/net"
    for point in ("prestart", "createRuntime"):
        with oci.running(_with_hooks(tree, log, **{point: _shell(script)})) as container_id:
            assert (log / "net").read_text().strip() == namespace_of(oci.pid(container_id), "net")
            assert (log / "net").read_text().strip() != namespace_of("self", "net")


def test_annotations_are_in_the_state(oci: Oci, tree: Path, log: Path) -> None:
    def change(made: Document) -> None:
        bind(made, log, str(log))
        made["annotations"] = {"org.example.key": "välue"}
        made["hooks"] = {point: [_telling(log, point)] for point in POINTS}

    with oci.running(bundle(tree, SLEEP, change)):
        pass
    for point in POINTS:
        assert json.loads((log / f"{point}.state").read_text())["annotations"] == {"org.example.key": "välue"}, point


def test_a_hook_may_ask_for_the_state_while_the_container_is_created(oci: Oci, tree: Path, log: Path) -> None:
    container_id = new_id()
    asking = shlex.join(oci.argv("state", container_id))
    hook = {**_shell(f"{asking} >{log}/asked"), "timeout": 20}
    oci.ok("create", "--bundle", _with_hooks(tree, log, createRuntime=hook), container_id)
    oci.ok("delete", "--force", container_id)
    assert json.loads((log / "asked").read_text())["status"] == "creating"
