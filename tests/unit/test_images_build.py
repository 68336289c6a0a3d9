import os
import stat
import tarfile

import pytest

from harness.errors import BuildError, ImageError
from harness.images.build import build_image
from harness.images.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _the_same_times_everywhere(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")


@pytest.fixture
def context(tmp_path):
    path = tmp_path / "context"
    (path / "app" / "sub").mkdir(parents=True)
    (path / "app" / "main").write_text("main")
    (path / "app" / "main").chmod(0o755)
    (path / "app" / "sub" / "data").write_text("data")
    (path / "app" / "link").symlink_to("/etc/passwd")
    (path / "conf").write_text("conf")
    (path / "conf").chmod(0o640)
    for directory in (path / "app", path / "app" / "sub"):
        directory.chmod(0o755)
    return path


def build(store, context, text, name="it", **arguments):
    file = context.parent / "Containerfile"
    file.write_text(text)
    return build_image(file, context, store, name=name, arguments=arguments)


def listing(store, layer):
    with tarfile.open(store.blob_path(layer.blob.digest)) as tar:
        return [(m.name, oct(m.mode), m.uid, m.gid, m.mtime, m.linkname) for m in tar]


def names(store, layer):
    return [row[0] for row in listing(store, layer)]


def test_copy_gives_one_deterministic_layer(store, context):
    image = build(store, context, "FROM scratch\nCOPY app /opt/app\n")
    assert listing(store, image.layers[0]) == [
        ("opt", "0o755", 0, 0, 0, ""),
        ("opt/app", "0o755", 0, 0, 0, ""),
        ("opt/app/link", "0o777", 0, 0, 0, "/etc/passwd"),
        ("opt/app/main", "0o755", 0, 0, 0, ""),
        ("opt/app/sub", "0o755", 0, 0, 0, ""),
        ("opt/app/sub/data", "0o644", 0, 0, 0, ""),
    ]


def test_the_same_context_twice_stores_nothing_new(store, context):
    first = build(store, context, "FROM scratch\nCOPY . /\nENV A=1\n")
    blobs = sorted((store.path / "blobs" / "sha256").iterdir())
    os.utime(context / "conf", (5, 5))
    assert build(store, context, "FROM scratch\nCOPY . /\nENV A=1\n") == first
    assert sorted((store.path / "blobs" / "sha256").iterdir()) == blobs


def test_source_date_epoch_is_the_time_of_everything(store, context, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    image = build(store, context, "FROM scratch\nCOPY conf /\n")
    assert listing(store, image.layers[0])[0][4] == 86400
    assert image.document["created"] == "1970-01-02T00:00:00Z"


def test_each_instruction_that_changes_files_is_one_layer(store, context):
    base = build(store, context, "FROM scratch\nCOPY conf /etc/\n", name="base")
    image = build(store, context, "FROM base\nWORKDIR /srv\nCOPY conf .\nWORKDIR /srv\nENV A=1\n")
    assert image.layers[0] == base.layers[0]
    assert [names(store, layer) for layer in image.layers[1:]] == [["srv"], ["srv/conf"]]
    steps = [(step["created_by"], step.get("empty_layer", False)) for step in image.document["history"]]
    assert steps == [
        ("COPY conf /etc/", False), ("WORKDIR /srv", False), ("COPY conf .", False), ("WORKDIR /srv", True),
        ("ENV A=1", True),
    ]  # fmt: skip


def test_owner_and_mode(store, context):
    image = build(store, context, "FROM scratch\nCOPY --chown=7:8 --chmod=0600 conf /d/conf\nCOPY --chown=9 conf /\n")
    assert listing(store, image.layers[0]) == [("d", "0o755", 7, 8, 0, ""), ("d/conf", "0o600", 7, 8, 0, "")]
    assert listing(store, image.layers[1]) == [("conf", "0o640", 9, 9, 0, "")]


def test_targets(store, context):
    text = "FROM scratch\nCOPY conf /a\nCOPY conf /b/\nCOPY conf app/main /c/\nCOPY app/m* /d/\nCOPY conf /c\n"
    image = build(store, context, text)
    assert [names(store, layer) for layer in image.layers] == [
        ["a"], ["b", "b/conf"], ["c", "c/conf", "c/main"], ["d", "d/main"], ["c/conf"],
    ]  # fmt: skip


def test_a_target_goes_where_the_images_links_lead_and_never_out(store, context):
    (context / "links").mkdir()
    (context / "links" / "lib").symlink_to("usr/lib")
    (context / "links" / "out").symlink_to("../../../../../../tmp")
    text = "FROM scratch\nCOPY links /\nCOPY conf /lib/conf\nCOPY conf /out/\n"
    image = build(store, context, text)
    assert [names(store, layer) for layer in image.layers[1:]] == [
        ["usr", "usr/lib", "usr/lib/conf"],
        ["tmp", "tmp/conf"],
    ]


def test_configuration(store, context):
    text = """FROM scratch
ARG VERSION=1
ENV APP=/app PATH=$APP/bin:/bin
ENV PATH=${APP}/bin:$PATH
WORKDIR $APP
WORKDIR sub
USER 1000:${GID:-1000}
LABEL version=$VERSION "a b"='c d'
EXPOSE 80 53/udp 9000-9001
VOLUME /data "/more"
VOLUME ["/json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/main"]
CMD echo $HOME
"""
    image = build(store, context, text, VERSION="2")
    # Within one ENV a name still has its old value: $APP is empty in the first line.
    assert image.config.env == {"APP": "/app", "PATH": "/app/bin:/bin:/bin"}
    assert image.config.workdir == "/app/sub"
    assert image.config.user == "1000:1000"
    assert image.config.labels == {"version": "2", "a b": "c d"}
    assert image.config.exposed_ports == ("53/udp", "80/tcp", "9000/tcp", "9001/tcp")
    assert image.document["config"]["Volumes"] == {"/data": {}, "/more": {}, "/json": {}}
    assert image.config.entrypoint == ("/app/main",)
    assert image.config.cmd == ("/bin/sh", "-c", "echo $HOME")


def test_an_entrypoint_drops_the_bases_cmd_and_the_base_stays_as_it_was(store, context):
    base = build(store, context, 'FROM scratch\nENV A=1\nCMD ["a"]\n', name="base")
    image = build(store, context, 'FROM base\nENTRYPOINT ["b"]\nENV A=2\n')
    assert (image.config.entrypoint, image.config.cmd, image.config.env) == (("b",), (), {"A": "2"})
    assert store.find("base") == base


def test_arg_before_from(store, context):
    build(store, context, "FROM scratch\nENV A=1\n", name="base:7")
    image = build(store, context, "ARG TAG=0\nFROM base:$TAG\nARG TAG\nARG TARGETOS\nLABEL t=$TAG-$TARGETOS\n", TAG="7")
    assert image.config.labels == {"t": "7-linux"}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("COPY nothing /x", "2: COPY: nothing: no such file in the context", None),
        ("COPY con /x", "2: COPY: con: no such file in the context", "did you mean 'conf'?"),
        ("COPY ../Containerfile /x", "2: COPY: ../Containerfile: leads out of the context", "choose a context"),
        ("COPY conf", "2: COPY: conf: expected SOURCE... TARGET", None),
        ("COPY conf app /x", "2: COPY: /x: several sources need a directory", "write the target as /x/"),
        ("COPY conf /f\nCOPY app /f", "3: COPY: /f: is a file in the image", None),
        ("COPY conf /f\nCOPY conf /f/", "3: COPY: /f/: is a file in the image", None),
        ("COPY --chown=bob conf /", "2: COPY: user: bob: not in /etc/passwd of the image", "a number needs no entry"),
        ("COPY --chmod=rw conf /", "2: COPY: --chmod=rw: expected an octal mode", "--chmod=755"),
        ("COPY --parents conf /", "2: COPY: --parents: unknown or not supported", "supported: --chmod, --chown"),
        ("COPY --chown conf /", "2: COPY: --chown: expected --chown=VALUE", None),
        ("COPY <<EOF /x\na", "2: COPY: <<EOF: no line that says EOF", None),
        ("ADD https://x/y /", "2: ADD: https://x/y: not supported: a URL", "download it beforehand"),
        ("ENV A=1\nRUN --security=insecure make", "3: RUN: --security=insecure: unknown or not", "--network"),
        ("RUN --mount=type=secret,id=x make", "2: RUN: --mount=type=secret: not supported", "type=cache"),
        ("RUN --mount=type=tmpfs make", "2: RUN: --mount=type=tmpfs: expected target=PATH", None),
        ("RUN []", "2: RUN: []: expected a command", None),
        ("EXPOSE x", "2: EXPOSE: x: expected PORT", None),
        ("EXPOSE 70000", "2: EXPOSE: 70000: expected PORT", None),
        ("STOPSIGNAL SIGX", "2: STOPSIGNAL: SIGX: no signal", None),
        ("ENV A='1", "2: ENV: a ' that is never closed", None),
        ("HEALTHCHECK make", "2: HEALTHCHECK: make: expected NONE or CMD COMMAND", None),
        ("HEALTHCHECK --interval=3 CMD a", "2: HEALTHCHECK: 3: expected a duration", None),
        ("ONBUILD FROM a", "2: ONBUILD: FROM: cannot be put off", None),
        ("USER --x 1", "2: USER: --x: unknown option", None),
        ("ENV A=${B:-${C", "2: ENV: ${C: expected", None),
    ],
)
def test_errors_have_file_line_and_hint(store, context, text, message, hint):
    (context / "a.tar.gz").touch()
    with pytest.raises(BuildError) as caught:
        build(store, context, f"FROM scratch\n{text}\n")
    assert caught.value.message.startswith(f"{context.parent}/Containerfile:{message}")
    assert hint is None or hint in (caught.value.hint or "")
    assert store.names() == {}


def test_a_missing_base_says_where_and_what_helps(store, context):
    with pytest.raises(ImageError, match=r"Containerfile:1: FROM: image: busybox:latest: not in the store") as caught:
        build(store, context, "FROM busybox\n")
    assert caught.value.hint == "make it: harness image bootstrap busybox"


def test_a_build_argument_that_nobody_asks_for_is_refused(store, context):
    with pytest.raises(BuildError, match="build argument: VERSON: no ARG asks for it") as caught:
        build(store, context, "FROM scratch\nARG VERSION\n", VERSON="1")
    assert caught.value.hint == "did you mean 'VERSION'?"


def test_sockets_and_pipes_are_refused(store, context):
    os.mkfifo(context / "pipe")
    with pytest.raises(BuildError, match="pipe: neither file, directory nor link"):
        build(store, context, "FROM scratch\nCOPY . /\n")


def test_odd_names_and_modes_survive(store, context):
    (context / os.fsdecode(b"\xff x\n")).write_text("odd")
    (context / os.fsdecode(b"\xff x\n")).chmod(0o4711)
    image = build(store, context, "FROM scratch\nCOPY . /\n")
    with tarfile.open(store.blob_path(image.layers[0].blob.digest), errors="surrogateescape") as tar:
        member = tar.getmember(os.fsdecode(b"\xff x\n"))
    assert stat.S_IMODE(member.mode) == 0o4711
