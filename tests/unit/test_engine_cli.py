import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cli import _container_show as show
from harness.cli import main
from harness.cli._container_options import request_of
from harness.cli.container import run
from harness.container import config
from harness.container.defaults import CAPABILITIES, DOCKER_CAPABILITIES
from harness.container.errors import ContainerError
from harness.container.seccomp import Profile
from harness.container.seccomp_default import default_profile
from harness.engine import bundle, failure, logs, profiles, request
from harness.engine.record import Ending, Record, Shelf, Sight
from harness.engine.request import MountWish
from harness.errors import UsageError
from harness.images import users
from harness.images.oci import Descriptor, Image
from harness.model.spec import ImageConfig

ROOT = Path(__file__).parents[2]


def asked(*words):
    """Return the request of a command line."""
    context = run.make_context("run", [*words])
    options = dict(context.params)
    return request_of(options.pop("image"), options.pop("command"), options)


# -- the command line ------------------------------------------------------------------------------------------------


def test_what_follows_the_image_is_the_commands():
    made = asked("-e", "A=1", "busybox", "sh", "-c", "--rm", "-e")
    assert (made.image, made.command, made.env, made.remove) == ("busybox", ("sh", "-c", "--rm", "-e"), ("A=1",), False)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("/a/b:/c", MountWish("bind", "/a/b", "/c")),
        ("/a:/c/:ro,rslave", MountWish("bind", "/a", "/c", ("ro", "rslave"))),
        ("data:/c", MountWish("volume", "data", "/c")),
        ("/c", MountWish("volume", "", "/c")),
    ],
)
def test_volumes(text, wish):
    assert request.parse_volume(text) == wish


def test_a_relative_bind_is_of_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert request.parse_volume("./x:/c").source == str(tmp_path / "x")


@pytest.mark.parametrize("text", ["a:b", "a", "/a:/", "/a:/b/../c", "/a:/b:frob", "/a:/b:Z", "a/b:/c", "-x:/c", ":/c"])
def test_bad_volumes(text):
    with pytest.raises(UsageError, match=f"-v: {text}: "):
        request.parse_volume(text)


def test_mounts_in_the_long_form():
    assert request.parse_mount("type=bind,src=/a,dst=/b,readonly") == MountWish("bind", "/a", "/b", ("ro",))
    assert request.parse_mount("source=v,target=/b") == MountWish("volume", "v", "/b")
    assert request.parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m").options == ("size=1m",)
    with pytest.raises(UsageError, match="did you mean 'target'"):
        request.parse_mount("type=bind,src=/a,targt=/b")
    with pytest.raises(UsageError, match="bind with source 'a'"):
        request.parse_mount("type=bind,src=a,dst=/b")


def test_limits():
    limits = asked("-m", "256m", "--memory-swap", "-1", "--cpus", "1.5", "--pids-limit", "9", "busybox").limits
    assert (limits.memory_bytes, limits.swap_bytes, limits.quota_us, limits.pids) == (256 << 20, -1, 150_000, 9)


@pytest.mark.parametrize(
    "words",
    [["-m", "x"], ["--cpus", "0"], ["--cpus", "nan"], ["--memory-swap", "1g"], ["--ulimit", "nofile=2:1"],
     ["--ulimit", "nofile"], ["--ulimit", "x=1"], ["--sysctl", "a"], ["-w", "x"], ["-h", "a b"], ["--name", "-"],
     ["-e", "=x"], ["--network", "bridge"], ["--network", "x"], ["--cap-add", "x"], ["--security-opt", "label=x"],
     ["--cap-add", "ALL", "--cap-drop", "ALL"], ["-v", "/a:/x", "--tmpfs", "/x"], ["--env-file", "/no/such"]],
)  # fmt: skip
def test_bad_options_are_usage_errors_that_name_themselves(words):
    with pytest.raises(UsageError) as caught:
        asked(*words, "busybox")
    assert caught.value.message.startswith("-")
    assert ": " in caught.value.message


def test_ulimits():
    assert request.parse_ulimit("nofile=1:2") == ("RLIMIT_NOFILE", 1, 2)
    assert request.parse_ulimit("core=unlimited") == ("RLIMIT_CORE", 2**64 - 1, 2**64 - 1)


def test_capabilities():
    choose = request.choose_capabilities
    assert choose([], []) == DOCKER_CAPABILITIES
    assert choose(["SYS_ADMIN"], ["CAP_CHOWN"]) == (*DOCKER_CAPABILITIES[1:], "sys_admin")
    assert choose(["net_raw"], ["ALL"]) == ("net_raw",)
    assert choose(["ALL"], ["mknod"]) == tuple(name for name in CAPABILITIES if name != "mknod")


def test_security_options():
    assert request.parse_security(["no-new-privileges", "seccomp=unconfined"]) == request.Security(
        no_new_privs=True, seccomp="unconfined"
    )
    assert request.parse_security(["no-new-privileges:false"]) == request.Security()
    assert request.parse_security(["seccomp:/a=b"]).seccomp == "/a=b"


# -- config.json -----------------------------------------------------------------------------------------------------

BLOB = Descriptor("", "sha256:" + "0" * 64, 0)


def image(document=None, **said):
    return Image(BLOB, BLOB, (), {"config": document or {}}, ImageConfig(**said))


def written(made, found, tmp_path):
    wishes = bundle.wishes(made, found)
    place = bundle.Place("1a2b", tmp_path, tmp_path, {number: Path("/vol") for number in range(len(wishes))})
    document = bundle.document(made, found, place)
    return document, config.read(json.loads(json.dumps(document)), str(tmp_path), str(tmp_path / "workspace"))


def test_a_document_is_one_that_the_runtime_reads(tmp_path):
    made = asked("-m", "16m", "-v", "v:/data:ro", "--ulimit", "nofile=5", "--cap-drop", "ALL", "busybox", "true")
    document, read = written(made, image(env={"A": "1"}), tmp_path)
    assert read.process.args == ("true",)
    assert read.process.capabilities.bounding == ()
    assert not read.process.no_new_privs
    assert read.resources.memory.limit_bytes == read.resources.memory.swap_bytes == 16 << 20
    assert read.cgroups_path == "/harness-container-1a2b"
    assert read.seccomp == default_profile(())
    assert [mount.destination for mount in read.container.mounts][-1] == "/data"
    assert document["process"]["env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "HOSTNAME=1a2b", "A=1"
    ]  # fmt: skip


def test_the_filter_survives_being_written(tmp_path):
    for names in (DOCKER_CAPABILITIES, tuple(CAPABILITIES)):
        made = request.Request("x", ("true",), capabilities=names)
        read = written(made, image(), tmp_path)[1].seccomp
        assert isinstance(read, Profile)
        assert read == default_profile(names)


def test_entrypoint_and_command():
    found = image(entrypoint=("a",), cmd=("b", "c"))
    assert bundle.arguments(asked("x"), found) == ("a", "b", "c")
    assert bundle.arguments(asked("x", "d"), found) == ("a", "d")
    assert bundle.arguments(asked("--entrypoint", "e", "x"), found) == ("e",)
    assert bundle.arguments(asked("--entrypoint", "", "x", "d"), found) == ("d",)
    with pytest.raises(UsageError, match="names no command"):
        bundle.arguments(asked("--entrypoint", "", "x"), found)


def test_volumes_of_the_image_unless_mounted_otherwise():
    found = image({"Volumes": {"/a/": {}, "/b": {}}})
    wishes = bundle.wishes(asked("-v", "/srv:/a", "x"), found)
    assert [(wish.kind, wish.target) for wish in wishes] == [("bind", "/a"), ("volume", "/b")]


def test_outer_mounts_come_first(tmp_path):
    made = asked("-v", "v:/a/b", "--tmpfs", "/a", "x", "true")
    targets = [mount["destination"] for mount in written(made, image(), tmp_path)[0]["mounts"]]
    assert targets.index("/a") < targets.index("/a/b")


def test_environment(monkeypatch):
    monkeypatch.setenv("OURS", "1")
    monkeypatch.delenv("GONE", raising=False)
    user = users.User(0, 0, home="/h")
    env = bundle.environment({"A": "a", "GONE": "x"}, ["A=", "OURS", "GONE"], user, tty=True)
    assert dict(word.split("=", 1) for word in env[1:]) == {"TERM": "xterm", "HOME": "/h", "A": "", "OURS": "1"}


# -- seccomp, users, logs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({}, True),
        ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
        ({"includes": {"caps": ["CAP_BPF"]}}, False),
        ({"excludes": {"caps": ["CAP_CHOWN"]}}, False),
        ({"includes": {"arches": ["s390x"]}}, False),
        ({"excludes": {"arches": ["s390x"]}}, True),
        ({"includes": {"minKernel": "3.0"}}, True),
        ({"includes": {"minKernel": "99.0"}}, False),
        ({"excludes": {"minKernel": "3.0"}}, False),
    ],
)
def test_rules_of_a_profile_are_for_some_containers(tmp_path, rule, kept):
    entry = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", **rule}
    (tmp_path / "p").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]}))
    made = profiles.document(str(tmp_path / "p"), ("chown",))
    expected = [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": []}]
    assert made["syscalls"] == (expected if kept else [])


@pytest.mark.parametrize("text", ["", "[]", '{"syscalls": 1}', '{"syscalls": [1]}'])
def test_profiles_that_are_none(tmp_path, text):
    (tmp_path / "p").write_text(text)
    with pytest.raises(UsageError, match="--security-opt: seccomp"):
        profiles.document(str(tmp_path / "p"), ())


def test_users_are_read_inside_the_root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/real").write_text("bad\nx:x:-1:0::/:\nu:x:5:6::/home/u:/bin/sh\n")
    (tmp_path / "etc/passwd").symlink_to("/etc/real")
    (tmp_path / "etc/group").write_text("g:x:7:u,v\nh:x:8:\n")
    assert users.resolve(tmp_path, "u") == users.User(5, 6, (7,), "/home/u")
    assert users.resolve(tmp_path, "u:h", ("g",)) == users.User(5, 8, (7,), "/home/u")
    assert users.resolve(tmp_path, "") == users.User(0, 0)
    for text in ("x", "u:x", "4294967295", "-1"):
        with pytest.raises(UsageError, match="not in /etc/"):
            users.resolve(tmp_path, text)


def test_logs_keep_every_byte_in_its_order(tmp_path):
    writer = logs.LogWriter(tmp_path / "log")
    for stream, data in (("stdout", b"a\nb"), ("stderr", b"e\n"), ("stdout", b" c\n\n"), ("stdout", b"\xff F end")):
        writer.write(stream, data)
    writer.close()
    entries = list(logs.read(tmp_path / "log"))
    assert b"".join(entry.text for entry in entries if entry.stream == "stdout") == b"a\nb c\n\n\xff F end"
    assert [entry.text for entry in entries if entry.stream == "stderr"] == [b"e\n"]
    tail = logs.read(tmp_path / "log", tail=4)
    assert b"".join(entry.text for entry in tail) == b"b c\ne\n\n\xff F end"  # a line stays in one piece
    assert list(logs.read(tmp_path / "log", tail=0)) == []
    assert list(logs.read(tmp_path / "none")) == []


def test_a_full_disk_is_told_in_the_log(tmp_path):
    writer = logs.LogWriter(Path("/dev/full"))
    writer.write("stdout", b"12345\n")
    file = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    os.dup2(file, writer._fd)
    os.close(file)
    writer.write("stdout", b"later\n")
    writer.close()
    assert [entry.text for entry in logs.read(tmp_path / "log")] == [
        b"harness: 6 bytes were lost here: the log could not be written\n", b"later\n"
    ]  # fmt: skip


def test_following_a_log_ends_with_its_writer(tmp_path):
    writer, turns = logs.LogWriter(tmp_path / "log"), iter([False, True])
    writer.write("stdout", b"old\nnew\n")

    def is_over():
        over = next(turns)
        if over:
            writer.write("stdout", b"last\n")
        return over

    seen = [entry.text for entry in logs.read(tmp_path / "log", tail=1, is_over=is_over)]
    writer.close()
    assert seen == [b"new\n", b"last\n"]


# -- what is shown ---------------------------------------------------------------------------------------------------


def part(number, name, took_ns):
    return show.Part(str(number), name, took_ns)


def test_small_steps_are_one_row():
    parts = [show.Part("harness", "plan", 1), part(0, "clone 1", 900), part(1, "bind a", 1), part(2, "bind b", 2),
             part(3, "mask c", 3), part(4, "pivot", 90), part(5, "exec", 4)]  # fmt: skip
    rows = show.fold(parts, 1000)
    assert [(row.who, row.what, row.took_ns) for row in rows] == [
        ("harness", "plan", 1), ("0", "clone 1", 900), ("1-3", "bind, mask", 6), ("4", "pivot", 90), ("5", "exec", 4)
    ]  # fmt: skip
    assert sum(row.took_ns for row in rows) == sum(entry.took_ns for entry in parts)


def test_status_texts():
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 200))
    record = Record("1", "n", "i", "d", "t", ("true",), now)
    assert show.status_text(Sight(record, "running", 5)) == "Up 3 minutes"
    assert show.status_text(Sight(record, "exited", ending=Ending(3, now))) == "Exited (3) 3 minutes ago"
    assert show.status_text(Sight(record, "exited")) == "Exited (code unknown)"


@pytest.mark.parametrize(
    ("step", "errno", "code"),
    [("step 9 (find)", 2, 127), ("step 9 (find)", 13, 126), ("step 9 (exec)", 8, 126), ("step 9 (exec)", 2, 127),
     ("step 9 (overlay)", 22, 125), ("config.json", 0, 125)],
)  # fmt: skip
def test_exit_codes_say_whose_fault_it_is(step, errno, code):
    assert failure.failed(ContainerError(step, errno, "x"), "c").exit_code == code


def test_names_and_ids(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))
    shelf = Shelf()
    for container_id, name in (("aa11", "web"), ("aa22", "db")):
        home = shelf.home(container_id)
        home.path.mkdir(parents=True)
        home.write("container.json", {"id": container_id, "name": name, "image": "i", "digest": "", "tree": "",
                                      "command": ["true"], "created": "2026-01-01T00:00:00Z", "later": 1})  # fmt: skip
    assert [shelf.find(text) for text in ("web", "aa2", "aa11")] == ["aa11", "aa22", "aa11"]
    for text, why in (("aa", "begins the ids of 2"), ("wep", "did you mean 'web'"), ("", "no such container")):
        with pytest.raises(UsageError, match=why):
            shelf.find(text)
    assert shelf.free_name("new") == "new"
    assert shelf.free_name("") not in {"", "web", "db"}
    with pytest.raises(UsageError, match="web: taken by container aa11"):
        shelf.free_name("web")
    assert [shelf.look(record).status for record in shelf.records()] == ["exited", "exited"]


def test_without_containers_ps_says_how_to_begin(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path))
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    assert main.run(["container", "ps"]) == 0
    assert "harness container run --rm busybox echo hello" in capsys.readouterr().err
    assert main.run(["container", "ps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": "harness.container/1", "containers": []}
    assert main.run(["container", "rm", "x"]) == 2
    assert "error: container: x: no such container" in capsys.readouterr().err


def test_who_is_not_root_is_told_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path))
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main.run(["container", "run", "busybox"]) == 3
    assert "error: container: root: not root" in capsys.readouterr().err


def test_help_of_run_loads_nothing_that_only_a_run_needs():
    code = "import sys; from harness.cli.main import run; run(['container', 'run', '--help']);"
    code += "print([n for n in ('harness.container.oci', 'pydantic', 'rich', 'pyroute2') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Examples:" in done.stdout
