"""A libvirt URI that names another host, as the way to have trials made there: by ssh, by the harness of that host.

    qemu+ssh://[USER@]HOST[:PORT]/system      the daemon of that host; /session likewise
    qemu+ssh://[USER@]HOST[:PORT]/embed       libvirt's driver inside the harness there: no daemon is needed

Parameters as libvirt names them (libvirt.org/uri.html, "ssh transport"): `command` is the ssh program here, `keyfile` a
private key, `known_hosts` a file, `no_verify=1` takes any host key, `no_tty=1` asks nothing (which always holds here),
`socket` the daemon's socket there. One is ours: `harness` is the command there, where ssh does not find it in PATH.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from harness.backends._connection import is_here
from harness.errors import CapabilityError
from harness.interfaces import Capability
from harness.model.spec import MountSpec

if TYPE_CHECKING:
    from pydantic import BaseModel

_PATHS = ("/system", "/session", "/embed")
_KNOWN = ("command", "harness", "keyfile", "known_hosts", "no_tty", "no_verify", "socket")
_CONNECT_S = 10
# A host that has gone is noticed after a minute, not never.
_ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
SERVE = "remote-serve"


@dataclass(frozen=True, slots=True)
class Remote:
    """Another host, and how it is reached. `uri_there` is libvirt's URI on that host, None for its embedded driver."""

    uri: str
    host: str
    uri_there: str | None
    argv: tuple[str, ...]

    @property
    def target(self) -> str:
        """What must work by hand: `ssh -p 2222 root@far`, without the options that only keep it quiet."""
        return self.uri.partition("?")[0]


def elsewhere(options: BaseModel) -> Remote | None:
    """Return the other host that a backend's options name, None where they mean this one. Raises: CapabilityError."""
    uri = getattr(options, "uri", None)
    return parse(uri) if isinstance(uri, str) else None


def parse(uri: str) -> Remote | None:
    """Return the other host of a URI, None where it is this one. Raises: CapabilityError for what ssh cannot do."""
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if driver != "qemu" or is_here(uri):
        return None
    if transport not in {"ssh", "libssh", "libssh2"}:
        raise CapabilityError(
            f"libvirt: {uri}: trials on another host go over ssh alone", hint=f"uri: qemu+ssh://{parts.hostname}/system"
        )
    if parts.path not in _PATHS:
        raise CapabilityError(f"libvirt: {uri}: {parts.path or '(no path)'}: expected one of {', '.join(_PATHS)}")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in given if name not in _KNOWN]
    if unknown:
        raise CapabilityError(f"libvirt: {uri}: {unknown[0]}: not supported", hint=f"known: {', '.join(_KNOWN)}")
    assert parts.hostname is not None  # that is this host
    return Remote(uri, parts.hostname, _there(parts.path, given), _argv(uri, given))


def _there(path: str, given: dict[str, str]) -> str | None:
    if path == "/embed":
        return None
    socket = given.get("socket")
    return f"qemu+unix://{path}?socket={quote(socket)}" if socket else f"qemu://{path}"


def _argv(uri: str, given: dict[str, str]) -> tuple[str, ...]:
    """Return the whole command. It must never ask: nobody sits before a run, and a password typed once is no key."""
    parts = urlsplit(uri)
    options = ["-T", "-e", "none", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}", *_ALIVE]
    if parts.port is not None:
        options += ["-p", str(parts.port)]
    if parts.username is not None:
        options += ["-l", parts.username]
    if "keyfile" in given:
        options += ["-i", given["keyfile"], "-o", "IdentitiesOnly=yes"]
    if "known_hosts" in given:
        options += ["-o", f"UserKnownHostsFile={given['known_hosts']}"]
    if given.get("no_verify", "0") != "0":
        options += ["-o", "StrictHostKeyChecking=no"]
    program = shlex.join([*shlex.split(given.get("harness", "harness")), SERVE])
    return (given.get("command", "ssh"), *options, "--", str(parts.hostname), program)


def mount_needs(mounts: Sequence[MountSpec]) -> tuple[Capability, ...]:
    """Return what cannot be mounted in a guest of another host; all else is asked there."""
    hint = "type: volume is made on that host for every trial, type: tmpfs in the guest"
    reason = "a directory of this host is not on the host of the guest"
    binds = [mount for mount in mounts if mount.kind == "bind"]
    return tuple(Capability("bind", available=False, reason=f"{one.source}: {reason}", hint=hint) for one in binds)
