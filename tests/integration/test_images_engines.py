"""Images of this store in Docker and Podman, and back; and that skopeo and umoci read what we write, and our store too.

The engines run in a sandbox of their own: see test_engines.py.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from harness.host.paths import cache_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.build import build_image
from harness.images.interchange import export_image, import_image
from harness.images.repack import parse_compression
from harness.images.roots import open_tree
from harness.images.store import Store
from tests.conformance.run import find_runtime, run_sandboxed
from tests.integration.test_engines import PRIVATE

pytestmark = pytest.mark.needs("root", "overlayfs")
ROOT = Path(__file__).parents[2]

PODMAN = """
engine() {
    command podman --root "$state/root" --runroot "$state/run" --tmpdir "$state/tmp" --storage-driver vfs \
        --volumepath "$state/volumes" --cgroup-manager cgroupfs --events-backend file --runtime runc "$@"
}
engine_run() { engine run --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@"; }
loaded=$(echo *.tar)
saved="oci-archive docker-archive"
save() { engine save --format "$1" -o "$2" "$3"; }
"""

DOCKER = """
export DOCKER_HOST="unix://$state/socket" DOCKER_CONFIG="$state/config"
echo '{}' >$state/daemon.json
dockerd --config-file $state/daemon.json --data-root "$state/data" --exec-root "$state/exec" \
    --pidfile "$state/pid" -H "$DOCKER_HOST" --iptables=false --ip6tables=false --bridge=none \
    --storage-driver vfs >$state/log 2>&1 &
daemon=$!
trap 'code=$?; kill $daemon; wait $daemon || true; [ $code = 0 ] || tail -n 20 $state/log >&2' EXIT
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
engine() { docker "$@"; }
engine_run() { docker run --network none "$@"; }
loaded=$(ls *.tar | grep -v zstd) # dockerd 20.10 reads no zstd
saved=docker
save() { docker save -o "$2" "$3"; }
"""

# What is loaded runs; what is committed there and saved comes back.
JOURNEY = """
for file in $loaded; do
    engine load -i $file >/dev/null
    echo "$file: $(engine_run --rm lab/web:1)"
    engine image rm -f lab/web:1 >/dev/null
done
engine load -i oci-archive-gzip.tar >/dev/null
change='rm /gone; echo theirs >/data/mine; ln -s mine /data/link; chmod 600 /data/mine'
engine_run --name changed lab/web:1 sh -c "$change"
engine commit changed lab/theirs:1 >/dev/null 2>&1
engine rm changed >/dev/null
for form in $saved; do save $form "$OUT/$form.tar" lab/theirs:1 >/dev/null 2>&1; done
"""

FORMS = [("oci-archive", "none"), ("oci-archive", "gzip"), ("oci-archive", "zstd"), ("docker-archive", "none"),
         ("docker-archive", "gzip")]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with `lab/web:1`: busybox and two layers of ours, with what a configuration can say."""
    place = tmp_path_factory.mktemp("images")
    store = Store(place / "home" / "data" / "images")
    bootstrap_busybox(store, cache_dir())
    (place / "hello").write_text("hello from the image\n")
    (place / "Containerfile").write_text(
        "FROM busybox\nCOPY hello /data/hello\nCOPY hello /gone\n"
        'ENV FILE=/data/hello\nWORKDIR /data\nLABEL lab=web\nCMD ["sh", "-c", "cat $FILE"]\n'
    )
    build_image(place / "Containerfile", place, store, name="lab/web:1")
    return store


@pytest.fixture(scope="module")
def shipped(store, tmp_path_factory):
    """A directory with the image in every form of archive."""
    place = tmp_path_factory.mktemp("shipped")
    for form, how in FORMS:
        export_image(store, "lab/web:1", place / f"{form}-{how}.tar", form, parse_compression(how))
    return place


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(PODMAN, id="podman", marks=pytest.mark.needs("podman")),
        pytest.param(DOCKER, id="docker", marks=pytest.mark.needs("docker", "dockerd")),
    ],
)
def test_an_image_runs_there_and_comes_back_changed(engine, store, shipped, tmp_path):
    runtime = find_runtime("runc")
    if runtime is None:
        pytest.skip("no runc")
    script = f"{PRIVATE}{engine}{JOURNEY}"
    ended = run_sandboxed(runtime, ["sh", "-c", script], shipped, {"OUT": str(tmp_path)})
    assert ended.code == 0, ended.output + ended.complaint
    loaded = [f"{form}-{how}.tar" for form, how in sorted(FORMS) if how != "zstd" or engine == PODMAN]
    assert ended.output.splitlines() == [f"{name}: hello from the image" for name in loaded]
    for saved in sorted(tmp_path.glob("*.tar")):
        (image,) = import_image(saved, store, name=f"back/{saved.stem}:1").values()
        assert image.document["config"]["Labels"] == {"lab": "web"} | image.document["config"]["Labels"]
        tree = open_tree(store, image).path
        assert sorted(path.name for path in (tree / "data").iterdir()) == ["hello", "link", "mine"]
        assert (tree / "data" / "mine").stat().st_mode & 0o777 == 0o600
        assert not (tree / "gone").exists()
    assert sorted(tmp_path.glob("*.tar")), "nothing was saved"
    argv = [ROOT / ".venv" / "bin" / "harness", "container", "run", "--rm", f"back/{saved.stem}:1", "sh", "-c"]
    run = subprocess.run(
        [*argv, "cat hello mine; pwd; echo $FILE"], capture_output=True, check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HARNESS_HOME": str(store.path.parents[1])},
    )  # fmt: skip
    assert run.stdout.decode() == "hello from the image\ntheirs\n/data\n/data/hello\n", run.stderr.decode()


@pytest.mark.needs("skopeo")
def test_skopeo_reads_our_layouts_and_our_store(store, tmp_path):
    digests = set()
    for how in ("none", "gzip", "zstd"):
        export_image(store, "lab/web:1", tmp_path / how, "oci-dir", parse_compression(how))
        digests |= {inspect(f"oci:{tmp_path / how}:lab/web:1")["Digest"]}
    assert len(digests) == 3
    found = inspect(f"oci:{store.path}:lab/web:1")
    assert found["Digest"] == store.find("lab/web:1").manifest.digest
    assert found["Layers"] == [layer.blob.digest for layer in store.find("lab/web:1").layers]
    assert found["Labels"]["lab"] == "web"


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive", "dir"])
def test_what_skopeo_copies_is_imported(store, tmp_path, form):
    target = f"{form}:{tmp_path / 'out'}" + ("" if form == "dir" else ":lab/web:1")
    subprocess.run(["skopeo", "copy", "-q", f"oci:{store.path}:lab/web:1", target], check=True)
    (image,) = import_image(tmp_path / "out", Store(tmp_path / "other"), name="x").values()
    assert [layer.diff_id for layer in image.layers] == [layer.diff_id for layer in store.find("lab/web:1").layers]
    assert open_tree(Store(tmp_path / "other"), image).digest == open_tree(store, store.find("lab/web:1")).digest


@pytest.mark.needs("umoci")
def test_umoci_unpacks_our_store_and_what_it_repacks_is_imported(store, tmp_path):
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    export_image(store, "lab/web:1", layout, "oci-dir")
    subprocess.run(["umoci", "stat", "--json", "--image", f"{store.path}:lab/web:1"], check=True, capture_output=True)
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:lab/web:1", bundle], check=True, capture_output=True)
    assert (bundle / "rootfs/data/hello").read_text() == "hello from the image\n"
    (bundle / "rootfs/data/new").write_text("new")
    (bundle / "rootfs/gone").unlink()
    subprocess.run(["umoci", "repack", "--image", f"{layout}:two", bundle], check=True, capture_output=True)
    found = import_image(layout, store)
    tree = open_tree(store, found["layout:two"]).path
    assert (tree / "data" / "new").read_text() == "new"
    assert not (tree / "gone").exists()


def inspect(reference):
    said = subprocess.run(["skopeo", "inspect", reference], check=True, capture_output=True)
    return json.loads(said.stdout)
