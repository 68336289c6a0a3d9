"""`harness remote-serve`: makes trials for the harness of another host, which speaks to its stdin and stdout by ssh.

Nobody types it. One connection is one runtime of one run: everything carries a token of this host and the run's id, and
is removed when the connection ends, however it ends. The protocol is in harness.backends._remote_link.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import click

from harness import __version__, plugins
from harness.backends._remote_link import SCHEMA, encode, error_document
from harness.cli._known import load_scenario
from harness.cli._signals import Signals
from harness.cli._subject import Subject, backend_needs, subject
from harness.errors import CapabilityError, HarnessError, ImageError
from harness.host.facts import host_class, host_facts
from harness.host.paths import cache_dir, data_dir, runtime_dir
from harness.images.interchange import import_image
from harness.images.store import Store
from harness.interfaces import RunContext
from harness.model.records import TrialSpec
from harness.results.codec import trial_line
from harness.trials import ownership
from harness.trials.remote import stored_name
from harness.trials.runner import Contender

_CHUNK_BYTES = 1 << 20
_CLEANING_S = 30


@click.command(hidden=True)
def remote_serve() -> None:
    """Make trials for the harness of another host. It is started by that one, over ssh."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what else would be printed must not be taken for an answer
    with Signals() as signals, contextlib.ExitStack() as cleanup:
        served = Served(sys.stdin.buffer, answers)
        cleanup.callback(served.close)
        cleanup.callback(signals.hold)  # first of all: cleaning up must not end half way
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):  # the other side has gone: that is how it ends
            served.greet()
            served.serve()


@dataclass(slots=True)
class Served:
    """One connection, and what was made for it. `cleanup` holds all that must go when it ends."""

    requests: IO[bytes]
    answers: IO[bytes]
    cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    contender: Contender | None = None
    scratch: Path | None = None
    left: list[str] = field(default_factory=list)

    def greet(self) -> None:
        """Say who answers. The host's name is told here alone: whoever asks has named the host already."""
        host = host_facts()
        host |= {"class": host_class(host), "hostname": socket.gethostname()}
        self._send({"schema": SCHEMA, "harness": __version__, "host": host})

    def serve(self) -> None:
        """Answer one request after the other, until `close` or the end of the connection."""
        while line := self.requests.readline():
            request = json.loads(line)
            try:
                done = self._do(request)
            except HarnessError as error:
                self._send({"error": error_document(error)})
            except Exception as error:  # noqa: BLE001 - a bug here must be told there
                traceback.print_exception(error)
                self._send({"error": error_document(error)})
            else:
                self._send({"done": done})

    def _do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request; a hangup ends what takes long, but neither a transfer nor the cleaning up."""
        do = request["do"]
        whole = {"image": self._image, "close": self._close}
        if do in whole:
            return whole[do](request)
        long = {"has": _has, "needs": _needs, "reap": _reap, "prepare": self._prepare, "trial": self._trial}
        if do not in long:
            raise HarnessError(f"remote: {do}: unknown request")
        with _ended_by_hangup(self.requests.fileno()):
            return long[do](request)

    def _send(self, answer: Mapping[str, Any]) -> None:
        self.answers.write(encode(answer))
        self.answers.flush()

    def _say(self, text: str) -> None:
        self._send({"say": text})

    def _image(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Store an image that follows as an archive; its blobs are verified, and so is that it is the one meant."""
        manifest = str(request["manifest"])
        store, name = Store(data_dir() / "images"), stored_name(manifest)
        with store.scratch() as scratch:
            archive = scratch / "image.tar"
            with archive.open("wb") as file:
                _copy(self.requests, file, request["size_bytes"])
            (image,) = import_image(archive, store, name=name).values()
        if image.manifest.digest != manifest:
            store.remove(name)
            raise ImageError(f"image: {manifest}: what came has the digest {image.manifest.digest}")
        return {"name": name}

    def _prepare(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Prepare the one runtime of a scenario, as `harness run` does."""
        if os.geteuid() != 0:
            raise CapabilityError("user: unpacking an image needs root", hint="log in as root: qemu+ssh://root@HOST/..")
        token = request["token"]
        self.scratch = ownership.claim(token, request["run_id"])
        backends: list[Any] = []
        self.cleanup.callback(self._reap, token, backends)
        file = self.scratch / "scenario.yaml"
        file.write_text(request["scenario"], encoding="utf-8")
        loaded = load_scenario(file, request["overrides"], [request["runtime"]])
        about = subject(loaded, None)
        backends += about.backends
        _refuse_another_tree(about, request["root_digest"])
        context = RunContext(request["run_id"], token, self.scratch, cache_dir(), self._say, self.scratch)
        prepared = about.prepare(context, self.cleanup)
        ((name, self.contender),) = prepared.contenders.items()
        return {"facts": dict(prepared.facts[name])}

    def _trial(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Make one trial; return its record as a line of trials.jsonl, and what the instance wrote."""
        spec = TrialSpec(**request["spec"])
        if self.contender is None or self.scratch is None:
            raise HarnessError("remote: nothing was prepared")
        log_dir = self.scratch / "logs" / spec.trial_id
        record = self.contender.run(spec, log_dir, lambda _spec, phase: self._send({"phase": phase}))
        logs = {path.name: base64.b64encode(path.read_bytes()).decode() for path in sorted(log_dir.glob("*.log"))}
        shutil.rmtree(log_dir, ignore_errors=True)
        return {"record": trial_line(record), "logs": logs}

    def _close(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        self.close()
        return {"left": self.left}

    def close(self) -> None:
        """Remove all that was made. Calling it again does nothing."""
        self.contender = None
        self.cleanup.close()

    def _reap(self, token: str, backends: list[Any]) -> None:
        own = {f"directory: {(base / token).resolve()}" for base in (runtime_dir(), ownership.work_base())}
        found = ownership.reap(token, backends, dry_run=False)
        self.left += [line for line in found if line not in own]


def _refuse_another_tree(about: Subject, root_digest: str) -> None:
    found = about.image["root_digest"]
    if found != root_digest:
        raise ImageError(f"image: its root tree is {found} here and {root_digest} there")


def _needs(request: Mapping[str, Any]) -> dict[str, Any]:
    name = str(request["backend"])
    found = backend_needs(name, plugins.load("backends", name).options.model_validate(request["options"]))
    return {"needs": [{"name": n.name, "available": n.available, "reason": n.reason, "hint": n.hint} for n in found]}


def _reap(request: Mapping[str, Any]) -> dict[str, Any]:
    """Remove what a connection left that broke, once its own harness has ended; return what is still there."""
    token, end_s = str(request["token"]), time.monotonic() + _CLEANING_S
    while ownership.is_alive(owner := ownership.owner_of(token)):
        if time.monotonic() > end_s:
            return {"left": [f"process {owner.pid if owner else '?'} still works on it"]}
        time.sleep(0.05)
    backend = plugins.load("backends", request["backend"])
    ownership.reap(token, [backend], dry_run=False)
    return {"left": list(backend.reap(token, dry_run=True))}


def _has(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a name that the store has for an image, None where it has none."""
    names = Store(data_dir() / "images").names()
    return {"name": next((name for name, found in names.items() if found.digest == request["manifest"]), None)}


def _copy(source: IO[bytes], target: IO[bytes], size_bytes: int) -> None:
    left = size_bytes
    while left:
        chunk = source.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise ImageError("image: the connection ended in the middle of it")
        target.write(chunk)
        left -= len(chunk)


@contextlib.contextmanager
def _ended_by_hangup(fd: int) -> Iterator[None]:
    """Interrupt what goes on in the block when the other side goes away: until the answer it sends nothing.

    The signal goes to the main thread, whose system call it ends; the thread waits in poll(2) and costs nothing.
    """
    over = os.eventfd(0, os.EFD_CLOEXEC)
    main = threading.get_ident()

    def watch() -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLRDHUP)
        poll.register(over, select.POLLIN)
        if over not in {ready for ready, _events in poll.poll()}:
            signal.pthread_kill(main, signal.SIGTERM)

    watcher = threading.Thread(target=watch, name="hangup", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.eventfd_write(over, 1)
        watcher.join()
        os.close(over)
