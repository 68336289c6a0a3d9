"""Base images made from the distribution's own packages: nothing is installed on the host, no registry is needed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import ImageError
from harness.host.process import run
from harness.images import oci
from harness.images.oci import Image, Layer
from harness.images.pack import LayerWriter
from harness.images.store import BlobWriter, Store

_PACKAGE = "busybox-static"
_TIMEOUT_NS = 300 * 10**9
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"


def bootstrap_busybox(store: Store, cache: Path, *, name: str = "busybox:latest", refresh: bool = False) -> Image:
    """Make the base image `busybox` from Debian's package busybox-static and name it.

    The package is downloaded once into `cache` (a directory); `refresh` asks the distribution for its newest again.
    The same package always gives the same image.

    Raises: CapabilityError without apt; CommandError when the package cannot be had.
    """
    package = _package(cache / "packages", refresh=refresh)
    version = run(["dpkg-deb", "-f", str(package), "Version"]).stdout.decode().strip()
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        run(["dpkg-deb", "-x", str(package), directory], timeout_ns=_TIMEOUT_NS)
        program = _program(Path(directory), package)
        applets = run([str(program), "--list"]).stdout.decode().split()
        with store.adding():
            made_s = int(program.stat().st_mtime)  # the package's own time: the same for every build of the image
            layer = _layer(store, program.read_bytes(), applets, made_s)
            return store.add_image(_document(layer, version, made_s), [layer], name)


def _package(directory: Path, *, refresh: bool) -> Path:
    """Return the newest downloaded package file, downloading it where there is none."""
    directory.mkdir(parents=True, exist_ok=True)
    found = sorted(directory.glob(f"{_PACKAGE}_*.deb"), key=lambda path: path.stat().st_mtime_ns)
    if found and not refresh:
        return found[-1]
    with tempfile.TemporaryDirectory(dir=directory) as fresh:
        run(["apt-get", "download", _PACKAGE], cwd=Path(fresh), timeout_ns=_TIMEOUT_NS)
        (package,) = Path(fresh).glob("*.deb")
        package.touch()
        return package.rename(directory / package.name)


def _program(root: Path, package: Path) -> Path:
    for path in (root / "bin" / "busybox", root / "usr" / "bin" / "busybox"):  # Debian 12; later ones merged /usr
        if path.is_file():
            return path
    raise ImageError(f"package: {package.name}: holds no bin/busybox")


def _layer(store: Store, program: bytes, applets: Sequence[str], made_s: int) -> Layer:
    def write(out: BlobWriter) -> None:
        with LayerWriter(out, made_s) as writer:
            writer.directory(b"bin")
            writer.file(b"bin/busybox", program, 0o755)
            for applet in sorted(set(applets) - {"busybox"}):
                writer.link(b"bin/" + applet.encode(), b"busybox")
            for path in (b"dev", b"etc", b"proc", b"run", b"sys"):
                writer.directory(path)
            writer.file(b"etc/group", _GROUP)
            writer.file(b"etc/passwd", _PASSWD)
            writer.directory(b"root", 0o700)
            writer.directory(b"tmp", 0o1777)

    blob = store.add_blob(oci.LAYER, write)
    return Layer(blob, blob.digest)


def _document(layer: Layer, version: str, made_s: int) -> oci.Document:
    created = datetime.fromtimestamp(made_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "created": created,
        "architecture": oci.host_architecture(),
        "os": "linux",
        "config": {
            "Env": [f"PATH={_PATH}"],
            "Cmd": ["/bin/sh"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "busybox",
                "org.opencontainers.image.version": version,
                "harness.package": f"{_PACKAGE}={version}",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": created, "created_by": f"harness image bootstrap busybox ({_PACKAGE} {version})"}],
    }
