"""Images to a real registry and from it, with a password and TLS, by tag and by digest; and all that can go wrong."""

import base64
import dataclasses
import json
import subprocess

import pytest
from click.testing import CliRunner

from harness.cli.image import image as command
from harness.errors import ImageError
from harness.images import oci
from harness.images.build import build_image
from harness.images.registry import login, pull_image, push_image
from harness.images.repack import Compression
from harness.images.resolve import ImageRef, resolve_image
from harness.images.skopeo import Access
from harness.images.store import Store
from tests.integration.registry_kit import PASSWORD, USER, registry

pytestmark = pytest.mark.needs("root", "registry", "skopeo")


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two images, `web` above `base`."""
    place = tmp_path_factory.mktemp("images")
    store = Store(place / "store")
    for name, text in (("base", "FROM scratch\nCOPY a /a\n"), ("web", "FROM base\nCOPY b /b\n")):
        (place / name).write_text(text)
        for file in "ab":
            (place / file).write_text(file * 100_000)
        build_image(place / name, place, store, name=name)
    return store


@pytest.fixture(scope="module")
def pushed(there, store):
    """The digest of `web` in the registry as lab/web:1."""
    push_image(store, "base", f"{there.host}/lab/base:1", access=there.access)
    return push_image(store, "web", f"{there.host}/lab/web:1", access=there.access)


@pytest.fixture
def other(tmp_path):
    return Store(tmp_path / "other")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Passwords and certificates of this machine's user play no part."""
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def ids(image):
    return [layer.diff_id for layer in image.layers]


def test_there_and_back(there, store, other, pushed):
    said = list[str]()
    name, image = pull_image(f"{there.host}/lab/web:1", other, access=there.access, log=said.append)
    assert (name, image.manifest.digest) == (f"{there.host}/lab/web:1", pushed)
    assert ids(image) == ids(store.find("web"))
    assert image.config_blob.digest == store.find("web").config_blob.digest
    assert "layers to fetch: 2" in said[0]
    assert push_image(other, name, f"{there.host}/lab/again:1", access=there.access) == pushed


def test_layers_that_are_here_are_not_fetched(there, other, pushed):
    pull_image(f"{there.host}/lab/base:1", other, access=there.access)
    said = list[str]()
    pull_image(f"{there.host}/lab/web:1", other, name="web", access=there.access, log=said.append)
    assert "layers to fetch: 1" in said[0]
    assert "here already: 1" in said[0]
    assert list(other.names()) == [f"{there.host}/lab/base:1", "web:latest"]


def test_by_digest(there, other, pushed):
    name, image = pull_image(f"{there.host}/lab/web@{pushed}", other, access=there.access)
    assert (name, image.manifest.digest) == (f"{there.host}/lab/web:{pushed.replace(':', '-')}", pushed)


def test_zstd_arrives_as_zstd(there, store, other):
    digest = push_image(store, "web", f"{there.host}/lab/z:1", access=there.access, compression=Compression("zstd"))
    _, image = pull_image(f"{there.host}/lab/z:1", other, access=there.access)
    assert image.manifest.digest == digest
    assert {layer.blob.media_type for layer in image.layers} == {oci.LAYER + "+zstd"}


def test_a_manifest_of_docker_keeps_its_digest(there, store, other, tmp_path, pushed):
    tls = [f"--{side}-cert-dir={there.certificates}" for side in ("src", "dest")]
    (tmp_path / "auth").write_text(auth(there))
    argv = ["skopeo", "copy", f"--authfile={tmp_path}/auth", *tls, "--format=v2s2", f"--digestfile={tmp_path}/digest"]
    argv += [f"docker://{there.host}/lab/web:1", f"docker://{there.host}/lab/docker:1"]
    subprocess.run(argv, check=True, capture_output=True)
    _, image = pull_image(f"{there.host}/lab/docker:1", other, access=there.access)
    assert image.manifest.digest == (tmp_path / "digest").read_text() != pushed
    assert image.manifest.media_type == oci.DOCKER_MANIFEST
    assert ids(image) == ids(store.find("web"))


def test_of_several_platforms_this_machines(there, store, other, tmp_path, pushed):
    alien = {"architecture": "s390x", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    other.add_image(alien, [], "alien:1")
    argv = ["skopeo", "copy", "--preserve-digests", f"--authfile={tmp_path}/auth"]
    argv += [f"--dest-cert-dir={there.certificates}"]
    (tmp_path / "auth").write_text(auth(there))
    entries = [(other.find("alien:1").manifest, "s390x")]
    pulled = pull_image(f"{there.host}/lab/web:1", other, name="mine:1", access=there.access)[1]
    entries.append((pulled.manifest, oci.host_architecture()))
    index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [
        {**manifest.document(), "platform": {"os": "linux", "architecture": machine}} for manifest, machine in entries
    ]}  # fmt: skip
    top = other.add_bytes(oci.INDEX, oci.canonical_json(index))
    (other.path / "index.json").write_bytes(oci.canonical_json(oci.index_document([top])))
    subprocess.run([*argv, "--all", f"oci:{other.path}", f"docker://{there.host}/lab/all:1"], check=True)
    for reference in (f"{there.host}/lab/all:1", f"{there.host}/lab/all@{top.digest}"):
        said = list[str]()
        _, image = pull_image(reference, Store(tmp_path / "third"), access=there.access, log=said.append)
        assert image.manifest.digest == pushed
        assert said[0] == f"taken: linux/{oci.host_architecture()}; also there: linux/s390x"


def test_errors_say_what_to_do(there, other, pushed):
    web, right = f"{there.host}/lab/web:1", there.access
    for text, access, message, hint in (
        (f"{there.host}/lab/web:l", right, "has no tag 'l'", "tags there: 1"),
        (f"{there.host}/lab/wbe:1", right, "no such image", ""),
        (f"{there.host}/lab/web@sha256:{'0' * 64}", right, "no image of that digest", ""),
        (web, dataclasses.replace(right, credentials=f"{USER}:wrong"), "the registry refuses", "harness image login"),
        (web, dataclasses.replace(right, credentials=None), "the registry refuses", "harness image login"),
        (web, dataclasses.replace(right, cert_dir=None), "its certificate is not trusted", "--cert-dir"),
        ("127.0.0.1:1/lab/web:1", right, "cannot be reached: connection refused", "network"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            pull_image(text, other, access=access)
        assert hint in (caught.value.hint or "")
    with pytest.raises(ImageError, match="the registry refuses"):
        login(there.host, USER, "wrong", Access(cert_dir=there.certificates))
    assert other.names() == {}
    assert not any((other.path / "tmp").iterdir())


def test_a_blob_that_was_damaged_in_the_registry_is_refused(there, store, other, tmp_path):
    (tmp_path / "c").write_text("spoilt" * 1000)
    (tmp_path / "Containerfile").write_text("FROM scratch\nCOPY c /c\n")
    build_image(tmp_path / "Containerfile", tmp_path, store, name="spoilt")
    push_image(store, "spoilt", f"{there.host}/lab/spoilt:1", access=there.access)
    _, image = pull_image(f"{there.host}/lab/spoilt:1", store, access=there.access, name="as-sent")
    path = there.blob(image.layers[0].blob.digest)
    data = path.read_bytes()
    for spoilt in (data[:-1] + b"\xff", data[:-1]):
        path.write_bytes(spoilt)
        with pytest.raises(ImageError, match=f"lab/spoilt@{image.manifest.digest}: damaged: "):
            pull_image(f"{there.host}/lab/spoilt:1", other, access=there.access)
    assert other.names() == {}
    assert not any((other.path / "tmp").iterdir())


def auth(there):
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return json.dumps({"auths": {there.host: {"auth": token}}})


def test_a_scenario_pulls_what_is_not_in_the_store_as_docker_is_logged_in(there, other, home, pushed):
    trusted = home / ".config" / "containers" / "certs.d" / there.host
    trusted.mkdir(parents=True)
    (trusted / "ca.crt").write_bytes((there.certificates / "ca.crt").read_bytes())
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(auth(there))
    said = list[str]()
    reference = ImageRef("oci", f"{there.host}/lab/web:1")
    tree = resolve_image(reference, home, other, log=said.append)
    assert tree.reference == f"oci:{there.host}/lab/web:1@{pushed}"
    assert (tree.path / "b").read_text() == "b" * 100_000
    assert resolve_image(reference, home, other, log=said.append).digest == tree.digest
    assert len(said) == 1, "the second time the registry is not asked"


def test_the_commands(there, home, tmp_path, monkeypatch, pushed):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "harness"))
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    trust = ["--cert-dir", str(there.certificates)]
    entered = run.invoke(command, ["login", there.host, "-u", USER, "--password-stdin", *trust], input=PASSWORD + "\n")
    assert (entered.exit_code, entered.stderr) == (0, f"logged in to {there.host} as {USER}\n")
    fetched = run.invoke(command, ["pull", f"{there.host}/lab/web:1", "--name", "web", *trust, "--json"])
    assert json.loads(fetched.stdout)["image"]["digest"] == pushed
    sent = run.invoke(command, ["push", "web", f"{there.host}/lab/copy:1", *trust])
    assert sent.stdout == f"{there.host}/lab/copy:1 {pushed}\n"
    assert run.invoke(command, ["logout", there.host]).exit_code == 0
    refused = run.invoke(command, ["pull", f"{there.host}/lab/web:1", *trust])
    assert "the registry refuses" in str(refused.exception)
    (tmp_path / "creds").write_text(f"{USER}:{PASSWORD}\n")
    assert run.invoke(command, ["pull", f"{there.host}/lab/web:1", *trust, "--creds-file", "creds"]).exit_code == 0
