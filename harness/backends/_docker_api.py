"""Docker's HTTP interface over its Unix socket, as far as starting and removing a container needs it.

Source: Docker Engine API v1.41 (docs.docker.com/reference/api/engine); the version is left to the daemon.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

from harness.errors import BackendError

_TIMEOUT_S = 120


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


class Api:
    """One daemon. The connection is kept for the next request."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._connection: _Connection | None = None

    def call(
        self,
        method: str,
        target: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | IO[bytes] | None = None,
    ) -> Any:
        """Return the answer's document, None where it is empty. Raises: BackendError with what the daemon says."""
        if self._connection is None:
            self._connection = _Connection(self._path)
        try:
            response = _send(self._connection, method, target, query, body)
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise BackendError(f"docker: {self._path}: {method} {target}: {error}") from error
        _refuse_error(response.status, content, f"{method} {target}")
        return _document(content)

    def wait(self, identity: str) -> Wait:
        """Return what gets readable when a container has ended and is removed; asked for before it starts."""
        connection = _Connection(self._path)
        try:
            target = f"/containers/{identity}/wait"
            response = _send(connection, "POST", target, {"condition": "removed"}, None)
            if response.status != http.HTTPStatus.OK:
                _refuse_error(response.status, response.read(), f"POST {target}")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise BackendError(f"docker: {self._path}: wait: {error}") from error
        return Wait(connection, response)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Wait:
    """A container that a daemon runs, as `_command.Running`."""

    pid: int | None = None

    def __init__(self, connection: _Connection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response
        self._code: int | None = None

    def fileno(self) -> int:
        return int(self._connection.sock.fileno())

    def wait(self, timeout_ns: int) -> int | None:
        if self._code is None:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            if poll.poll(max(0, timeout_ns) / 1e6):
                self._code = self._read()
        return self._code

    def _read(self) -> int:
        try:
            document = _document(self._response.read())
        except (OSError, http.client.HTTPException):
            document = None  # the daemon has ended
        return int(document["StatusCode"]) if isinstance(document, dict) else 255

    def complaint(self) -> str:
        code = self.wait(0)
        return f"docker: the container ended with code {code} before the agent came" if code is not None else "docker"

    def kill(self) -> None:
        """The daemon was told to."""

    def close(self) -> None:
        self._connection.close()


def _send(
    connection: _Connection,
    method: str,
    target: str,
    query: Mapping[str, str] | None,
    body: Mapping[str, Any] | IO[bytes] | None,
) -> http.client.HTTPResponse:
    url = f"{target}?{urlencode(query)}" if query else target
    if isinstance(body, Mapping):
        connection.request(method, url, json.dumps(body), {"Content-Type": "application/json"})
    else:
        connection.request(method, url, body, {"Content-Type": "application/x-tar"} if body else {})
    return connection.getresponse()


def _refuse_error(status: int, content: bytes, what: str) -> None:
    document = _document(content)
    said = document.get("message") if isinstance(document, dict) else None
    if status >= http.HTTPStatus.BAD_REQUEST:
        raise BackendError(f"docker: {what}: {said or f'status {status}'}")
    if isinstance(document, dict) and "error" in document:  # a stream that began well
        raise BackendError(f"docker: {what}: {document['error']}")


def _document(content: bytes) -> Any:
    """Return the last document of an answer: a stream of progress has one a line."""
    lines = content.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
