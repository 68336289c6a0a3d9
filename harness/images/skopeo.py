"""skopeo, which speaks to registries for us: its command line, and what its errors mean.

No secret is ever on a command line, where every user of this machine could read it: credentials go through a file that
only we can read, in memory, or through standard input.
Source: skopeo(1), containers-auth.json(5); the options are those of skopeo 1.9 (Debian 12), which later ones have too.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import CommandError, ImageError, UsageError
from harness.host.process import Completed, run
from harness.images import oci
from harness.images.references import Reference

ASK_TIMEOUT_NS = 120 * 10**9  # for what is a few kilobytes; a registry that does not answer ends sooner


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a registry. What is None is left to skopeo's own configuration.

    That is ${XDG_RUNTIME_DIR}/containers/auth.json, then ~/.docker/config.json; /etc/containers/certs.d and
    /etc/docker/certs.d; and registries.conf, which says whether a registry is asked without TLS.
    """

    authfile: Path | None = None
    credentials: str | None = field(default=None, repr=False)  # USER:PASSWORD
    cert_dir: Path | None = None
    tls_verify: bool | None = None


OPEN_ACCESS = Access()  # nothing of it: all as skopeo is configured


@contextlib.contextmanager
def options(access: Access, registry: str, prefix: str = "") -> Iterator[list[str]]:
    """Yield the options of skopeo for an access; `prefix` is `src-` or `dest-` in a copy. Raises: UsageError."""
    with contextlib.ExitStack() as stack:
        authfile = access.authfile
        if access.credentials is not None:
            place = "/dev/shm" if Path("/dev/shm").is_dir() else None
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=place))  # mode 0700
            authfile = Path(directory) / "auth.json"
            authfile.write_bytes(_auth_document(registry, access.credentials))
        elif authfile is not None and not authfile.is_file():
            raise UsageError(f"authfile: {authfile}: no such file", hint="make it: harness image login --authfile FILE")
        found = [f"--{prefix}authfile={authfile}"] if authfile is not None else []
        found += tls_options(access, prefix)
        yield found


def tls_options(access: Access, prefix: str = "") -> list[str]:
    """Return the options of skopeo that say how far a registry's certificate is trusted."""
    found = [f"--{prefix}cert-dir={access.cert_dir}"] if access.cert_dir is not None else []
    if access.tls_verify is not None:
        found.append(f"--{prefix}tls-verify={'true' if access.tls_verify else 'false'}")
    return found


def _auth_document(registry: str, credentials: str) -> bytes:
    user, colon, _ = credentials.partition(":")
    if not user or not colon:
        raise UsageError("credentials: not of the form USER:PASSWORD")
    token = base64.b64encode(credentials.encode()).decode()
    return json.dumps({"auths": {registry: {"auth": token}}}).encode()


def inspect_raw(reference: Reference, access: Access, *, config: bool = False) -> bytes:
    """Return the bytes of a manifest or index, or of its configuration. Raises: ImageError, CapabilityError."""
    with options(access, reference.registry) as chosen:
        words = ["--config", "--raw"] if config else ["--raw"]
        argv = ["skopeo", "inspect", *words, *chosen, f"docker://{reference}"]
        try:
            return run(argv, timeout_ns=ASK_TIMEOUT_NS).stdout
        except CommandError as error:
            raise explain(error, f"pull: {reference}", reference, access) from error


def list_tags(reference: Reference, access: Access) -> list[str]:
    """Return the tags of a repository; none where it cannot be asked."""
    with options(access, reference.registry) as chosen:
        argv = ["skopeo", "list-tags", *chosen, f"docker://{reference.place}"]
        try:
            answer = oci.parse_json(run(argv, timeout_ns=ASK_TIMEOUT_NS).stdout, "skopeo list-tags")
        except (CommandError, ImageError):
            return []
    tags = answer.get("Tags")
    return [str(tag) for tag in tags] if isinstance(tags, list) else []


def copy(argv: Sequence[str], what: str, reference: Reference, *, cwd: Path) -> Completed:
    """Run `skopeo copy` with these words. Raises: ImageError, CapabilityError."""
    try:
        return run(["skopeo", "copy", "--quiet", "--retry-times=2", *argv], cwd=cwd)
    except CommandError as error:
        raise explain(error, what, reference) from error


# What went wrong

_LOGIN = "harness image login {registry}, or --creds-file FILE"
_CAUSES: tuple[tuple[str, str, str | None], ...] = (
    (r"unauthorized|authentication required|invalid username/password|access to the resource is denied",
     "the registry refuses: not logged in, wrong password, or no right to it", _LOGIN),
    (r"server gave HTTP response to HTTPS client",
     "the registry speaks plain HTTP", "--tls-verify=false, or `insecure = true` for it in registries.conf(5)"),
    (r"x509: .*", "its certificate is not trusted", "--cert-dir with its ca.crt, or --tls-verify=false"),
    (r"connection refused|no such host|i/o timeout|network is unreachable|no route to host|no end after",
     "the registry cannot be reached", "check its name and port, and this machine's network"),
    (r"toomanyrequests|too many requests", "the registry asks to come back later", _LOGIN + ", raises the limit"),
    (r"no space left on device", "the disk is full; the store is as it was", "harness image gc"),
    (r"[Dd]igest did not match|does not match (the )?(expected|desired)|unexpected EOF|digest invalid",
     "damaged: the bytes are not what their digest says", None),
    (r"policy\.json: no such file",
     "skopeo has no signature policy", "apt-get install golang-github-containers-common"),
)  # fmt: skip


def explain(error: CommandError, what: str, reference: Reference, access: Access | None = None) -> ImageError:
    """Return the error that says in our words why skopeo failed; its own words where we do not know it."""
    said = _said(error.stderr_tail)
    if re.search(r"manifest unknown|name unknown|repository name not known|tag .* not found|not found: manifest", said):
        return _missing(what, reference, access)
    for pattern, why, hint in _CAUSES:
        if re.search(pattern, said):
            advice = hint.format(registry=reference.registry) if hint else None
            return ImageError(f"{what}: {why}: {said.rpartition(': ')[2] or said}", hint=advice)
    return ImageError(f"{what}: {said}")


def _said(stderr: str) -> str:
    """Return the last message of a log of logrus: time="..." level=fatal msg="...\\"..."."""
    line = (stderr.strip().splitlines() or ["no message"])[-1]
    found = re.search(r'msg=("(?:[^"\\]|\\.)*")', line)
    return str(json.loads(found[1])) if found else line


def _missing(what: str, reference: Reference, access: Access | None) -> ImageError:
    if reference.digest:
        return ImageError(f"{what}: no image of that digest in {reference.place}")
    tags = list_tags(reference, access) if access is not None else []
    if not tags:
        return ImageError(f"{what}: no such image: {reference.place} is not there, or has no tag {reference.tag}")
    near = difflib.get_close_matches(reference.tag, tags, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"tags there: {', '.join(sorted(tags)[:10])}"
    return ImageError(f"{what}: {reference.place} has no tag '{reference.tag}'", hint=hint)
