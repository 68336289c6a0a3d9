"""Trials that are made on another host, by the harness there: the guest, the probes and the clock are all on that host.

What comes back is each trial's record, as it would be stored there. Between a request and its answer nothing of this
host is in the way, so that the network is in no number. A connection that breaks is a failed trial of that runtime
alone, and the next trial begins with a new one.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.backends._remote import Remote
from harness.backends._remote_link import Link
from harness.errors import CapabilityError, HarnessError, RunFailed, StoreError, TrialError
from harness.images import oci
from harness.images.interchange import export_image
from harness.images.oci import Descriptor
from harness.images.store import Store
from harness.interfaces import Json, RunContext
from harness.model.metrics import Metric
from harness.model.reading import LoadedScenario
from harness.model.records import TrialRecord, TrialSpec
from harness.model.spec import RootTree
from harness.results.codec import parse_trial
from harness.trials.ledger import Ledger, Progress, now


@dataclass(frozen=True, slots=True)
class Order:
    """What the other host is to prepare: one runtime of a scenario, with an image of this host's store.

    `metrics` are those of the whole run, for a trial of which nothing comes back.
    """

    loaded: LoadedScenario
    runtime: str
    backend: str
    tree: RootTree
    store: Store
    metrics: Sequence[Metric]
    timeout_ns: int


@dataclass(slots=True)
class RemoteContender:
    """One runtime that another host prepared. `facts` are those of its arm there, with the host's own.

    `token` is what all carries there that belongs to this connection, `left` what could not be removed there.
    """

    remote: Remote
    order: Order
    context: RunContext
    facts: Mapping[str, Json] = field(default_factory=dict)
    link: Link | None = None
    token: str = ""
    left: list[str] = field(default_factory=list)

    @property
    def timeout_ns(self) -> int:
        return self.order.timeout_ns

    def prepare(self) -> None:
        """Connect, send the image where it is not there yet, have the runtime prepared. Raises: HarnessError."""
        link, self.token = Link(self.remote), secrets.token_hex(4)
        try:
            facts = self._prepared(link)
        except BaseException:
            link.close()
            raise
        self.link, self.facts = link, facts

    def _prepared(self, link: Link) -> Mapping[str, Json]:
        image = self._offered(link)
        scenario, plain = self.order.loaded, self.order.runtime.partition("@")[0]  # `vm@base` is `vm` in its own file
        uri = self.remote.uri_there or "null"
        done = link.ask(
            "prepare",
            self._told,
            run_id=self.context.run_id,
            token=self.token,
            scenario=scenario.text,
            overrides=[*scenario.overrides, f"image={{name: '{image}'}}", f"runtimes.{plain}.uri={uri}"],
            runtime=plain,
            root_digest=self.order.tree.digest,
        )
        host = link.greeting["host"]
        facts = {**done["facts"], "host": {"name": self.remote.host, **host}, "host_class": host.get("class")}
        self._refuse_another(facts)
        return facts

    def _told(self, _kind: str, text: str) -> None:
        self.context.say(f"{self.remote.host}: {text}")

    def _refuse_another(self, facts: Mapping[str, Any]) -> None:
        """Behind one name another host may answer, or the same one booted again: its trials are not comparable."""
        before: Any = self.facts.get("host", {})
        if before and before["boot_id"] != facts["host"]["boot_id"]:
            raise CapabilityError(f"{self.remote.host}: is another host, or was booted again, since the run began")

    def _offered(self, link: Link) -> str:
        """Return the name that the image has there, once it is there."""
        name, manifest = _stored(self.order.store, self.order.tree)
        there = link.ask("has", manifest=manifest.digest)["name"]
        if there is not None:
            return str(there)
        archive = self.context.work / f"{manifest.digest[7:19]}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        try:
            export_image(self.order.store, name, archive, "oci-archive")
            self._told("say", "takes the image, once")
            return str(link.ask("image", body=archive, manifest=manifest.digest)["name"])
        finally:
            archive.unlink(missing_ok=True)

    def run(self, spec: TrialSpec, log_dir: Path, progress: Progress) -> TrialRecord:
        """Return the record of one trial there, or one that says why none came. Raises: StoreError for its logs."""
        started = now()
        try:
            done = self._connected().ask("trial", _phases(spec, progress), spec=asdict(spec))
            record = parse_trial(done["record"], f"{self.remote.host}: {spec.trial_id}")
        except HarnessError as error:
            return self._failed(spec, started, error)
        _keep_logs(done["logs"], log_dir)
        return record

    def _connected(self) -> Link:
        if self.link is None or not self.link.usable:
            self.close()
            self.prepare()
        assert self.link is not None  # `prepare` made it
        return self.link

    def _failed(self, spec: TrialSpec, started: str, error: HarnessError) -> TrialRecord:
        ledger = Ledger()
        ledger.complete(self.order.metrics, "not measured: nothing came back from the other host")
        ending = error.ending if isinstance(error, TrialError) else "host-lost"
        return TrialRecord(
            spec=spec, status="failed", started=started, error=error.message, ending=ending, absent=ledger.absent
        )

    def close(self) -> None:
        """Have everything removed there and end the connection; `left` says what could not be."""
        link, self.link = self.link, None
        if link is None:
            return
        left = None
        try:
            if link.usable:
                left = link.ask("close")["left"]
        except HarnessError:
            left = None  # it broke just now
        finally:
            link.close()
        self.left += self._reaped() if left is None else left

    def _reaped(self) -> Sequence[str]:
        """Return what is left there of a connection that broke: the harness there cleans up, unless it was killed."""
        try:
            with contextlib.closing(Link(self.remote)) as link:
                return tuple(link.ask("reap", backend=self.order.backend, token=self.token)["left"])
        except HarnessError as error:
            return (f"nobody knows what: {error.message}",)

    def end(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        """Close; in a run that has not failed already, what is left behind there fails it. Raises: RunFailed."""
        self.close()
        if self.left and kind is None:
            raise RunFailed(f"left behind on {self.remote.host}: {'; '.join(self.left)}", hint="there: harness clean")


def _stored(store: Store, tree: RootTree) -> tuple[str, Descriptor]:
    """Return name and manifest of an image of the store that unpacks to a tree. Raises: CapabilityError.

    A tree's directory is named by the chain id of its layers (harness.images.roots).
    """
    for name, manifest in store.names().items():
        if store.read_image(manifest).chain_id.removeprefix("sha256:") == tree.path.name:
            return name, manifest
    raise CapabilityError(f"image: {tree.reference}: is no longer in the store {store.path}")


def _phases(spec: TrialSpec, progress: Progress) -> Callable[[str, str], None]:
    def told(kind: str, text: str) -> None:
        if kind == "phase":
            progress(spec, text)

    return told


def _keep_logs(logs: Mapping[str, str], log_dir: Path) -> None:
    """Write what the instance wrote there beside the record, as for one of this host. Raises: StoreError."""
    try:
        for name, content in logs.items():
            log_dir.mkdir(parents=True, exist_ok=True)
            (log_dir / Path(name).name).write_bytes(base64.b64decode(content))
    except OSError as error:
        raise StoreError(f"{log_dir}: cannot be written: {error.strerror}") from error


def stored_name(manifest_digest: str) -> str:
    """Return the name under which a host keeps an image that another one sent."""
    return oci.full_name(f"from-elsewhere/{manifest_digest.removeprefix('sha256:')[:24]}")
