"""Podman and Docker use an OCI runtime as they would any other: run, exec, stop and rm through their own command lines.

Each engine runs in a sandbox with mounts, pids and cgroups of its own, so that nothing of it stays on the host.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.run import find_runtime, run_sandboxed

ROOT = Path(__file__).parents[2]
RUNTIMES = ["runc", "crun", str(ROOT / ".venv" / "bin" / "harness-oci")]
APPLETS = "cat echo env false id ls sh sleep true".split()
pytestmark = pytest.mark.needs("root", "overlayfs")

# What the engines would keep on the host, whatever their options say.
PRIVATE = """
set -eu
for place in /run /dev/shm /var/lib/containers /var/lib/docker; do
    [ ! -d "$place" ] || mount -t tmpfs tmpfs "$place"
done
mkdir /run/lock /run/engine
state=/run/engine
"""

PODMAN = """
podman() {
    command podman --root "$state/root" --runroot "$state/run" --tmpdir "$state/tmp" --storage-driver vfs \
        --volumepath "$state/volumes" --cgroup-manager cgroupfs --events-backend file --runtime "$TESTED" "$@"
}
engine_run() { podman run --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@"; }
podman import -q image.tar tested >/dev/null
engine() { podman "$@"; }
"""

DOCKER = """
export DOCKER_HOST="unix://$state/socket" DOCKER_CONFIG="$state/config"
echo '{}' >$state/daemon.json
dockerd --config-file $state/daemon.json --data-root "$state/data" --exec-root "$state/exec" \
    --pidfile "$state/pid" -H "$DOCKER_HOST" --iptables=false --ip6tables=false --bridge=none \
    --storage-driver vfs --add-runtime "tested=$TESTED" --default-runtime tested >$state/log 2>&1 &
daemon=$!
trap 'code=$?; kill $daemon; wait $daemon || true; [ $code = 0 ] || tail -n 20 $state/log >&2' EXIT
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
engine_run() { docker run --network none "$@"; }
docker import image.tar tested >/dev/null
engine() { docker "$@"; }
"""

LIFE = """
echo "says: $(engine_run --rm tested /bin/echo hello)"
code=0; engine_run --rm tested /bin/sh -c 'exit 7' || code=$?; echo "exit: $code"
echo "piped: $(echo through | engine_run --rm -i tested /bin/cat)"
read_limit='cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes || cat memory.max'
echo "limit: $(engine_run --rm -m 64m tested /bin/sh -c "$read_limit" 2>/dev/null)"
engine_run -d --name one tested /bin/sleep 1000 >/dev/null
echo "status: $(engine inspect --format '{{.State.Status}}' one)"
echo "exec: $(engine exec -e WORD=set one /bin/sh -c 'echo $WORD $(cat /proc/1/comm)')"
code=0; engine exec one /bin/sh -c 'exit 9' || code=$?; echo "exec exit: $code"
code=0; engine exec one /bin/missing >/dev/null 2>&1 || code=$?
case $code in 126 | 127) echo "exec missing: refused" ;; *) echo "exec missing: $code" ;; esac
engine pause one >/dev/null && echo "paused: $(engine inspect --format '{{.State.Status}}' one)"
engine unpause one >/dev/null
engine stop -t 1 one >/dev/null 2>&1
echo "stopped: $(engine inspect --format '{{.State.Status}} {{.State.ExitCode}}' one)"
engine rm one >/dev/null
echo "left: $(engine ps -aq | wc -l)"
"""

WANTED = """
says: hello
exit: 7
piped: through
limit: 67108864
status: running
exec: set sleep
exec exit: 9
exec missing: refused
paused: paused
stopped: exited 137
left: 0
"""


@pytest.fixture
def image(tmp_path):
    """A root tree with nothing but busybox, as the tarball that engines import."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox (busybox-static)")
    binaries = tmp_path / "root" / "bin"
    binaries.mkdir(parents=True)
    shutil.copy(busybox, binaries / "busybox")
    for applet in APPLETS:
        (binaries / applet).symlink_to("busybox")
    subprocess.run(["tar", "-C", tmp_path / "root", "-cf", tmp_path / "image.tar", "."], check=True)
    return tmp_path / "image.tar"


@pytest.fixture(params=RUNTIMES, ids=lambda path: Path(path).name)
def runtime(request):
    found = find_runtime(request.param)
    if found is None:
        pytest.skip(f"no {request.param}")
    return found


ENGINES = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(PODMAN, id="podman", marks=pytest.mark.needs("podman")),
        pytest.param(DOCKER, id="docker", marks=pytest.mark.needs("docker", "dockerd")),
    ],
)


def say(script, runtime, image):
    """Return the lines that a script with an engine says in a sandbox; a failure shows what it complained of."""
    ended = run_sandboxed(runtime, ["sh", "-c", PRIVATE + script], image.parent, {"TESTED": str(runtime.path)})
    assert ended.code == 0, ended.output + ended.complaint
    return [line.strip() for line in ended.output.splitlines() if line.strip()]


@ENGINES
def test_engine_starts_and_ends_containers_with_the_runtime(engine, runtime, image):
    assert say(engine + LIFE, runtime, image) == WANTED.strip().splitlines()


@ENGINES
def test_engine_gets_a_root_that_is_read_only(engine, runtime, image):
    attempt = "engine_run --rm --read-only tested /bin/sh -c 'echo x > /file || echo read-only'"
    assert say(f"{engine}\n{attempt}", runtime, image) == ["read-only"]
