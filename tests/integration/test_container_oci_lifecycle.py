"""The life of a container through `harness-oci`, command by command.

| command  | what is shown here                                                                                     |
|----------|--------------------------------------------------------------------------------------------------------|
| create   | it waits, its program does not run; ids; errors leave nothing; killed half way it leaves no process    |
| start    | runs the program; only once; not without a process                                                     |
| state    | every field; creating, created, running, paused, stopped; of another boot and of a used pid: stopped   |
| kill     | names and numbers, 0, all; not of a stopped one                                                        |
| delete   | only of a stopped one; --force of any, even of what a killed runtime left                              |
| run      | exit codes, --detach with a pid file, --keep; a start that fails leaves nothing                        |
| exec     | exit codes, options, process.json, detached; refused in what does not run                              |
| list, ps | table, JSON, quiet; two roots do not see each other                                                    |
| pause, resume, update, events | with what the processes and the cgroup then do                                    |
| features, spec | every field of features.md; examples that run                                                    |
| global   | --root, --log with both formats, --systemd-cgroup, --version, --preserve-fds, ociVersion               |
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.container import cgroups
from tests.integration.oci_kit import (
    PROGRAM,
    Document,
    Oci,
    bundle,
    children_named,
    document,
    namespace_of,
    namespaces,
    new_id,
    until,
    write_bundle,
)

pytestmark = pytest.mark.needs("root")
SLEEP = "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def oci() -> Iterator[Oci]:
    with Oci.at() as runtime:
        yield runtime


# -- create, start ---------------------------------------------------------------------------------------------------


def test_create_leaves_the_program_waiting_and_start_runs_it(oci: Oci, tree: Path) -> None:
    container_id = new_id()
    made = oci.ok("create", "--bundle", bundle(tree, "echo ran"), container_id)
    assert oci.status(container_id) == "created"
    time.sleep(0.1)
    assert made.out == ""
    oci.ok("start", container_id)
    oci.await_status(container_id, "stopped")
    assert made.lines == ["ran"]
    oci.ok("delete", container_id)
    assert "does not exist" in oci.error("state", container_id)


def test_bundle_is_the_working_directory_by_default(oci: Oci, tree: Path) -> None:
    assert oci.call("run", new_id(), cwd=bundle(tree, "exit 3")).code == 3


def test_start_works_once(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        assert "cannot start a container that is running" in oci.error("start", container_id)


def test_start_of_a_stopped_or_missing_one_fails(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, "true")) as container_id:
        oci.await_status(container_id, "stopped")
        assert "cannot start a container that is stopped" in oci.error("start", container_id)
    assert "does not exist" in oci.error("start", container_id)


def test_an_id_is_used_once(oci: Oci, tree: Path) -> None:
    path = bundle(tree, SLEEP)
    with oci.running(path) as container_id:
        assert "already exists" in oci.error("create", "--bundle", path, container_id)
        assert oci.status(container_id) == "running"


@pytest.mark.parametrize("container_id", ["", ".", "..", "a/b", "../x", "a b", "ä", ".hidden", "x" * 256])
def test_an_id_that_is_no_plain_name_is_refused(oci: Oci, tree: Path, container_id: str) -> None:
    assert "id" in oci.error("create", "--bundle", bundle(tree), container_id)


def test_a_container_without_process_can_be_created_and_not_started(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        del made["process"]

    with oci.created(bundle(tree, "true", change)) as container_id:
        assert oci.status(container_id) == "created"
        assert "no process" in oci.error("start", container_id)
        oci.ok("kill", container_id, "KILL")
        oci.await_status(container_id, "stopped")


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"ociVersion": "1.2.0"}'])
def test_a_bundle_that_is_none_is_refused(oci: Oci, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert "config.json" in oci.refused(tmp_path)


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("1.0.0", True), ("1.2.0", True), ("1.2.1-rc.1+x", True), ("1.99.0", True), ("2.0.0", False), ("0.9.0", False),
     ("1.2", False), ("", False), ("v1.2.0", False)],
)  # fmt: skip
def test_versions_of_the_specification(oci: Oci, tree: Path, version: str, accepted: bool) -> None:
    def change(made: Document) -> None:
        made["ociVersion"] = version

    if accepted:
        assert oci.output(bundle(tree, "echo ran", change)) == ["ran"]
    else:
        assert "ociVersion" in oci.refused(bundle(tree, "true", change))


def test_create_killed_at_any_moment_leaves_no_process_and_delete_removes_the_rest(oci: Oci, tree: Path) -> None:
    mark = f"marker-{new_id()}"
    for delay_s in (0.05, 0.1, 0.15, 0.2, 0.3):
        container_id = new_id()
        process = oci.popen(
            "create", "--bundle", bundle(tree, ["/bin/sh", "-c", "sleep 1000", mark]), container_id,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(delay_s)
        process.kill()
        process.wait()
        was_created = container_id in oci.call("list", "-q").lines
        if was_created:
            status = oci.call("state", container_id)
            assert status.code or json.loads(status.out)["status"] in {"created", "stopped"}
            oci.ok("delete", "--force", container_id)
        assert not children_named(container_id)
        assert container_id not in oci.call("list", "-q").lines


# -- state -----------------------------------------------------------------------------------------------------------


def test_state_has_the_fields_of_the_specification(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["annotations"] = {"org.example.a": "1", "b": ""}

    path = bundle(tree, SLEEP, change)
    with oci.created(path) as container_id:
        state = oci.state(container_id)
        assert state["ociVersion"] == "1.2.0"
        assert state["id"] == container_id
        assert state["status"] == "created"
        assert state["bundle"] == str(path)
        assert state["annotations"] == {"org.example.a": "1", "b": ""}
        assert Path(f"/proc/{state['pid']}").is_dir()
        assert state["rootfs"] == str(tree)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", state["created"])
        oci.ok("start", container_id)
        assert oci.state(container_id) == {**state, "status": "running"}
        oci.ok("kill", container_id, "KILL")
        oci.await_status(container_id, "stopped")
        assert "pid" not in oci.state(container_id)


def test_bundle_in_the_state_is_absolute(oci: Oci, tree: Path) -> None:
    path = bundle(tree, SLEEP)
    with oci.created(Path(path.name), cwd=path.parent) as container_id:
        assert oci.state(container_id)["bundle"] == str(path)


def test_status_while_it_is_being_created(oci: Oci, tree: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def change(made: Document) -> None:
        made["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat >{seen}; sleep 0.5"]}]}

    container_id = new_id()
    process = oci.popen("create", "--bundle", bundle(tree, SLEEP, change), container_id, stdin=subprocess.DEVNULL)
    until(seen.exists)
    listed = json.loads((oci.root / container_id / "state.json").read_text())
    assert listed["pid"] == 0
    assert process.wait() == 0
    assert json.loads(seen.read_text())["status"] == "creating"
    assert oci.status(container_id) == "created"


@pytest.mark.parametrize(("field", "value"), [("boot_id", "another"), ("start_ticks", 1)])
def test_a_process_that_is_not_the_one_that_was_started_is_never_touched(
    oci: Oci, tree: Path, field: str, value: object
) -> None:
    """After a reboot, or when its pid went to another process, the container has stopped."""
    with oci.running(bundle(tree, SLEEP)) as container_id:
        path = oci.root / container_id / "state.json"
        saved = path.read_text()
        path.write_text(json.dumps({**json.loads(saved), field: value}))
        assert oci.status(container_id) == "stopped"
        assert "not running" in oci.error("kill", container_id, "KILL")
        path.write_text(saved)
        assert oci.status(container_id) == "running"


def test_a_state_that_cannot_be_read_is_an_error_and_delete_force_removes_it(oci: Oci, tree: Path) -> None:
    container_id = new_id()
    oci.ok("create", "--bundle", bundle(tree, "true"), container_id)
    oci.ok("kill", container_id, "KILL")
    oci.await_status(container_id, "stopped")
    oci.ok("delete", container_id)
    (oci.root / container_id / "workspace").mkdir(parents=True)
    (oci.root / container_id / "state.json").write_text("{")
    assert container_id in oci.error("state", container_id)
    oci.error("delete", container_id)
    oci.ok("delete", "--force", container_id)
    assert oci.call("list", "-q").out == ""


# -- kill, delete ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "number"), [("TERM", 15), ("SIGUSR1", 10), ("usr2", 12), ("1", 1), ("RTMIN+1", 35)])
def test_kill_sends_a_signal_by_name_or_number(oci: Oci, tree: Path, word: str, number: int) -> None:
    script = f"trap 'echo got; exit 5' {number}; echo up; while :; do sleep 0.05; done"
    container_id = new_id()
    made = oci.ok("create", "--bundle", bundle(tree, script), container_id)
    oci.ok("start", container_id)
    until(lambda: "up" in made.out)
    oci.ok("kill", container_id, word)
    until(lambda: made.lines == ["up", "got"])


def test_kill_without_a_signal_is_sigterm(oci: Oci, tree: Path) -> None:
    container_id = new_id()
    script = "trap 'echo term; exit' TERM; echo up; while :; do sleep 0.05; done"
    made = oci.ok("create", "--bundle", bundle(tree, script), container_id)
    oci.ok("start", container_id)
    until(lambda: "up" in made.out)
    oci.ok("kill", container_id)
    until(lambda: made.lines == ["up", "term"])


def test_kill_0_asks_whether_it_runs(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        oci.ok("kill", container_id, "0")
        assert oci.status(container_id) == "running"


def test_kill_of_an_unknown_signal_or_a_stopped_container_fails(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        for word in ("NONE", "99", "-9", "SIG", "９"):
            assert "signal" in oci.error("kill", "--", container_id, word)
        oci.ok("kill", container_id, "9")
        oci.await_status(container_id, "stopped")
        assert "not running" in oci.error("kill", container_id, "TERM")
    assert "does not exist" in oci.error("kill", container_id, "TERM")


def test_a_created_container_can_be_killed(oci: Oci, tree: Path) -> None:
    with oci.created(bundle(tree, SLEEP)) as container_id:
        oci.ok("kill", container_id, "KILL")
        oci.await_status(container_id, "stopped")


def test_kill_all_reaches_every_process_without_a_pid_namespace(oci: Oci, tree: Path) -> None:
    mark = new_id()

    def change(made: Document) -> None:
        namespaces(made, pid=None)

    with oci.running(bundle(tree, f"sh -c 'sleep 1000; : {mark}' & exit 0", change)) as container_id:
        oci.await_status(container_id, "stopped")
        assert children_named(mark)
        oci.ok("kill", "--all", container_id, "KILL")
        until(lambda: not children_named(mark))


def test_delete_is_for_what_stopped_and_force_for_all(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        assert "cannot delete a container that is running" in oci.error("delete", container_id)
        pid = oci.pid(container_id)
        oci.ok("delete", "--force", container_id)
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    assert "does not exist" in oci.error("delete", container_id)
    oci.ok("delete", "--force", container_id)  # gone is what was asked for


def test_delete_of_a_created_one_needs_no_force(oci: Oci, tree: Path) -> None:
    """Its program never ran (the specification leaves it open; runc and crun do the same)."""
    with oci.created(bundle(tree, SLEEP)) as container_id:
        pid = oci.pid(container_id)
        oci.ok("delete", container_id)
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()


def test_delete_leaves_nothing(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, "sleep 1000 & sleep 1000")) as container_id:
        groups = json.loads((oci.root / container_id / "state.json").read_text())["group_directories"]
        assert groups
        assert all(Path(group).is_dir() for group in groups)
    assert not any(Path(group).exists() for group in groups)
    assert not (oci.root / container_id).exists()
    assert oci.call("list", "-q").out == ""


def test_delete_ends_what_its_first_process_left_without_a_pid_namespace(oci: Oci, tree: Path) -> None:
    mark = new_id()

    def change(made: Document) -> None:
        namespaces(made, pid=None)

    with oci.running(bundle(tree, f"sh -c 'sleep 1000; : {mark}' & exit 0", change)) as container_id:
        oci.await_status(container_id, "stopped")
        assert children_named(mark)
    until(lambda: not children_named(mark))


# -- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 7, 255])
def test_run_ends_with_the_programs_exit_code_and_deletes(oci: Oci, tree: Path, code: int) -> None:
    result = oci.run(bundle(tree, f"echo out; echo err >&2; exit {code}"))
    assert (result.code, result.out, result.err) == (code, "out\n", "err\n")
    assert oci.call("list", "-q").out == ""


def test_run_ends_with_128_plus_the_signal(oci: Oci, tree: Path) -> None:
    """Not from inside: the first process of a pid namespace does not get what it sends itself."""
    container_id = new_id()
    process = oci.popen("run", "--bundle", bundle(tree, "exec sleep 1000"), container_id, stdin=subprocess.DEVNULL)
    until(lambda: oci.call("state", container_id).out.find('"running"') > 0)
    oci.ok("kill", container_id, "KILL")
    assert process.wait(10) == 128 + signal.SIGKILL


def _catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def test_run_passes_signals_on(oci: Oci, tree: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = oci.popen("run", "--bundle", bundle(tree, SLEEP), new_id(), stdin=subprocess.DEVNULL, stdout=out)
        until(lambda: "up" in log.read_text())
        until(lambda: _catches(process.pid, signal.SIGTERM), "it passes signals on")
        process.terminate()
        assert process.wait(10) == 9


def test_run_reads_stdin(oci: Oci, tree: Path) -> None:
    assert oci.output(bundle(tree, "cat"), stdin=b"a\nb\n") == ["a", "b"]


def test_run_detached_returns_and_writes_the_pid(oci: Oci, tree: Path, tmp_path: Path) -> None:
    container_id, pid_file = new_id(), tmp_path / "pid"
    oci.ok("run", "--detach", "--pid-file", pid_file, "--bundle", bundle(tree, SLEEP), container_id)
    assert oci.state(container_id)["status"] == "running"
    assert int(pid_file.read_text()) == oci.pid(container_id)
    oci.ok("delete", "--force", container_id)


def test_a_pid_file_that_cannot_be_written_is_an_error(oci: Oci, tree: Path, tmp_path: Path) -> None:
    said = oci.refused(bundle(tree, SLEEP), "--pid-file", str(tmp_path / "none" / "pid"))
    assert "pid file" in said
    assert "No such file or directory" in said


def test_run_keep_leaves_a_stopped_container(oci: Oci, tree: Path) -> None:
    container_id = new_id()
    oci.ok("run", "--keep", "--bundle", bundle(tree, "true"), container_id)
    assert oci.status(container_id) == "stopped"
    oci.ok("delete", container_id)


def test_a_run_that_cannot_start_leaves_nothing(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["hooks"] = {"startContainer": [{"path": "/bin/false"}]}

    assert "/bin/false: exit status 1" in oci.error("run", "--bundle", bundle(tree, "true", change), new_id())
    assert oci.call("list", "-q").out == ""


# -- exec ------------------------------------------------------------------------------------------------------------


def test_exec_ends_with_the_programs_exit_code(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        assert oci.call("exec", container_id, "sh", "-c", "exit 6").code == 6
        assert oci.call("exec", container_id, "sh", "-c", "kill -9 $$").code == 137
        assert oci.ok("exec", container_id, "cat", stdin=b"through").out == "through"


def test_exec_options(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        script = "id -u; id -g; id -G; pwd; echo $A$B; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status"
        lines = oci.inside(
            container_id, script, "--user", "12:34", "--additional-gids", "56", "--cwd", "/tmp", "--env", "A=1", "-e",
            "B=2", "--no-new-privs",
        )  # fmt: skip
        assert lines[:5] == ["12", "34", "34 56", "/tmp", "12"]
        assert lines[5].split() == ["NoNewPrivs:", "1"]
        effective = int(
            oci.inside(container_id, "grep CapEff /proc/self/status", "--cap", "CAP_SYS_PTRACE")[0].split()[1], 16
        )
        assert effective >> 19 & 1


def test_exec_sees_the_container_and_not_the_host(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
        links = oci.inside(container_id, "".join(f"readlink /proc/self/ns/{kind};" for kind in kinds))
        pid = oci.pid(container_id)
        assert links == [namespace_of(pid, kind) for kind in kinds]
        own = Path(f"/proc/{pid}/cgroup").read_text()
        out = oci.ok("exec", container_id, "cat", "/proc/self/cgroup").lines
        assert len(out) == len(own.splitlines())
        joined = {line.split(":")[1]: line.split(":", 2)[2] for line in out}
        for tree_ in cgroups.detect().used():
            key = "" if tree_.version == 2 else next(key for key in joined if tree_.controllers & {*key.split(",")})
            assert joined[key] == "/"


@pytest.mark.parametrize("user", ["root", "-1", "1:", "1:2:3", "0x1", "１", "4294967296", "1 "])
def test_exec_takes_numbers_alone_for_a_user(oci: Oci, tree: Path, user: str) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        assert "--user" in oci.error("exec", f"--user={user}", container_id, "true")


def test_exec_of_a_process_file(oci: Oci, tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    process = document(tree, "id -u; pwd; echo $X; grep CapEff /proc/self/status; exit 4")["process"]
    process |= {"user": {"uid": 5, "gid": 6}, "cwd": "/tmp", "env": ["PATH=/bin", "X=y"], "capabilities": {}}
    path.write_text(json.dumps(process))
    with oci.running(bundle(tree, SLEEP)) as container_id:
        result = oci.call("exec", "--process", path, container_id)
        assert result.lines == ["5", "/tmp", "y", "CapEff:\t0000000000000000"]
        assert result.code == 4
        path.write_text('{"args": []}')
        assert "args" in oci.error("exec", "--process", path, container_id)
        assert "missing" in oci.error("exec", container_id)


def test_exec_detached_with_a_pid_file(oci: Oci, tree: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with oci.running(bundle(tree, SLEEP)) as container_id:
        oci.ok("exec", "--detach", "--pid-file", pid_file, container_id, "sleep", "1000")
        pid = int(pid_file.read_text())
        assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
        assert pid in json.loads(oci.ok("ps", "--format", "json", container_id).out)
    assert not Path(f"/proc/{pid}").exists()


def test_exec_of_a_missing_program_fails(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        said = oci.call("exec", container_id, "nothing-here")
        assert said.code == 255
        assert "nothing-here: executable file not found in $PATH" in said.err


def test_exec_needs_a_container_that_runs(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, "true")) as container_id:
        oci.await_status(container_id, "stopped")
        assert "that is stopped" in oci.error("exec", container_id, "true")
    assert "does not exist" in oci.error("exec", container_id, "true")


def test_exec_in_a_paused_container_is_refused_unless_asked_for(oci: Oci, tree: Path, tmp_path: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        oci.ok("pause", container_id)
        assert "that is paused" in oci.error("exec", container_id, "true")
        oci.ok("resume", container_id)


# -- list, ps --------------------------------------------------------------------------------------------------------


def test_list_as_table_json_and_ids(oci: Oci, tree: Path) -> None:
    assert oci.ok("list").lines == ["ID   PID   STATUS   BUNDLE   CREATED   OWNER"]
    assert json.loads(oci.ok("list", "--format", "json").out) == []
    with oci.running(bundle(tree, SLEEP)) as first, oci.running(bundle(tree, "true")) as second:
        oci.await_status(second, "stopped")
        assert oci.ok("list", "--quiet").lines == sorted([first, second])
        table = {line.split()[0]: line.split()[1:3] for line in oci.ok("list").lines[1:]}
        assert table == {first: [str(oci.pid(first)), "running"], second: ["0", "stopped"]}
        listed = {entry["id"]: entry for entry in json.loads(oci.ok("list", "-f", "json").out)}
        assert listed[first] == oci.state(first)
        assert listed[second]["pid"] == 0
        assert {"ociVersion", "bundle", "rootfs", "created", "owner", "annotations"} <= set(listed[second])


def test_two_roots_do_not_see_each_other(oci: Oci, tree: Path) -> None:
    with Oci.at() as other, oci.running(bundle(tree, SLEEP)) as container_id:
        assert other.ok("list", "-q").out == ""
        assert "does not exist" in other.error("state", container_id)
        assert "does not exist" in other.error("kill", container_id)


def test_ps_shows_the_containers_processes_alone(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, "sleep 1000 & exec sleep 1001")) as container_id:
        pids = json.loads(oci.ok("ps", "-f", "json", container_id).out)
        assert oci.pid(container_id) in pids
        assert len(pids) == 2
        head, *lines = oci.ok("ps", container_id).lines
        assert "PID" in head.split()
        assert sorted(int(line.split()[1]) for line in lines) == sorted(pids)
        head, *lines = oci.ok("ps", container_id, "-o", "pid,args").lines
        assert head.split() == ["PID", "COMMAND"] or not lines  # -o alone shows those of one's own terminal


# -- pause, resume, update, events -----------------------------------------------------------------------------------


def test_pause_stops_every_process_and_resume_lets_them_go_on(oci: Oci, tree: Path) -> None:
    script = "while :; do echo x; sleep 0.02; done"
    container_id = new_id()
    made = oci.ok("create", "--bundle", bundle(tree, script), container_id)
    oci.ok("start", container_id)
    until(lambda: len(made.lines) > 3)
    oci.ok("pause", container_id)
    assert oci.status(container_id) == "paused"
    before = len(made.lines)
    time.sleep(0.3)
    assert len(made.lines) == before
    assert "that is paused" in oci.error("pause", container_id)
    oci.ok("resume", container_id)
    assert oci.status(container_id) == "running"
    until(lambda: len(made.lines) > before)
    assert "that is running" in oci.error("resume", container_id)
    oci.ok("pause", container_id)
    oci.ok("delete", "--force", container_id)


def test_a_paused_container_can_be_killed(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        oci.ok("pause", container_id)
        oci.ok("kill", container_id, "KILL")
        oci.await_status(container_id, "stopped")
        assert "that is stopped" in oci.error("pause", container_id)


def _limits(oci: Oci, container_id: str) -> dict[str, object]:
    return dict(json.loads(oci.ok("events", "--stats", container_id).out)["data"])


def test_update_changes_limits_by_options_file_and_stdin(oci: Oci, tree: Path, tmp_path: Path) -> None:
    def change(made: Document) -> None:
        made["linux"]["resources"] |= {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}

    with oci.running(bundle(tree, SLEEP, change)) as container_id:
        data = _limits(oci, container_id)
        assert data["memory"]["usage"]["limit"] == 64 << 20  # type: ignore[index]
        assert data["pids"]["limit"] == 50  # type: ignore[index]
        oci.ok("update", "--memory", "80m", "--pids-limit", "40", container_id)
        data = _limits(oci, container_id)
        assert data["memory"]["usage"]["limit"] == 80 << 20  # type: ignore[index]
        assert data["pids"]["limit"] == 40  # type: ignore[index]
        path = tmp_path / "resources.json"
        path.write_text('{"pids": {"limit": 30}}')
        oci.ok("update", "--resources", path, container_id)
        assert _limits(oci, container_id)["pids"]["limit"] == 30  # type: ignore[index]
        oci.ok("update", "-r", "-", container_id, stdin=b'{"pids": {"limit": 20}}')
        data = _limits(oci, container_id)
        assert data["pids"]["limit"] == 20  # type: ignore[index]
        assert data["memory"]["usage"]["limit"] == 80 << 20  # type: ignore[index]


def test_update_that_makes_no_sense_is_refused(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        assert "nothing to change" in oci.error("update", container_id)
        assert "--memory" in oci.error("update", "--memory", "many", container_id)
        assert "--resources" in oci.error("update", "-r", "-", container_id, stdin=b"{")
        assert "pids" in oci.error("update", "-r", "-", container_id, stdin=b'{"pids": {"limit": "x"}}')
    assert "does not exist" in oci.error("update", "--memory", "1g", container_id)


def test_events_stats_once_and_again_and_again(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        document_ = json.loads(oci.ok("events", "--stats", container_id).out)
        assert (document_["type"], document_["id"]) == ("stats", container_id)
        assert document_["data"]["pids"]["current"] >= 1
        assert document_["data"]["cpu"]["usage"]["total"] > 0
        assert document_["data"]["memory"]["usage"]["usage"] > 0
        assert "--interval" in oci.call("events", "--interval", "soon", container_id).err
        log = oci.logs / "events"
        with log.open("wb") as out:
            process = oci.popen("events", "--interval", "20ms", container_id, stdout=out)
            until(lambda: log.read_text().count("\n") >= 3)
            oci.ok("kill", container_id, "KILL")
            assert process.wait(10) == 0
        assert "is stopped" in oci.error("events", "--stats", container_id)


# -- features, spec --------------------------------------------------------------------------------------------------


def test_features_has_every_field_of_the_specification(oci: Oci) -> None:
    found = json.loads(oci.ok("features").out)
    assert found["ociVersionMin"] == "1.0.0"
    assert found["ociVersionMax"].startswith("1.2.")
    assert found["hooks"] == ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    words = "ro rw bind rbind rro rslave rshared idmap ridmap tmpcopyup nosuid noatime runbindable nosymfollow".split()
    assert set(words) <= set(found["mountOptions"])
    linux = found["linux"]
    assert set(linux["namespaces"]) == {"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"}
    assert {"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"} <= set(linux["capabilities"])
    assert set(linux["cgroup"]) == {"v1", "v2", "systemd", "systemdUser", "rdma"}
    assert linux["cgroup"]["systemd"] is False
    assert linux["seccomp"]["enabled"] is True
    assert {"SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY", "SCMP_ACT_KILL_PROCESS"} <= set(linux["seccomp"]["actions"])
    assert "SCMP_CMP_MASKED_EQ" in linux["seccomp"]["operators"]
    assert "SCMP_ARCH_X86_64" in linux["seccomp"]["archs"]
    assert "SECCOMP_FILTER_FLAG_LOG" in linux["seccomp"]["knownFlags"]
    assert set(linux["seccomp"]["supportedFlags"]) <= set(linux["seccomp"]["knownFlags"])
    assert linux["apparmor"]["enabled"] in {True, False}
    assert linux["selinux"]["enabled"] is Path("/sys/fs/selinux/enforce").exists()
    assert linux["intelRdt"]["enabled"] is False
    assert linux["mountExtensions"]["idmap"]["enabled"] is True
    assert found["potentiallyUnsafeConfigAnnotations"] == []


def test_spec_writes_an_example_that_runs_once_and_never_over_another(oci: Oci, tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "example"
    path.mkdir()
    oci.ok("spec", "--bundle", path)
    (path / "rootfs").symlink_to(tree)
    made = json.loads((path / "config.json").read_text())
    assert "File exists" in oci.error("spec", "--bundle", path)
    made["process"] |= {"terminal": False, "args": ["sh", "-c", "hostname; touch /x 2>&1; id -u"]}
    lines = oci.output(write_bundle(tmp_path, {**made, "root": {**made["root"], "path": str(tree)}}))
    assert lines == ["container", "touch: /x: Read-only file system", "0"]


def test_spec_rootless_maps_the_caller(oci: Oci, tmp_path: Path) -> None:
    oci.ok("spec", "--rootless", cwd=tmp_path)
    made = json.loads((tmp_path / "config.json").read_text())
    assert {"type": "user"} in made["linux"]["namespaces"]
    assert made["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 0, "size": 1}]
    assert "resources" not in made["linux"]


# -- global options --------------------------------------------------------------------------------------------------


def test_log_gets_errors_as_json_or_text(oci: Oci, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for _ in range(2):
        assert oci.call("--log", log, "--log-format", "json", "state", "nobody").code == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["level"] == "error"
    assert "nobody: container does not exist" in lines[0]["msg"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[0]["time"])
    log.unlink()
    assert oci.call("--log", log, "state", "nobody").code == 1
    assert re.fullmatch(r'time="[^"]+" level=error msg=".*nobody.*"\n', log.read_text())


def test_log_that_cannot_be_written_hides_no_error(oci: Oci) -> None:
    said = oci.error("--log", "/nowhere/log", "state", "nobody")
    assert "nobody" in said
    assert "--log /nowhere/log" in said


def test_systemd_cgroup_is_refused(oci: Oci, tree: Path) -> None:
    said = oci.error("--systemd-cgroup", "create", "--bundle", bundle(tree), new_id())
    assert "--systemd-cgroup" in said
    assert "not supported" in said
    assert oci.call("list", "-q").out == ""


def test_no_pivot_is_refused(oci: Oci, tree: Path) -> None:
    assert "--no-pivot" in oci.refused(bundle(tree), "--no-pivot")


def test_version_names_the_runtime_and_the_specification() -> None:
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.match(r"harness-oci version \d+\.\d+.*\nspec: 1\.2\.\d", said)


@pytest.mark.parametrize("words", [[], ["nonsense"], ["create"], ["--log-format", "xml", "list"], ["create", "a", "b"]])
def test_a_wrong_command_line_says_how(words: list[str]) -> None:
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_preserve_fds_hands_over_so_many_and_no_more(oci: Oci, tree: Path) -> None:
    """As a caller does: the first extra fd is 3."""
    script = "ls -l /proc/self/fd | sed 's/.* -> //'; cat <&3; cat <&4"
    reader, writer = os.pipe()
    other, end = os.pipe()
    os.write(writer, b"three\n")
    os.write(end, b"four\n")
    os.close(writer)
    os.close(end)
    move = f"import os, sys; os.dup2({reader}, 3); os.dup2({other}, 4); os.execvp(sys.argv[1], sys.argv[1:])"
    path = bundle(tree, script)
    argv = [sys.executable, "-c", move, *oci.argv("run", "--preserve-fds", "2", "--bundle", path, new_id())]
    done = subprocess.run(argv, pass_fds=(reader, other), capture_output=True, text=True, check=False)
    os.close(reader)
    os.close(other)
    assert done.stdout.splitlines()[-2:] == ["three", "four"], done.stderr
    plain = oci.output(bundle(tree, "ls /proc/self/fd"))
    assert plain == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_no_fd_of_the_caller_leaks(oci: Oci, tree: Path) -> None:
    path = bundle(tree, "ls /proc/self/fd; ls /proc/1/fd; true")
    with Path("/etc/hostname").open() as file:
        assert oci.output(path, pass_fds=(file.fileno(),)) == ["0", "1", "2", "3", "0", "1", "2"]


def test_debug_and_trace_tell_without_disturbing(oci: Oci, tree: Path) -> None:
    result = oci.call("run", "--trace", "--bundle", bundle(tree, "echo out"), new_id())
    assert result.lines == ["out"]
    assert "pivot" in result.err
