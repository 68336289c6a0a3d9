"""`harness container` as a person uses it: every test runs the command itself."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.images.build import build_image
from harness.images.resolve import copy_directory
from harness.images.store import Store
from tests.container_kit import is_alive, until

pytestmark = pytest.mark.needs("root", "overlayfs")

WEB = """\
FROM busybox
RUN_FREE
ENV GREETING=hello
WORKDIR /srv
USER app
VOLUME /srv/data
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo $GREETING; id -un; pwd"]
""".replace("RUN_FREE\n", "")


@pytest.fixture(scope="module")
def home(busybox, tmp_path_factory):
    """A HARNESS_HOME with two images: busybox with users of its own, and `web`, which says how it is run."""
    base = tmp_path_factory.mktemp("home")
    tree, store = base / "tree", Store(base / "home" / "data" / "images")
    shutil.copytree(busybox, tree, symlinks=True)
    (tree / "etc").mkdir(exist_ok=True)
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\napp:x:1235:\nmore:x:77:app\n")
    (tree / "bin/odd").write_text("#!/no/such/interpreter\n")
    (tree / "bin/odd").chmod(0o755)
    (tree / "bin/text").write_text("words")
    copy_directory(tree, store, "busybox:latest")
    context = base / "context"
    context.mkdir()
    (context / "Containerfile").write_text(WEB)
    build_image(context / "Containerfile", context, store, name="web:latest")
    shutil.rmtree(tree)
    yield base / "home"
    shutil.rmtree(base)


class Harness:
    """The command with a home and a runtime directory of its own."""

    def __init__(self, home, runtime):
        self.home = home
        self.env = {**os.environ, "HARNESS_HOME": str(home), "HARNESS_RUNTIME": str(runtime), "CI": "1", "OURS": "ours"}

    def argv(self, *words):
        return [sys.executable, "-m", "harness", "container", *map(str, words)]

    def popen(self, *words, **how):
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
        return subprocess.Popen(self.argv(*words), env=self.env, **how)

    def __call__(self, *words, code=0, **how):
        if "input" not in how:
            how["stdin"] = subprocess.DEVNULL
        done = subprocess.run(
            self.argv(*words), env=self.env, capture_output=True, text=True, timeout=60, check=False, **how
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done

    def out(self, *words, **how):
        return self(*words, **how).stdout

    def sh(self, script, *options, image="busybox", **how):
        return self("run", "--rm", *options, image, "sh", "-c", script, **how)

    def listed(self):
        return {entry["name"]: entry for entry in json.loads(self.out("ps", "-a", "--json"))["containers"]}


@pytest.fixture
def harness(home, tmp_path):
    command = Harness(home, tmp_path / "run")
    yield command
    left = command.out("ps", "-aq").split()
    if left:
        command("rm", "-f", *left)
    directory = home / "data" / "containers"
    assert [path.name for path in directory.glob("*")] in ([], [".lock"])
    assert list((tmp_path / "run").glob(".containers/*")) == []
    shutil.rmtree(home / "data" / "volumes", ignore_errors=True)


def test_output_and_exit_code_are_the_programs(harness):
    done = harness.sh("echo out; echo err >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert harness.listed() == {}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        pytest.param(["busybox", "nope"], 127, "nope: executable file not found", id="missing"),
        pytest.param(["busybox", "/bin/text"], 126, "/bin/text: Permission denied", id="not-executable"),
        pytest.param(["busybox", "/bin/odd"], 127, "interpreter", id="interpreter"),
        pytest.param(["--sysctl", "kernel.panic=1", "busybox", "true"], 125, "belongs to no namespace", id="sysctl"),
        pytest.param(["--tmpfs", "/t:sizes=1", "busybox", "true"], 125, "tmpfs", id="mount"),
        pytest.param(["missing", "true"], 3, "image: missing:latest: not in the store", id="image"),
        pytest.param(["-u", "nobody", "busybox", "true"], 2, "user: nobody: not in /etc/passwd", id="user"),
        pytest.param(["-v", "/no/such:/x", "busybox", "true"], 2, "-v: /no/such: no such file", id="bind"),
        pytest.param(["--network", "bridge", "busybox", "true"], 2, "bridge of the harness", id="bridge"),
    ],
)
def test_what_cannot_be_run_says_why_and_leaves_nothing(harness, words, code, says):
    done = harness("run", *words, code=code)
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert harness.listed() == {}


def test_killed_by_a_signal(harness):
    assert harness.sh("kill -TERM $$; echo alive").stdout == "alive\n"  # pid 1 has no default action
    harness("run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?", code=137)


def test_the_image_says_how_it_is_run(harness):
    assert harness.out("run", "--rm", "web") == "hello\napp\n/srv\n"
    assert harness.out("run", "--rm", "-e", "GREETING=hi", "web") == "hi\napp\n/srv\n"
    assert harness.out("run", "--rm", "web", "echo $0 $HOME") == "/bin/sh /home/app\n"
    assert harness.out("run", "--rm", "--entrypoint", "/bin/echo", "web", "a", "-v") == "a -v\n"


def test_environment_workdir_hostname(harness, tmp_path):
    (tmp_path / "env").write_text("# comment\nA=file\nB=file\n")
    done = harness.sh(
        "echo $A $B $OURS $PWD $HOSTNAME; hostname; cat /etc/hostname",
        "--env-file",
        tmp_path / "env",
        "-e",
        "B=option",
        "-e",
        "OURS",
        "-w",
        "/made/here",
        "-h",
        "box",
    )
    assert done.stdout.splitlines() == ["file option ours /made/here box", "box", "box"]  # fmt: skip


def test_groups_and_hosts_can_be_added(harness):
    done = harness.sh("id -G; grep peer /etc/hosts", "--group-add", "more", "--add-host", "peer:10.0.0.9")
    assert done.stdout == "0 77\n10.0.0.9\tpeer\n"


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("app", "1234 1235 1235 77"),
        ("app:0", "1234 0 0"),
        ("1234", "1234 1235 1235 77"),
        ("5", "5 0 0"),
        ("5:6", "5 6 6"),
    ],
)
def test_users_are_those_of_the_image(harness, user, ids):
    assert harness.sh("echo $(id -u) $(id -g) $(id -G)", "-u", user).stdout.strip() == ids


def test_hostile_passwd_is_not_followed_out_of_the_image(harness, home, busybox, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(busybox, tree, symlinks=True)
    (tree / "etc").mkdir(exist_ok=True)
    (tree / "etc/passwd").unlink(missing_ok=True)
    (tree / "etc/passwd").symlink_to("/../../../../../../etc/passwd")
    store = Store(home / "data" / "images")
    copy_directory(tree, store, "hostile:latest")
    (tree / "etc/passwd").unlink()
    os.mkfifo(tree / "etc/passwd")
    copy_directory(tree, store, "fifo:latest")
    for image in ("hostile", "fifo"):
        assert "not in /etc/passwd" in harness("run", "--rm", "-u", "daemon", image, "true", code=2).stderr
        store.remove(image)


def test_binds(harness, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("host\n")
    assert harness.sh("cat /x/f; echo new > /x/f", "-v", f"{tmp_path}/d:/x").stdout == "host\n"
    assert (tmp_path / "d" / "f").read_text() == "new\n"
    done = harness.sh("cat /x/f; echo no > /x/f", "-v", f"{tmp_path}/d:/x:ro", code=1)
    assert done.stdout == "new\n"
    assert "Read-only file system" in done.stderr
    one = f"type=bind,src={tmp_path}/d/f,dst=/one,ro"
    assert harness.sh("cat /one; echo no > /one", "--mount", one, code=1).stdout == "new\n"


def test_volumes_survive_their_containers(harness, home):
    harness.sh("echo kept > /data/f", "-v", "store:/data")
    assert harness.sh("cat /data/f", "-v", "store:/data:ro").stdout == "kept\n"
    assert (home / "data/volumes/store/f").read_text() == "kept\n"
    harness.sh("touch /srv/data/f", "-u", "0", "--entrypoint", "", image="web")  # that of VOLUME has no name
    assert [path.name for path in (home / "data/volumes").iterdir()] == ["store"]


def test_tmpfs_and_shm(harness):
    lines = harness.sh(
        "df -k /t | tail -1; df -k /dev/shm | tail -1", "--tmpfs", "/t:size=2m", "--shm-size", "3m"
    ).stdout
    assert [line.split()[1] for line in lines.splitlines()] == ["2048", "3072"]


def test_read_only_root(harness):
    done = harness.sh("touch /t/f && touch /f", "--read-only", "--tmpfs", "/t", code=1)
    assert done.stderr == "touch: /f: Read-only file system\n"


def status_lines(text):
    return dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)


def test_privileges(harness):
    usual = status_lines(harness.sh("cat /proc/self/status").stdout)
    assert (usual["CapEff"], usual["NoNewPrivs"], usual["Seccomp"]) == ("00000000a80425fb", "0", "2")
    few = ["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--security-opt", "no-new-privileges"]
    less = status_lines(harness.sh("cat /proc/self/status", *few).stdout)
    assert (less["CapEff"], less["CapBnd"], less["NoNewPrivs"]) == ("0000000000000400", "0000000000000400", "1")
    open_ = status_lines(harness.sh("cat /proc/self/status", "--security-opt", "seccomp=unconfined").stdout)
    assert open_["Seccomp"] == "0"
    harness.sh("chown 5 /bin/sh", "--cap-drop", "chown", code=1)


def test_seccomp_profile_of_a_file(harness, tmp_path):
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
             "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        ],
    }  # fmt: skip
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    done = harness.sh("ln -s a /b; mkdir /d", "--security-opt", f"seccomp={tmp_path}/profile.json", code=1)
    assert done.stderr == "mkdir: can't create directory '/d': Operation not supported\n"


def test_memory_limit_kills_and_says_so(harness):
    eat = "x=$(yes | head -c 60000000); echo survived"
    done = harness("run", "--name", "eater", "-m", "16m", "busybox", "sh", "-c", eat, code=137)
    assert "the kernel killed it" in done.stderr
    seen = harness.listed()["eater"]
    assert (seen["status"], seen["exit_code"], seen["oom_kills_count"] > 0) == ("exited", 137, True)


def test_other_limits(harness):
    limits = ["--pids-limit", "20", "--ulimit", "nofile=100:200", "--cpus", "0.5", "--oom-score-adj", "7"]
    script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; for i in $(seq 40); do sleep 1 & done; wait"
    done = harness.sh(script, *limits, code=2)
    assert done.stdout.split()[:3] == ["100", "200", "7"]
    assert "can't fork" in done.stderr
    sysctl = harness.sh("cat /proc/sys/net/core/somaxconn", "--sysctl", "net.core.somaxconn=77").stdout
    assert sysctl == "77\n"


def test_devices_of_the_host_are_out_of_reach(harness):
    done = harness.sh("mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem", "-v", "/tmp:/unused", "--tmpfs", "/tmp:dev", code=1)
    assert "Operation not permitted" in done.stderr


def test_networks(harness):
    assert harness.sh("ls /sys/class/net; ping -c 1 -W 1 127.0.0.1 >/dev/null && echo up").stdout.split() == [
        "lo",
        "up",
    ]
    hosts = {path.name for path in Path("/sys/class/net").iterdir()}
    assert set(harness.sh("ls /sys/class/net", "--network", "host").stdout.split()) == hosts
    harness("run", "-d", "--name", "first", "busybox", "sleep", "600")
    own = harness.out("exec", "first", "readlink", "/proc/self/ns/net")
    assert harness.sh("readlink /proc/self/ns/net", "--network", "container:first").stdout == own
    harness("rm", "-f", "first")
    assert "no such container" in harness("run", "--network", "container:first", "busybox", "true", code=2).stderr


# -- streams ---------------------------------------------------------------------------------------------------------


def test_stdin_is_empty_without_i_and_passed_with_it(harness):
    assert harness("run", "--rm", "busybox", "cat", input="unread").stdout == ""
    text = "0123456789\n" * 200_000  # more than all pipes hold
    assert harness("run", "--rm", "-i", "busybox", "cat", input=text).stdout == text


def test_a_reader_that_goes_away_ends_it(harness):
    process = harness.popen("run", "--rm", "busybox", "yes")
    assert process.stdout.readline() == "y\n"
    process.stdout.close()
    assert process.wait(20) in {1, 141}
    process.stderr.close()


def test_files_that_serve_a_user_stay_ours(harness, tmp_path):
    with (tmp_path / "out").open("w") as file:
        process = harness.popen("run", "--rm", "-u", "app", "busybox", "id", "-u", stdout=file)
        assert process.wait(20) == 0
        process.stderr.close()
    assert (tmp_path / "out").read_text() == "1234\n"
    assert (tmp_path / "out").stat().st_uid == 0


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, harness, *words):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, harness.argv(*words), harness.env)
        self.seen = ""

    def wait_for(self, text, seconds=20):
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.fd], [], [], 0.2)[0]:
                self.seen += os.read(self.fd, 4096).decode()

    def send(self, text):
        os.write(self.fd, text.encode())

    def exit_code(self):
        while select.select([self.fd], [], [], 10)[0]:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                break
            self.seen += data.decode()
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_terminal(harness):
    terminal = Terminal(harness, "run", "--name", "shell", "-it", "-e", "PS1=ready> ", "busybox", "sh")
    terminal.wait_for("ready> ")
    terminal.send("tty; sleep 60\n")
    terminal.wait_for("/dev/pts/0")
    time.sleep(0.3)
    terminal.send("\x03")  # Ctrl-C is the container's own: its terminal makes the signal
    terminal.send("echo rc=$?; exit 4\n")
    assert terminal.exit_code() == 4
    assert "rc=130" in terminal.seen
    assert "rc=130" in harness.out("logs", "shell")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_terminal_of_exec(harness):
    harness("run", "-d", "--name", "box", "busybox", "sleep", "600")
    terminal = Terminal(harness, "exec", "-it", "-e", "PS1=ready> ", "box", "sh")
    terminal.wait_for("ready> ")
    terminal.send("test -t 0 && echo is-$((40+2)); exit 3\n")
    assert terminal.exit_code() == 3
    assert "is-42" in terminal.seen


def test_terminal_needs_one(harness):
    assert "stdin is no terminal" in harness("run", "-it", "busybox", "true", code=2).stderr
    assert (
        harness("run", "--rm", "-t", "busybox", "tty").stdout == "/dev/pts/0\n"
    )  # the terminal's \r is lost in text mode


# -- in the background -----------------------------------------------------------------------------------------------

COUNT = 'trap "echo bye; exit 5" TERM; i=0; while :; do echo $i; echo e$i >&2; i=$((i+1)); sleep 0.1; done'


def test_detached_life(harness):
    container_id = harness.out("run", "-d", "--name", "count", "busybox", "sh", "-c", COUNT).strip()
    assert [(e["name"], e["status"]) for e in harness.listed().values()] == [("count", "running")]
    row = harness.out("ps").splitlines()[1]
    assert row.startswith(f"{container_id}  count  busybox:latest  ")
    follower = harness.popen("logs", "-f", "count")
    for number in range(3):
        assert follower.stdout.readline() == f"{number}\n"
    assert harness.out("stop", container_id[:6]) == f"{container_id[:6]}\n"
    out, err = follower.communicate(timeout=20)  # it ends with the container
    assert out.endswith("bye\n")
    assert err.startswith("e0\ne1\n")
    assert follower.returncode == 0
    tail = harness("logs", "--tail", "1", "-t", "count")
    assert tail.stdout.endswith("Z bye\n")
    assert harness.listed()["count"]["exit_code"] == 5
    assert harness.out("ps") == ""
    assert "Exited (5)" in harness.out("ps", "-a")
    harness("rm", "count")
    assert harness.listed() == {}


def test_a_start_in_the_background_that_fails_is_told_in_the_foreground(harness):
    assert "nope: executable file not found" in harness("run", "-d", "busybox", "nope", code=127).stderr
    assert harness.listed() == {}


def test_detached_and_removed_at_its_end(harness):
    harness("run", "-d", "--rm", "--name", "short", "busybox", "sleep", "0.5")
    until(lambda: harness.listed() == {})


def test_stop_kills_what_does_not_listen(harness):
    harness("run", "-d", "--name", "deaf", "busybox", "sleep", "600")
    harness("stop", "-t", "1", "deaf")
    assert harness.listed()["deaf"]["exit_code"] == 137
    harness("stop", "deaf")  # again does nothing
    harness("run", "-d", "--name", "web", "--entrypoint", "", "web", "sh", "-c", 'trap "exit 9" INT; sleep 600 & wait')
    harness("stop", "web")  # STOPSIGNAL of the image
    assert harness.listed()["web"]["exit_code"] == 9


def test_kill_sends_any_signal(harness):
    script = 'trap "echo usr1; exit 3" USR1; echo up; sleep 600 & wait'
    harness("run", "-d", "--name", "box", "busybox", "sh", "-c", script)
    until(lambda: harness.out("logs", "box") == "up\n")
    harness("kill", "-s", "USR1", "box")
    until(lambda: harness.listed()["box"]["exit_code"] == 3)
    assert "is exited: no signal" in harness("kill", "box", code=2).stderr


def test_exec(harness):
    harness("run", "-d", "--name", "box", "-e", "A=1", "-w", "/srv", "busybox", "sleep", "600")
    script = "echo $A $B $PWD $(id -un) $HOME"
    assert harness.out("exec", "box", "sh", "-c", script) == "1 /srv root /root\n"
    options = ["-e", "B=2", "-w", "/bin", "-u", "app"]
    assert harness.out("exec", *options, "box", "sh", "-c", script) == "1 2 /bin app /home/app\n"
    assert harness.out("exec", "-i", "box", "cat", input="in") == "in"
    harness("exec", "box", "sh", "-c", "exit 9", code=9)
    harness("exec", "box", "nope", code=127)
    harness("exec", "-d", "box", "sh", "-c", "echo done > /f")
    until(lambda: harness("exec", "box", "sh", "-c", "cat /f 2>/dev/null; true").stdout == "done\n")
    seen = status_lines(harness.out("exec", "box", "cat", "/proc/self/status"))
    assert (seen["CapEff"], seen["Seccomp"]) == ("00000000a80425fb", "2")
    harness("stop", "-t", "0", "box")
    assert "is exited, so nothing can be run in it" in harness("exec", "box", "true", code=2).stderr


def test_names(harness):
    harness("run", "-d", "--name", "box", "busybox", "sleep", "600")
    assert "taken by container" in harness("run", "--name", "box", "busybox", "true", code=2).stderr
    assert "did you mean 'box'?" in harness("stop", "bix", code=2).stderr
    failed = harness("rm", "box", "none", code=2).stderr
    assert "container: box: is running" in failed
    assert "none: no such container" in failed
    harness("rm", "-f", "box")


def test_nothing_half_made_is_left(harness, home):
    """A directory gets its name when it is complete; what a killed command began is removed by the next."""
    (home / "data/containers").mkdir(exist_ok=True)
    (home / "data/containers/.0123456789ab").mkdir()
    harness("run", "--rm", "busybox", "true")
    assert not (home / "data/containers/.0123456789ab").exists()


def test_inspect(harness):
    harness("run", "--name", "box", "-l", "a=b", "busybox", "true")
    seen = json.loads(harness.out("inspect", "box"))
    assert seen["schema"] == "harness.container/1"
    assert seen["container"]["labels"] == {"a": "b"}
    assert seen["container"]["config"]["process"]["args"] == ["true"]


# -- interrupted -----------------------------------------------------------------------------------------------------


def running(harness, name):
    until(lambda: harness.listed().get(name, {}).get("status") == "running", 20)


def test_signals_are_the_containers(harness):
    script = 'trap "echo int; exit 6" INT; echo up; sleep 600 & wait'
    process = harness.popen("run", "--rm", "--name", "box", "busybox", "sh", "-c", script)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "int\n"
    assert process.returncode == 6
    assert harness.listed() == {}


def test_the_third_request_to_end_kills(harness):
    process = harness.popen("run", "--rm", "--name", "box", "busybox", "sh", "-c", 'trap "" INT; echo up; sleep 600')
    assert process.stdout.readline() == "up\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert "once more kills it" in process.communicate(timeout=20)[1]
    assert process.returncode == 137


def test_a_killed_command_takes_its_container_along(harness):
    process = harness.popen("run", "--rm", "--name", "box", "busybox", "sleep", "600")
    running(harness, "box")
    pid = harness.listed()["box"]["pid"]
    process.kill()
    process.communicate()
    until(lambda: harness.listed()["box"]["status"] == "exited")
    assert not is_alive(pid)
    assert "code unknown" in harness.out("ps", "-a")
    harness("run", "--rm", "busybox", "true")  # what --rm promised is done now
    assert harness.listed() == {}


def test_what_nobody_watches_any_more_can_be_stopped_and_removed(harness):
    harness("run", "-d", "--name", "box", "busybox", "sleep", "600")
    pid = harness.listed()["box"]["pid"]
    watcher = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(watcher, signal.SIGKILL)
    until(lambda: not is_alive(watcher))
    assert harness.listed()["box"]["status"] == "running"
    assert harness.out("exec", "box", "echo", "here") == "here\n"
    harness("stop", "-t", "0", "box")
    seen = harness.listed()["box"]
    assert (seen["status"], seen["exit_code"]) == ("exited", None)
    harness("rm", "box")


def test_after_a_reboot_it_is_listed_as_ended(harness, tmp_path):
    """The runtime's state is gone then, and what is below the data directory is all there is."""
    harness("run", "--name", "box", "busybox", "true")
    (harness.home / "data/containers" / harness.listed()["box"]["id"] / "exit.json").unlink()
    assert harness.listed()["box"]["status"] == "exited"
    assert "is exited" in harness("exec", "box", "true", code=2).stderr
    harness("rm", "box")


def test_an_image_in_use_can_be_removed_without_harm(harness, home, busybox, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(busybox, tree, symlinks=True)
    (tree / "own").write_text("own\n")
    copy_directory(tree, Store(home / "data" / "images"), "own:latest")
    harness("run", "-d", "--name", "box", "own", "sleep", "600")
    for _ in range(2):
        argv = [sys.executable, "-m", "harness", "image", "rm", "own"]
        subprocess.run(argv, env=harness.env, capture_output=True, check=False)
    assert harness.out("exec", "box", "cat", "/own") == "own\n"
    assert "not in the store" in harness("run", "own", "true", code=3).stderr
    harness("rm", "-f", "box")


def test_what_is_written_stays_in_the_containers_own_layer(harness, home):
    harness("run", "--name", "box", "busybox", "sh", "-c", "echo mine > /bin/text; rm /bin/odd; touch /new")
    assert harness.sh("ls /new /bin/odd", code=1).stdout == "/bin/odd\n"
    container_id = harness.listed()["box"]["id"]
    upper = home / "data/containers" / container_id / "upper"
    assert (upper / "bin/text").read_text() == "mine\n"
    assert (home / "data/containers" / container_id).stat().st_mode & 0o777 == 0o700


def test_clean_leaves_them_alone(harness):
    harness("run", "-d", "--name", "box", "busybox", "sleep", "600")
    argv = [sys.executable, "-m", "harness", "clean", "--dry-run"]
    done = subprocess.run(argv, env=harness.env, capture_output=True, text=True, check=True)
    assert harness.listed()["box"]["id"] not in done.stdout
    assert "containers" not in done.stdout
    assert harness.listed()["box"]["status"] == "running"


# -- looking ---------------------------------------------------------------------------------------------------------


def test_dry_run_starts_nothing(harness, home):
    text = harness.out("run", "--dry-run", "-m", "16m", "-v", "new:/data", "--read-only", "busybox", "echo", "hi")
    for words in ("clone 0x", "overlay ", "readonly . alone", "arguments echo hi", "exec", "'limit': 16777216"):
        assert words in text
    assert harness.listed() == {}
    assert not (home / "data/volumes/new").exists()


def test_trace_shows_every_step(harness):
    done = harness("run", "--rm", "--trace", "busybox", "echo", "out")
    assert done.stdout == "out\n"
    head, *rows = done.stderr.splitlines()
    assert head.split() == ["STEP", "µs", "%", "WHAT"]
    times = [int(row.split()[1]) for row in rows]
    assert abs(sum(times[:-1]) - times[-1]) <= len(rows)  # each is rounded
    assert any("clone" in row for row in rows)
    assert rows[-1].startswith("sum ")
