"""`harness image pull`, `push`, `login` and `logout`: images from registries and to them."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from harness.cli._image import JSON, image_facts, open_store, print_json, tell
from harness.errors import UsageError
from harness.images import registry
from harness.images.repack import parse_compression
from harness.images.skopeo import Access
from harness.model.units import format_bytes

Command = Callable[..., None]
_FILE = click.Path(dir_okay=False, path_type=Path, allow_dash=True)


def _tls(command: Command) -> Command:
    """Give a command the options that say how far a registry is trusted."""
    for option in (
        click.option("--tls-verify", type=bool, metavar="BOOL",
                     help="false: plain HTTP and any certificate will do. Left out, registries.conf(5) decides."),
        click.option("--cert-dir", type=click.Path(exists=True, file_okay=False, path_type=Path),
                     help="A directory with the registry's ca.crt."),
        click.option("--authfile", type=_FILE, help="Where passwords are kept, instead of the user's auth.json."),
    ):  # fmt: skip
        command = option(command)
    return command


def _access(command: Command) -> Command:
    """Give a command all options of an access to a registry; it gets them as `access`."""

    @functools.wraps(command)
    def wrapper(
        *, authfile: Path | None, cert_dir: Path | None, tls_verify: bool | None, creds_file: Path | None, **rest: Any
    ) -> None:
        credentials = None if creds_file is None else _secret(creds_file)
        command(access=Access(authfile, credentials, cert_dir, tls_verify), **rest)

    option = click.option("--creds-file", type=_FILE, help="A file that holds USER:PASSWORD; - is standard input.")
    return option(_tls(wrapper))


def _secret(path: Path) -> str:
    try:
        text = sys.stdin.readline() if path == Path("-") else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--creds-file: {path}: cannot be read: {error}") from error
    return text.strip("\r\n")


@click.command(short_help="Fetch an image from a registry.")
@click.argument("reference", metavar="[REGISTRY/]NAME[:TAG]")
@click.option("--name", help="NAME[:TAG] in the store; the same as in the registry where it is left out.")
@_access
@JSON
def pull(reference: str, name: str | None, access: Access, *, as_json: bool) -> None:
    """Fetch an image from a registry into the store, by tag or by digest (NAME@sha256:HEX).

    Without REGISTRY it is Docker Hub. Needs skopeo. Layers that are here already are not fetched again, and every byte
    is checked against its digest. Passwords are those of `harness image login`, `podman login` and `docker login`.

    \b
    Examples:
      harness image pull debian:bookworm-slim
      harness image pull localhost:5000/lab/web:1 --tls-verify=false --name web
    """
    local, found = registry.pull_image(
        reference, open_store(), name=name, access=access, log=tell, progress=_progress()
    )
    if as_json:
        print_json(image=image_facts(local, found))
    else:
        click.echo(f"{local} {found.manifest.digest}")


def _progress() -> registry.Progress:
    """Return what shows how much has come: one line that is written over, on a terminal only."""
    if not sys.stderr.isatty():
        return lambda _done, _total: None
    started_s = time.monotonic()

    def show(done_bytes: int, total_bytes: int) -> None:
        rate = format_bytes(int(done_bytes / max(time.monotonic() - started_s, 0.1)))
        end = "\n" if done_bytes == total_bytes else ""
        click.echo(
            f"\r{format_bytes(done_bytes)} of {format_bytes(total_bytes)}, {rate}/s\033[K{end}", err=True, nl=False
        )

    return show


@click.command(short_help="Send an image to a registry.")
@click.argument("name")
@click.argument("reference", metavar="[REGISTRY/]NAME[:TAG]")
@click.option("--compress", metavar="HOW",
              help="Pack all layers: gzip or zstd, or as zstd:19. Left out, plain ones with gzip.")  # fmt: skip
@_access
@JSON
def push(name: str, reference: str, compress: str | None, access: Access, *, as_json: bool) -> None:
    """Send the image NAME of the store to a registry, and print its digest there.

    Layers that were built here are plain tars; they are packed with gzip on the way, which gives the image another
    digest than it has here. Layers that the registry has are not sent again. Needs skopeo.

    \b
    Example:
      harness image push webserver localhost:5000/lab/webserver:1 --tls-verify=false
    """
    chosen = {} if compress is None else {"compression": parse_compression(compress)}
    digest = registry.push_image(open_store(), name, reference, access=access, log=tell, **chosen)
    if as_json:
        print_json(push={"reference": reference, "digest": digest})
    else:
        click.echo(f"{reference} {digest}")


@click.command(short_help="Keep the password of a registry for pull and push.")
@click.argument("host", metavar="REGISTRY")
@click.option("-u", "--username", help="Asked for where it is left out.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@_tls
def login(host: str, username: str | None, *, password_stdin: bool, **options: Any) -> None:
    """Log in to a registry: the password is tried, and kept for pull and push.

    It is kept where podman and skopeo keep theirs: ${XDG_RUNTIME_DIR}/containers/auth.json, gone with the next boot.
    `docker login` serves as well.
    """
    user = username or click.prompt("Username", err=True)
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, err=True)
    registry.login(host, user, password, Access(**options))
    tell(f"logged in to {host} as {user}")


@click.command()
@click.argument("host", metavar="REGISTRY")
@click.option("--authfile", type=_FILE, help="Where passwords are kept, instead of the user's auth.json.")
def logout(host: str, authfile: Path | None) -> None:
    """Forget the password of a registry."""
    registry.logout(host, Access(authfile))
    tell(f"logged out of {host}")
