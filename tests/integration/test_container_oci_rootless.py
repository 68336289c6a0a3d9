"""OCI containers of an ordinary user: `harness-oci` itself runs without privileges.

| item                | what is shown here                                                                   |
|---------------------|--------------------------------------------------------------------------------------|
| one id              | the example of `spec --rootless` runs; the caller is root inside; setgroups is denied|
| ranges              | by newuidmap(1) and newgidmap(1), from /etc/subuid                                   |
| life                | create, start, state, exec, kill, delete, list; below $XDG_RUNTIME_DIR               |
| cgroups             | without one; a limit is refused with the reason                                      |
| files, mounts       | owners, devices, tmpfs, binds, read-only root, masked paths                          |
| what it may not     | maps of others' ids; a container without a user namespace                            |

The interpreter is the system's, with a copy of the package: the project's own may lie where others cannot read.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import harness
from tests.integration.oci_kit import Document, Oci, bind, document, mount, mounts_in, new_id, write_bundle

USER = pwd.getpwnam("daemon")  # newuidmap(1) wants a user with a name
UID = USER.pw_uid
PYTHON = "/usr/bin/python3"
SUBORDINATE = 200000
SLEEP = "exec sleep 1000"


def _why_not() -> str | None:
    if not Path(PYTHON).exists():
        return f"no {PYTHON}"
    if os.geteuid() != 0:
        return None
    argv = ["setpriv", f"--reuid={UID}", f"--regid={USER.pw_gid}", "--clear-groups", "unshare", "--user", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no user namespaces for ordinary users: {done.stderr.strip()}"


pytestmark = [pytest.mark.needs("root"), pytest.mark.skipif(_why_not() is not None, reason=str(_why_not()))]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the ordinary user, with a copy of the package, where others may go."""
    with tempfile.TemporaryDirectory(prefix="harness-rootless-") as name:
        path = Path(name)
        path.chmod(0o755)
        package = path / "package" / "harness"
        package.mkdir(parents=True)
        source = Path(harness.__file__).parent
        shutil.copy(source / "__init__.py", package)
        shutil.copytree(source / "container", package / "container", ignore=shutil.ignore_patterns("__pycache__"))
        for name_ in ("run", "bundles"):
            (path / name_).mkdir()
            os.chown(path / name_, UID, UID)
        yield path


@pytest.fixture
def root(busybox: Path, place: Path) -> Path:
    path = place / "bundles" / "tree"
    shutil.copytree(busybox, path, symlinks=True)
    for entry in [path, *path.rglob("*")]:
        os.chown(entry, UID, UID, follow_symlinks=False)
    return path


@pytest.fixture
def oci(place: Path) -> Iterator[Oci]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(place / "package"), "XDG_RUNTIME_DIR": str(place / "run"),
           "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    prefix = (
        "setpriv",
        f"--reuid={UID}",
        f"--regid={USER.pw_gid}",
        "--clear-groups",
        PYTHON,
        "-m",
        "harness.container",
    )
    runtime = Oci(place / "run" / "state", prefix, env)
    try:
        yield runtime
    finally:
        runtime.remove_all()


@pytest.fixture
def ranges() -> Iterator[list[Document]]:
    """Maps of one's own id and of granted ones; the grant is taken back at the end."""
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        pytest.skip("no newuidmap and newgidmap (apt: uidmap)")
    with ExitStack() as stack:
        for path in (Path("/etc/subuid"), Path("/etc/subgid")):
            before = path.read_text() if path.exists() else ""
            stack.callback(path.write_text, before)
            path.write_text(f"{before.rstrip()}\n{USER.pw_name}:{SUBORDINATE}:1000\n".lstrip())
        yield [
            {"containerID": 0, "hostID": UID, "size": 1},
            {"containerID": 1, "hostID": SUBORDINATE, "size": 1000},
        ]


def _bundle(oci: Oci, root: Path, script: str) -> tuple[Path, Document]:
    """Write the runtime's own example for this user, with another program."""
    path = root.parent / new_id()
    path.mkdir()
    os.chown(path, UID, UID)
    oci.ok("spec", "--rootless", "--bundle", path)
    made = json.loads((path / "config.json").read_text())
    made["process"] |= {"terminal": False, "args": ["/bin/sh", "-c", script]}
    made["root"] = {"path": str(root), "readonly": False}
    return path, made


def _written(bundle: tuple[Path, Document]) -> Path:
    path, made = bundle
    (path / "config.json").write_text(json.dumps(made))
    return path


def test_the_example_runs_with_one_id(oci: Oci, root: Path) -> None:
    script = "id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups; hostname; stat -c %u:%g /bin /"
    lines = oci.output(_written(_bundle(oci, root, script)))
    assert lines[:2] == ["0", "0"]
    assert lines[2].split() == ["0", str(UID), "1"]
    assert lines[3:] == ["deny", "container", "0:0", "0:0"]


def test_its_life(oci: Oci, root: Path) -> None:
    with oci.created(_written(_bundle(oci, root, "trap 'exit 0' TERM; while :; do sleep 0.05; done"))) as container_id:
        assert oci.status(container_id) == "created"
        assert oci.ok("list", "-q").lines == [container_id]
        oci.ok("start", container_id)
        state = oci.state(container_id)
        assert state["status"] == "running"
        assert Path(f"/proc/{state['pid']}").stat().st_uid == UID
        assert "cannot delete" in oci.error("delete", container_id)
        oci.ok("kill", container_id, "KILL")
        oci.await_status(container_id, "stopped")
        oci.ok("delete", container_id)
    assert oci.ok("list", "-q").out == ""


def test_states_lie_below_the_runtime_directory(oci: Oci, place: Path) -> None:
    argv = [*oci.prefix, "list", "-q"]
    assert subprocess.run(argv, env=oci.env, capture_output=True, text=True, check=True).stdout == ""
    shown = subprocess.run([*oci.prefix, "--help"], env=oci.env, capture_output=True, text=True, check=True).stdout
    assert f"{place}/run/harness-oci" in shown.replace("\n", "").replace(" ", "")


def test_exec(oci: Oci, root: Path) -> None:
    with oci.running(_written(_bundle(oci, root, SLEEP))) as container_id:
        assert oci.inside(container_id, "id -u; id -g; hostname; cat /proc/1/cmdline | tr '\\0' ' '") == [
            "0", "0", "container", "sleep 1000 ",
        ]  # fmt: skip
        assert oci.call("exec", container_id, "sh", "-c", "exit 7").code == 7


def test_ranges_of_ids(oci: Oci, root: Path, ranges: list[Document]) -> None:
    bundle = _bundle(oci, root, "cat /proc/self/uid_map; touch /x; chown 5:6 /x; stat -c %u:%g /x")
    for key in ("uidMappings", "gidMappings"):
        bundle[1]["linux"][key] = ranges
    sets = bundle[1]["process"]["capabilities"]
    assert "CAP_CHOWN" in sets["effective"]
    lines = oci.output(_written(bundle))
    assert [line.split() for line in lines[:2]] == [["0", str(UID), "1"], ["1", str(SUBORDINATE), "1000"]]
    assert lines[2] == "5:6"
    assert (root / "x").stat().st_uid == SUBORDINATE + 4


def test_another_user_inside_with_groups(oci: Oci, root: Path, ranges: list[Document]) -> None:
    bundle = _bundle(oci, root, SLEEP)
    for key in ("uidMappings", "gidMappings"):
        bundle[1]["linux"][key] = ranges
    bundle[1]["process"]["user"] = {"uid": 12, "gid": 34, "additionalGids": [56]}
    with oci.running(_written(bundle)) as container_id:
        assert oci.inside(container_id, "id -u; id -g; id -G") == ["12", "34", "34 56"]
        assert oci.inside(container_id, "id -u; id -g", "--user", "7:8") == ["7", "8"]
        status = Path(f"/proc/{oci.pid(container_id)}/status").read_text()
        assert f"Uid:\t{SUBORDINATE + 11}\t" in status


def test_ranges_that_were_not_granted_are_refused(oci: Oci, root: Path, ranges: list[Document]) -> None:
    bundle = _bundle(oci, root, "true")
    for key in ("uidMappings", "gidMappings"):
        bundle[1]["linux"][key] = [ranges[0], {"containerID": 1, "hostID": 5000, "size": 10}]
    said = oci.refused(_written(bundle))
    assert "user namespace" in said
    assert "newgidmap" in said


def test_ids_of_others_are_refused(oci: Oci, root: Path) -> None:
    bundle = _bundle(oci, root, "true")
    bundle[1]["linux"]["uidMappings"][0]["hostID"] = 0
    assert "uid_map" in oci.refused(_written(bundle))


def test_files_made_inside_are_the_callers(oci: Oci, root: Path) -> None:
    assert oci.output(_written(_bundle(oci, root, "touch /mine; stat -c %u /mine"))) == ["0"]
    assert (root / "mine").stat().st_uid == UID


def test_devices_mounts_and_masks(oci: Oci, root: Path, place: Path) -> None:
    (place / "bundles" / "data").mkdir()
    (place / "bundles" / "data" / "x").write_text("y\n")
    script = (
        "echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; cat /data/x;"
        "touch /data/z 2>/dev/null || echo read-only; touch /tmp/z && echo tmp; cat /proc/kcore 2>/dev/null | wc -c;"
        "touch /new 2>/dev/null || echo root-read-only; cat /proc/self/mountinfo"
    )
    bundle = _bundle(oci, root, script)
    bind(bundle[1], place / "bundles" / "data", "/data", "rbind", "ro")
    mount(bundle[1], "/tmp", "tmpfs", "tmpfs", "size=1m")
    bundle[1]["root"]["readonly"] = True
    lines = oci.output(_written(bundle))
    assert lines[:7] == ["3", "3", "y", "read-only", "tmp", "0", "root-read-only"]
    found = mounts_in(lines[7:])
    assert {found[path].type for path in ("/proc",)} == {"proc"}
    assert found["/dev"].type == "tmpfs"
    assert "/sys" in found


def test_without_a_cgroup_and_a_limit_is_refused_with_the_reason(oci: Oci, root: Path) -> None:
    with oci.running(_written(_bundle(oci, root, SLEEP))) as container_id:
        assert "has no cgroup" in oci.error("pause", container_id)
        assert "has no cgroup" in oci.error("update", "--memory", "64m", container_id)
    bundle = _bundle(oci, root, "true")
    bundle[1]["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
    said = oci.refused(_written(bundle))
    assert "linux.resources" in said
    assert "cgroup" in said


def test_terminal_and_hooks(oci: Oci, root: Path, place: Path) -> None:
    bundle = _bundle(oci, root, "tty; exit 3")
    bundle[1]["process"]["terminal"] = True
    log = place / "run" / "log"
    bundle[1]["hooks"] = {point: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {point} >>{log}; id -u >>{log}"]}]
                          for point in ("createRuntime", "poststop")}  # fmt: skip
    result = oci.run(_written(bundle))
    assert result.code == 3
    assert "/dev/" in result.out
    assert log.read_text().split() == ["createRuntime", str(UID), "poststop", str(UID)]


def test_a_container_without_a_user_namespace_is_refused(oci: Oci, root: Path) -> None:
    path = write_bundle(root.parent, document(root, "true"))
    path.chmod(0o755)
    said = oci.refused(path)
    assert "Operation not permitted" in said or "Permission denied" in said


def test_killed_and_left_processes_are_gone(oci: Oci, root: Path) -> None:
    with oci.running(_written(_bundle(oci, root, "sleep 1001 & exec sleep 1000"))) as container_id:
        pid = oci.pid(container_id)
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
