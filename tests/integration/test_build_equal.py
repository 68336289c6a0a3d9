"""Docker and Podman make the same trees and configurations of a Containerfile as the product does.

Each engine runs in a sandbox with mounts, pids and cgroups of its own; its images come back by `save`.
"""

import os
import shutil
import stat
import struct
import subprocess
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest

from harness.images.build import build_image
from harness.images.interchange import import_image
from harness.images.pack import pack_tree
from harness.images.roots import open_tree
from harness.images.store import Store
from harness.images.tree import walk
from tests.conformance.run import find_runtime, run_sandboxed

pytestmark = pytest.mark.needs("root", "overlayfs")

APPLETS = "cat chmod chown cp echo id ln ls mkdir mv rm rmdir sh sleep test touch".split()
DAY_S = 86_400
# struct vfs_cap_data, revision 2: cap_net_bind_service, permitted and effective (include/uapi/linux/capability.h).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

FILES = r"""
FROM base AS first
ARG WHERE=/made
ENV GREETING="hello world" EMPTY=
WORKDIR /work/inner
RUN echo "$GREETING from $WHERE" > out && touch -d "2001-02-03 00:00:00" out && chmod 4755 out
RUN ["/bin/mkdir", "-p", "/made/deep", "/kept"]
RUN touch -d "2001-02-03 00:00:00" /made/a /made/deep/b /kept/c && ln /made/a /made/hard && ln -s ../made/a /kept/soft \
    && touch -h -d "2001-02-03 00:00:00" /kept/soft

FROM first AS second
RUN rm -r /made/deep /kept/c /etc/gone
RUN mv /bin/capable /bin/moved && mkdir /opt && cp -p /bin/moved /opt/capable
RUN rm -r /opaque && mkdir /opaque && touch -d "2001-02-03 00:00:00" /opaque/new
USER 7:8
RUN id -u > /tmp/id && id -g >> /tmp/id && touch -d "2001-02-03 00:00:00" /tmp/id

FROM base
COPY app /srv/app
COPY --chown=7:8 conf app/*.txt /srv/conf/
COPY --chown=bob:staff conf /srv/bob
COPY --chmod=600 conf /srv/secret
COPY link dangling /srv/links/
COPY --from=first /work/inner/out /kept /from/
COPY --from=second /tmp/id /tmp/
COPY --from=second /opaque /opaque-copy
COPY --from=second /opt/capable /bin/moved /bin/
ADD tree.tar.gz /unpacked/
ADD tree.tar /
ADD plain.txt /unpacked/plain
WORKDIR relative
COPY conf .
ENV PATH=/bin:/x VERSION=1
LABEL a=1 "b c"="d e"
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
USER bob
HEALTHCHECK --interval=30s --retries=2 CMD test -e /data
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["id"]
"""

# What an engine does in its own way. Podman takes set-id bits off what COPY takes from the context; Docker does not.
OWN_WAY = {
    "docker": {},
    "podman": {f"srv/app/{name}": {"mode": ("0o100755", "0o106755")} for name in ("main", "other")},
}

ENGINES = {
    "docker": """
# The distribution's own client: it has BuildKit inside, a newer one needs a plugin for it.
export DOCKER_HOST="unix://$state/socket" DOCKER_CONFIG="$state/config" DOCKER_BUILDKIT=1 PATH="/usr/bin:$PATH"
echo '{}' >$state/daemon.json
dockerd --config-file $state/daemon.json --data-root "$state/data" --exec-root "$state/exec" \
    --pidfile "$state/pid" -H "$DOCKER_HOST" --iptables=false --ip6tables=false --bridge=none \
    --storage-driver overlay2 >$state/log 2>&1 &
daemon=$!
trap 'code=$?; kill $daemon; wait $daemon || true; [ $code = 0 ] || tail -n 20 $state/log >&2' EXIT
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker import base.tar base >/dev/null
docker build --network none -q -t made context >/dev/null
docker save -o saved.tar made
""",
    "podman": """
podman() {
    command podman --root "$state/root" --runroot "$state/run" --tmpdir "$state/tmp" --storage-driver vfs \
        --cgroup-manager cgroupfs --events-backend file --runtime runc "$@"
}
podman import -q base.tar base >/dev/null
podman build --layers=false --isolation chroot --format docker -q -t made context >/dev/null
podman save --format docker-archive -o saved.tar localhost/made
""",
}

PRIVATE = """
set -eu
for place in /run /dev/shm /var/lib/containers /var/lib/docker; do
    [ ! -d "$place" ] || mount -t tmpfs tmpfs "$place"
done
mkdir /run/lock /run/engine
state=/run/engine
mount -t tmpfs tmpfs "$state"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The product's own image, with what it was made from beside it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox (busybox-static)")
    place = tmp_path_factory.mktemp("equal")
    store = Store(place / "store")
    _base(store, place, busybox)
    _context(place / "context")
    before_s = int(time.time())
    lines = []
    image = build_image(place / "context" / "Containerfile", place / "context", store, name="made", log=lines.append)
    return place, open_tree(store, image).path, image, before_s


def _base(store, place, busybox):
    root = place / "root"
    for directory in ("bin", "etc", "tmp", "opaque/old"):
        (root / directory).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "tmp").chmod(0o1777)
    (root / "bin" / "capable").write_text("not a program")
    os.setxattr(root / "bin" / "capable", "security.capability", CAPABILITY)
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nstaff:x:50:bob\nbob:x:1001:\n")
    (root / "etc" / "gone").write_text("gone")
    (root / "opaque" / "old" / "file").write_text("old")
    layer = pack_tree(store, root)
    shutil.copy(store.blob_path(layer.blob.digest), place / "base.tar")
    config = {"Env": ["PATH=/bin"]}
    document = {"architecture": "amd64", "os": "linux", "config": config,
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}  # fmt: skip
    store.add_image(document, [layer], "base")


def _context(context):
    (context / "app" / "sub").mkdir(parents=True)
    for number, name in enumerate(("app/main", "app/a.txt", "app/b.txt", "app/sub/deep", "conf", "plain.txt", "left")):
        (context / name).write_text(name)
        os.utime(context / name, (DAY_S * number, DAY_S * number))
    (context / "app" / "main").chmod(0o6755)
    (context / "app" / "link").symlink_to("main")
    os.link(context / "app" / "main", context / "app" / "other")
    (context / "app" / "sub").chmod(0o700)
    (context / "link").symlink_to("conf")
    (context / "dangling").mkdir()
    (context / "dangling" / "to").symlink_to("/no/where")
    for directory in ("app/sub", "app", "dangling"):
        os.utime(context / directory, (DAY_S, DAY_S))
    _archive(context / "tree.tar", "w")
    _archive(context / "tree.tar.gz", "w:gz")
    (context / ".dockerignore").write_text("left\n")
    (context / "Containerfile").write_text(FILES)
    (context / "Dockerfile").write_text(FILES)


def _archive(path, mode):
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        for name, kind, link, bits in [
            ("tree/", tarfile.DIRTYPE, "", 0o750), ("tree/file", tarfile.REGTYPE, "", 0o4711),
            ("tree/hard", tarfile.LNKTYPE, "tree/file", 0o4711), ("tree/soft", tarfile.SYMTYPE, "file", 0o777),
            ("tree/pipe", tarfile.FIFOTYPE, "", 0o600),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode, info.uid, info.gid, info.mtime = kind, link, bits, 3, 4, 3 * DAY_S
            content = b"in the archive" if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, BytesIO(content))


def _engines():
    return [pytest.param(name, marks=pytest.mark.needs(*needs)) for name, needs in
            (("docker", ("docker", "dockerd")), ("podman", ("podman",)))]  # fmt: skip


@pytest.mark.parametrize("engine", _engines())
def test_an_engine_makes_the_same_tree_and_configuration(engine, made, tmp_path):
    place, ours, image, before_s = made
    runtime = find_runtime("runc")
    if runtime is None:
        pytest.skip("no runc")
    (place / "saved.tar").unlink(missing_ok=True)
    ended = run_sandboxed(runtime, ["sh", "-c", PRIVATE + ENGINES[engine]], place, {})
    assert ended.code == 0, ended.output + ended.complaint
    store = Store(tmp_path / "store")
    (other,) = import_image(place / "saved.tar", store, name="theirs").values()
    theirs = open_tree(store, other).path
    differences = _differences(rows(theirs, before_s), rows(ours, before_s))
    assert differences == OWN_WAY[engine], f"(theirs, ours): {differences}"
    wanted = settings(image)
    configured = {key: (value, wanted[key]) for key, value in settings(other).items() if value != wanted[key]}
    assert configured == {}, f"(theirs, ours): {configured}"


def _differences(theirs, ours):
    """Return what differs. A time that the build decided counts only where both did not decide it."""
    found = {}
    for path in {*theirs, *ours}:
        one, other = theirs.get(path), ours.get(path)
        if one and other and None in {one["mtime"], other["mtime"]}:
            one, other = one | {"mtime": None}, other | {"mtime": None}
        if one is None or other is None:
            found[path] = "theirs alone" if other is None else "ours alone"
        elif one != other:
            found[path] = {key: (one[key], other[key]) for key in one if one[key] != other[key]}
    return found


def rows(root, before_s):
    """Return what of each entry must be equal; the time is None where it is that of the build."""
    inodes, found = {}, {}
    for entry in walk(root):
        path, status = root / os.fsdecode(entry.path), entry.status
        kind = stat.S_IFMT(status.st_mode)
        content = path.read_bytes() if kind == stat.S_IFREG else None
        content = path.readlink() if kind == stat.S_IFLNK else content
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in
                      os.listxattr(path, follow_symlinks=False)}  # fmt: skip
        found[os.fsdecode(entry.path)] = {
            "mode": oct(status.st_mode), "owner": (status.st_uid, status.st_gid), "content": content,
            "mtime": int(status.st_mtime) if status.st_mtime < before_s else None, "attributes": attributes,
            "same as": inodes.setdefault(status.st_ino, entry.path) if kind == stat.S_IFREG else None,
        }  # fmt: skip
    return found


def settings(image):
    config = dict(image.document["config"])
    own = ("io.buildah.",)  # Podman tells its version there
    config["Labels"] = {key: value for key, value in config["Labels"].items() if not key.startswith(own)}
    return {key: config.get(key) or None for key in
            ("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "Labels", "ExposedPorts", "Volumes", "StopSignal",
             "Healthcheck")}  # fmt: skip


def test_the_engines_are_really_asked(made):
    """Or all of the above could be skipped, or compare nothing."""
    _, ours, _, before_s = made
    found = rows(ours, before_s)
    assert (found["srv/app/main"]["mode"], found["srv/app/main"]["owner"]) == ("0o106755", (0, 0))
    assert found["srv/bob"]["owner"] == (1000, 50)
    assert found["bin/moved"]["attributes"] == {"security.capability": CAPABILITY}
    assert (found["from/out"]["mtime"], found["from/out"]["mode"]) == (981_158_400, "0o104755")
    assert subprocess.run([ours / "bin" / "busybox", "true"], check=False).returncode == 0
    assert Path(ours / "unpacked" / "tree" / "hard").stat().st_nlink == 2
