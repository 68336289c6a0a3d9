"""Builds with RUN: what a command sees, what is kept of it, and that nothing of it stays."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import BuildError
from harness.images import containerfile
from harness.images.build import BuildOptions, build_image_of
from harness.images.build_plan import Wishes
from harness.images.build_progress import Lines
from harness.images.build_run import RunFailed
from harness.images.pack import pack_tree
from harness.images.roots import open_tree
from harness.images.store import Store
from harness.images.tree import walk

pytestmark = pytest.mark.needs("root", "overlayfs")

APPLETS = "cat chmod chown dd df echo env head id ip ls mkdir mount mv rm sh sleep stat touch".split()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A store with one image: busybox, and two users."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox (busybox-static)")
    place = tmp_path_factory.mktemp("base")
    return _store(place / "store", place / "root", busybox)


def _store(path, root, busybox):
    for directory in ("bin", "etc", "tmp"):
        (root / directory).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
    store = Store(path)
    layer = pack_tree(store, root)
    document = {"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}  # fmt: skip
    store.add_image(document, [layer], "base")
    return store


@pytest.fixture
def context(tmp_path):
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "f").write_text("of the context")
    return tmp_path / "context"


def build(store, context, text, log=lambda _: None, *, use_cache=False, **wishes):
    options = BuildOptions(("made",), Wishes(**wishes), use_cache=use_cache, progress=Lines(log))
    file = containerfile.parse(f"FROM base\n{text}", str(context / "Containerfile"))
    return build_image_of(file, context, store, options)


def said(store, context, text, **options):
    """Return what the RUN lines of a build wrote."""
    lines = []
    build(store, context, text, lines.append, **options)
    shown = [line.partition("] ")[2] for line in lines]
    return [text for text in shown if not re.match(r"(FROM|RUN|COPY|WORKDIR) |DONE |CACHED", text)]


def layer_names(store, result):
    layer = result.image.layers[-1]
    with store.open_blob(layer.blob) as file:
        listed = subprocess.run(["tar", "-t"], stdin=file, capture_output=True, text=True, check=True)
    return listed.stdout.split()


def test_a_command_sees_a_container_with_dockers_defaults(base, context):
    text = """RUN id -u; cat /proc/1/comm; ls /dev/null; df /dev/shm >/dev/null && head -1 /etc/hosts
RUN cat /proc/self/status
USER bob
RUN id -u; id -g; echo $HOME
"""
    lines = said(base, context, text)
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert lines[:4] == ["0", "sh", "/dev/null", "127.0.0.1\tlocalhost build"]
    assert (status["CapBnd"], status["Seccomp"]) == ("00000000a80425fb", "2")
    assert lines[-3:] == ["1000", "1001", "/home/bob"]


def test_only_what_a_command_writes_is_kept(base, context):
    result = build(base, context, "RUN mkdir /made && echo x > /made/file; echo y > /dev/shm/z; echo w > /dev/w\n")
    assert layer_names(base, result) == ["made/", "made/file"]
    tree = open_tree(base, result.image).path
    assert sorted(entry.path for entry in walk(tree) if entry.path.startswith((b"etc", b"dev", b"proc"))) == [
        b"etc", b"etc/passwd"
    ]  # fmt: skip
    assert (tree / "etc").stat().st_mtime == 0  # no mount point ever was in it


def test_a_command_that_changes_nothing_makes_no_layer(base, context):
    result = build(base, context, "RUN cat /etc/passwd\n")
    assert [step.layer for step in result.steps] == [None]
    assert result.image.layers == base.find("base").layers
    assert result.image.document["history"][-1]["empty_layer"] is True


def test_mounts_are_seen_and_never_kept(base, context):
    text = """RUN --mount=type=cache,target=/cache,id=mine echo $(cat /cache/n 2>/dev/null)n >/cache/n; cat /cache/n
RUN --mount=target=/in cat /in/f; echo x > /in/f || echo read-only
RUN --mount=target=/in,rw echo x > /in/f && cat /in/f
RUN --mount=type=tmpfs,target=/t,size=64k touch /t/x && df -k /t
RUN --mount=from=base,source=/etc,target=/other cat /other/passwd
"""
    first, second = said(base, context, text), said(base, context, text)
    assert (first[0], second[0]) == ("n", "nn")
    assert first[1].startswith("of the context")
    assert "read-only" in first
    assert first[first.index("read-only") + 1] == "x"
    assert any("64" in line for line in first if "/t" in line)
    assert first[-1].startswith("bob:x:1000")
    assert (context / "f").read_text() == "of the context"
    assert build(base, context, text).image.layers == base.find("base").layers


def test_a_network_of_its_own_has_nothing_but_loopback(base, context):
    text = "RUN cat /proc/net/dev\n"
    alone = [line.split(":")[0].strip() for line in said(base, context, text, network="none") if ":" in line]
    shared = [line.split(":")[0].strip() for line in said(base, context, text) if ":" in line]
    assert alone == ["lo"]
    assert len(shared) >= len(alone)


def test_a_stages_files_are_copied_by_content(base, context):
    text = "RUN echo same > /out; touch /now\nFROM base\nCOPY --from=0 /out /out\nRUN --network=none cat /out\n"
    build(base, context, text)
    again = build(base, context, text.replace("/now", "/later"), use_cache=True)
    assert [(step.keyword, step.cached) for step in again.steps] == [("RUN", False), ("COPY", True), ("RUN", True)]


def test_commands_too_give_the_same_digest_in_another_store_at_another_time(context, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    text = "COPY f /f\nRUN mkdir /d && cat /f >/d/copy; rm /bin/dd\nFROM base\nCOPY --from=0 /d /d\nRUN mv /d/copy /b\n"
    digests = set()
    for number in (1, 2):
        os.utime(context / "f", (2_000_000_000 + number,) * 2)
        store = _store(tmp_path / f"store{number}", tmp_path / f"root{number}", shutil.which("busybox"))
        digests.add(build(store, context, text).image.manifest.digest)
        time.sleep(1.1)  # whatever has a time of its own has another one in the second round
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("command", "message", "tail"),
    [
        ("echo a; echo b >&2; exit 3", "exit code 3", ("a", "b")),
        ("nothing-here", "exit code 127", None),
        ("sh -c 'kill -9 $$'; exit $?", "exit code 137", None),
    ],
)
def test_a_command_that_fails_says_where_how_and_its_last_lines(base, context, command, message, tail):
    names = base.names()
    with pytest.raises(RunFailed) as caught:
        build(base, context, f"WORKDIR /x\nRUN {command}\n")
    assert caught.value.message == f"{context}/Containerfile:3: RUN {command}: {message}"
    assert tail is None or caught.value.tail == tail
    assert base.names() == names


def test_a_program_that_is_not_there(base, context):
    with pytest.raises(BuildError, match=r'RUN \["/no"\]: /no: not in the image'):
        build(base, context, 'RUN ["/no"]\n')


def test_what_a_command_leaves_running_ends_with_it(base, context):
    build(base, context, "RUN sleep 987 & echo started\n")
    assert "987" not in _processes()


SCRIPT = """
import sys
from pathlib import Path
from harness.images import containerfile
from harness.images.build import BuildOptions, build_image_of
from harness.images.build_progress import Lines
from harness.images.store import Store
file = containerfile.parse("FROM base\\nRUN echo ready; sleep 986\\n", "F")
build_image_of(file, Path(sys.argv[2]), Store(Path(sys.argv[1])), BuildOptions(("made",), progress=Lines(print_)))
""".replace("print_", "lambda line: print(line, flush=True)")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_ended_leaves_nothing(base, context, number):
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, base.path, context], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with child:
        while "] ready" not in child.stdout.readline():
            pass
        child.send_signal(number)
    deadline_s = time.monotonic() + 5
    while "986" in _processes() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert "986" not in _processes()
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(base.path) in line]
    scratch = list((base.path / "tmp").iterdir())
    assert bool(scratch) is (number == signal.SIGKILL)
    for path in scratch:  # as `harness image gc` does
        shutil.rmtree(path)


def _processes():
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.update(path.read_bytes().decode(errors="replace").split("\0"))
        except OSError:
            continue
    return found


FULL = """
set -e
mount -t tmpfs -o size=5m tmpfs "$1"
exec "$2" -c "$3" "$1/store" "$4"
"""
FULL_BUILD = """
import sys
from pathlib import Path
from harness.errors import HarnessError
from harness.images import containerfile
from harness.images.build import BuildOptions, build_image_of
from harness.images.store import Store
context = Path(sys.argv[2])
store = Store(Path(sys.argv[1]))
def build(text):
    file = containerfile.parse(text, "F")
    return build_image_of(file, context, store, BuildOptions(("made",)))
first = build("FROM scratch\\nCOPY f /\\n")
for text in ("COPY huge /\\n", "COPY big /a\\nCOPY big /b\\n"):
    try:
        build("FROM scratch\\nCOPY f /\\n" + text)
        print("no error")
    except HarnessError as error:
        print(error.message)
assert store.find("made") == first.image, "the name moved"
assert not list((store.path / "tmp").iterdir()), "something was left"
assert build("FROM scratch\\nCOPY f /\\n").image == first.image
print("intact")
"""


def test_a_full_disk_is_told_and_the_store_stays_sound(context, tmp_path):
    for name, size_bytes in (("big", 3 << 20), ("huge", 6 << 20)):
        (context / name).write_bytes(os.urandom(size_bytes))
    (tmp_path / "small").mkdir()
    argv = ["unshare", "-m", "sh", "-c", FULL, "sh", tmp_path / "small", sys.executable, FULL_BUILD, context]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-1] == "intact"
    assert all("No space left on device" in line and line.startswith("F:") for line in lines[1:-1])
