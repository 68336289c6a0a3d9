"""Requests to the harness of another host, one at a time, over the standard streams of ssh.

A line of JSON each way. The server greets: `{"schema": "harness.remote/1", "harness": VERSION, "host": {...}}`. A
request is `{"do": NAME, ...}`, and one with `size_bytes` has so many bytes behind its line. It is answered by any
number of `{"say": TEXT}` and `{"phase": TEXT}`, and then by `{"done": {...}}` or `{"error": {...}}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import errors
from harness.backends._remote import Remote
from harness.container.version import VERSION
from harness.errors import BackendError, CapabilityError, HarnessError
from harness.host import process
from harness.host.facts import describe
from harness.interfaces import Capability

if TYPE_CHECKING:
    from pydantic import BaseModel

SCHEMA = "harness.remote/1"
_GREETING_NS = 60_000_000_000
_NOISE_MAX_BYTES = 1 << 16
_LINE_MAX_BYTES = 256 << 20  # a record with the logs of a trial, which are bounded themselves
_CHUNK_BYTES = 1 << 16
_END_NS = 60_000_000_000
_NOT_FOUND, _NO_CONNECTION = 127, 255  # of the shell there; of ssh: ssh(1), EXIT STATUS

Told = Callable[[str, str], None]
"""Called with the kind of an event (`say`, `phase`) and its text."""


def encode(document: Mapping[str, Any]) -> bytes:
    """Return one line of the protocol."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def error_document(error: Exception) -> dict[str, Any]:
    """Return an error as it is sent. One that is not ours is a bug there, and says so."""
    if isinstance(error, HarnessError):
        return {"kind": type(error).__name__, "message": error.message or str(error), "hint": error.hint}
    return {"kind": "HarnessError", "message": f"a bug: {type(error).__name__}: {error}", "hint": None}


def _error_of(document: Mapping[str, Any], host: str) -> HarnessError:
    """Return an error of the other host as one of this: the same class where it takes a message alone."""
    message, hint = f"on {host}: {document.get('message')}", document.get("hint")
    for kind in (errors.TrialTimeout, errors.AgentError, errors.BackendError, errors.TrialError, errors.ImageError,
                 errors.UsageError, errors.StoreError, errors.RunFailed):  # fmt: skip
        if kind.__name__ == document.get("kind"):
            return kind(message, hint=hint)
    if document.get("kind") in {"CapabilityError", "CommandError"}:
        return CapabilityError(message, hint=hint)
    return HarnessError(message, hint=hint)


class Link:
    """One ssh, and the harness at its other end. `greeting` is what that one said of itself and its host."""

    def __init__(self, remote: Remote) -> None:
        """Raises: CapabilityError where the host cannot be reached, or has not this very harness."""
        self.remote = remote
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the link
        self._buffer = b""
        self._busy = False
        try:
            self._ssh = process.converse(remote.argv, stderr=self._stderr)
        except BaseException:
            self._stderr.close()
            raise
        try:
            self.greeting = self._greeted()
        except BaseException:
            self.close(patience_ns=0)
            raise

    def _greeted(self) -> Mapping[str, Any]:
        """Skip what a login shell may print, up to the greeting."""
        deadline_ns, skipped = time.monotonic_ns() + _GREETING_NS, 0
        while skipped < _NOISE_MAX_BYTES:
            line = self._line(deadline_ns)
            if line is None:
                raise self._unreachable()
            if line.startswith(b'{"schema":"harness.remote/'):
                return self._checked(json.loads(line))
            skipped += len(line)
        raise CapabilityError(f"libvirt: {self.remote.target}: what answers there is no harness")

    def _checked(self, greeting: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs = greeting.get("harness")
        if greeting.get("schema") != SCHEMA or theirs != VERSION:
            raise CapabilityError(
                f"libvirt: {self.remote.target}: harness {theirs} is there, {VERSION} is here",
                hint=f"install {VERSION} there: what measures must be the same on both hosts",
            )
        return greeting

    def _unreachable(self) -> CapabilityError:
        """Return why no greeting came, from how ssh ended."""
        code, words = process.await_end(self._ssh, _END_NS), self._last_words()
        where = f"libvirt: {self.remote.target}"
        if code == _NO_CONNECTION:
            hint = f"this must work without a question: ssh {self.remote.host} true; docs/vm.md has all parameters"
            return CapabilityError(f"{where}: cannot be reached: {words}", hint=hint)
        if code == _NOT_FOUND:
            hint = f"install {VERSION} there; where it is not in the PATH of ssh: ?harness=/PATH/bin/harness"
            return CapabilityError(f"{where}: no harness there: {words}", hint=hint)
        return CapabilityError(f"{where}: the harness there ended with code {code}: {words}")

    @property
    def usable(self) -> bool:
        """Whether a request can be made: ssh lives, and no request was cut off half way."""
        return self._ssh.poll() is None and not self._busy

    def ask(self, do: str, told: Told = lambda _kind, _text: None, *, body: Path | None = None, **words: Any) -> Any:
        """Return what a request is answered with. `body` is a file whose bytes follow.

        Raises: the error that is answered, with the host's name before it; BackendError when the connection ends.
        """
        extra = {} if body is None else {"size_bytes": body.stat().st_size}
        self._busy = True
        self._send({"do": do, **words, **extra}, body)
        while True:
            answer = self._answer()
            for kind in ("say", "phase"):
                if kind in answer:
                    told(kind, str(answer[kind]))
            if "done" in answer or "error" in answer:
                self._busy = False
                if "error" in answer:
                    raise _error_of(answer["error"], self.remote.host)
                return answer["done"]

    def _send(self, request: Mapping[str, Any], body: Path | None) -> None:
        stream = self._ssh.stdin
        assert stream is not None  # until `close`
        try:
            stream.write(encode(request))
            if body is not None:
                with body.open("rb") as file:
                    shutil.copyfileobj(file, stream)
            stream.flush()
        except OSError as error:
            raise self._lost() from error

    def _answer(self) -> Mapping[str, Any]:
        line = self._line(None)
        if line is None:
            raise self._lost()
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BackendError(f"{self.remote.host}: its answer cannot be read: {line[:80]!r}")
        return answer

    def _line(self, deadline_ns: int | None) -> bytes | None:
        """Return the next line without its end, None where the stream ends. Raises: CapabilityError at the deadline."""
        assert self._ssh.stdout is not None
        fd, chunks = self._ssh.stdout.fileno(), [self._buffer]
        while b"\n" not in chunks[-1]:
            left_s = None if deadline_ns is None else max(0, deadline_ns - time.monotonic_ns()) / 1e9
            if not select.select([fd], [], [], left_s)[0]:
                raise CapabilityError(f"libvirt: {self.remote.target}: no answer in {_GREETING_NS // 10**9} s")
            chunk = os.read(fd, _CHUNK_BYTES)
            if not chunk or sum(map(len, chunks)) > _LINE_MAX_BYTES:
                return None
            chunks.append(chunk)
        line, _, self._buffer = b"".join(chunks).partition(b"\n")
        return line

    def _lost(self) -> BackendError:
        """Return how the connection ended in the middle of a request."""
        code = process.await_end(self._ssh, _END_NS)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        message = f"{self.remote.host}: the connection was lost: ssh {how}: {self._last_words()}"
        return BackendError(message, ending="host-lost")

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"

    def close(self, patience_ns: int = _END_NS) -> None:
        """Close the connection: the harness there removes what it has and ends. Calling it again does nothing."""
        if self._ssh.stdin is not None:
            with contextlib.suppress(OSError):  # what was not sent cannot be sent any more
                self._ssh.stdin.close()
            self._ssh.stdin = None
        process.await_end(self._ssh, patience_ns)
        for stream in (self._ssh.stdout, self._stderr):
            if stream is not None:
                stream.close()


def needs(remote: Remote, backend: str, options: BaseModel) -> Sequence[Capability]:
    """Return whether another host can be used, and what a backend needs there: it is asked, nothing is started."""
    host = remote.host
    there = options.model_copy(update={"uri": remote.uri_there})
    try:
        with contextlib.closing(Link(remote)) as link:
            found = link.ask("needs", backend=backend, options=there.model_dump(mode="json", exclude_none=True))
    except HarnessError as error:
        return (Capability("host", available=False, reason=error.message, hint=error.hint),)
    seen = Capability("host", available=True, reason=f"{host}: {describe(link.greeting['host'])}")
    own = (Capability(n["name"], n["available"], f"on {host}: {n['reason']}", n["hint"]) for n in found["needs"])
    return (seen, *own)
