"""A registry of one's own on loopback: Debian's docker-registry with a password and a certificate."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.images.skopeo import Access

USER, PASSWORD = "lab", "s3cret word"
_START_TIMEOUT_S = 20
_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {place}/data}}}}
auth: {{htpasswd: {{realm: test, path: {place}/htpasswd}}}}
http:
  addr: 127.0.0.1:{port}
  secret: test
  tls: {{certificate: {place}/server.crt, key: {place}/server.key}}
"""


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry: `host` is its name with the port, `certificates` holds its authority's ca.crt."""

    host: str
    place: Path
    certificates: Path

    @property
    def access(self) -> Access:
        """How it is reached with the right password."""
        return Access(credentials=f"{USER}:{PASSWORD}", cert_dir=self.certificates)

    def blob(self, digest: str) -> Path:
        """Where it keeps the bytes of a blob."""
        name = digest.removeprefix("sha256:")
        return self.place / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


@contextlib.contextmanager
def registry(place: Path) -> Iterator[Registry]:
    """Run a registry until the block ends; all that it writes lies in the directory `place`."""
    _certify(place)
    hashed = subprocess.run(["htpasswd", "-niB", USER], input=PASSWORD.encode(), capture_output=True, check=True)
    (place / "htpasswd").write_bytes(hashed.stdout)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (place / "config.yml").write_text(_CONFIG.format(place=place, port=port))
    with (place / "log").open("wb") as log:
        daemon = subprocess.Popen(["docker-registry", "serve", place / "config.yml"], stdout=log, stderr=log)
    try:
        _wait(port, daemon, place / "log")
        yield Registry(f"127.0.0.1:{port}", place, place / "certificates")
    finally:
        daemon.kill()
        daemon.wait()


def _certify(place: Path) -> None:
    """Make an authority and a certificate of it for 127.0.0.1."""
    (place / "certificates").mkdir()
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority = [*key, "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "certificates/ca.crt"]
    subprocess.run(authority, check=True, capture_output=True, cwd=place)
    signer = ["-CA", "certificates/ca.crt", "-CAkey", "ca.key"]
    server = [*key, "-subj", "/CN=127.0.0.1", *names, *signer, "-keyout", "server.key", "-out", "server.crt"]
    subprocess.run(server, check=True, capture_output=True, cwd=place)


def _wait(port: int, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if daemon.poll() is not None or time.monotonic() > deadline_s:
                raise AssertionError(f"the registry did not start: {log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
