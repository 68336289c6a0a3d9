"""Two fresh instances of a trial, one watched and one beside it, that only wait until they are asked."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import CapabilityError, TrialError, UsageError
from harness.host.paths import data_dir
from harness.images.roots import open_tree
from harness.images.store import Store
from harness.interfaces import Arm, ArmSpec, Backend, Capability, Instance, RunContext
from harness.model.milestones import READY
from harness.model.spec import Limits, MountSpec, NetworkKind, Ready, RootTree, WorkloadSpec

WAITING = WorkloadSpec(("harness:probe", "wait"), ready=Ready("line", "waiting"))
_START_NS = 120 * 10**9
_STOP_NS = 30 * 10**9
_SLACK_NS = 30 * 10**9
NS_PER_MS = 10**6
BACKENDS = ("builtin", "libvirt", "docker", "podman", "containerd", "runc", "crun", "oci", "nspawn", "bwrap", "process")
"""Any of them may be an arm's, and what a dead run left is found by its own."""


def load(name: str, options: Mapping[str, Any]) -> tuple[Backend, BaseModel]:
    """Return a backend with its options. Raises: UsageError, CapabilityError."""
    try:
        backend: Backend = importlib.import_module(f"harness.backends.{name}").PLUGIN
    except ImportError as error:
        raise CapabilityError(f"backend {name}: cannot be loaded: {error}") from error
    try:
        return backend, backend.options.model_validate(dict(options))
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        raise UsageError(f"backend {name}: options: {where}: {detail['msg']}") from error


def needs(names: tuple[tuple[str, Mapping[str, Any]], ...], image: str) -> list[Capability]:
    """Return what the backends and the image need here."""
    found: list[Capability] = []
    for name, options in names:
        backend, chosen = load(name, options)
        found += backend.needs(chosen)
    known = Store(data_dir() / "images").names()
    there = image in known or f"{image}:latest" in known
    hint = None if there else f"harness image bootstrap {image}"
    return [*found, Capability("image", there, image if there else f"{image}: not in the store", hint)]


@dataclass(frozen=True, slots=True)
class Ground:
    """What both instances have alike."""

    image: str
    limits: Limits
    workload: WorkloadSpec = WAITING
    network: NetworkKind | None = None
    mounts: tuple[MountSpec, ...] = ()


@dataclass
class Pair:
    """Two prepared runtimes, which may be the same. `store`, open as long, keeps the image's `tree`."""

    watched: Arm
    beside: Arm
    store: Store
    tree: RootTree

    @contextlib.contextmanager
    def started(self, trial_id: str) -> Iterator[tuple[Instance, Instance]]:
        """Yield (watched, beside), ready and waiting; both have ended afterwards."""
        with contextlib.ExitStack() as cleanup:
            yield start(self.watched, f"{trial_id}-w", cleanup), start(self.beside, f"{trial_id}-b", cleanup)

    def close(self) -> None:
        self.watched.close()
        if self.beside is not self.watched:
            self.beside.close()


def start(arm: Arm, trial_id: str, cleanup: contextlib.ExitStack) -> Instance:
    """Start one instance, which `cleanup` ends; a failed end is the trial's."""
    instance = arm.launch(trial_id)
    cleanup.callback(lambda: instance.stop(time.monotonic_ns() + _STOP_NS))
    instance.wait(READY, time.monotonic_ns() + _START_NS)
    return instance


def prepare(
    arm: str, ground: Ground, watched: tuple[str, Mapping[str, Any]], beside: tuple[str, Mapping[str, Any]],
    context: RunContext,
) -> Pair:  # fmt: skip
    """Prepare both runtimes over one image. Raises: what their backends raise."""
    store = Store(data_dir() / "images")
    tree = open_tree(store, store.find(ground.image), ground.image)

    def one(name: str, chosen: tuple[str, Mapping[str, Any]]) -> Arm:
        backend, options = load(*chosen)
        spec = ArmSpec(name, tree, ground.workload, ground.limits, ground.network, ground.mounts)
        return backend.prepare(spec, options, context)

    first = one(arm, watched)
    if beside == watched:
        return Pair(first, first, store, tree)
    try:
        return Pair(first, one(f"{arm}-b", beside), store, tree)
    except BaseException:
        first.close()
        raise


def ask(instance: Instance, *words: str, bound_ms: int) -> list[int]:
    """Have the agent's probe do something inside and return the numbers that it prints. Raises: TrialError."""
    result = instance.exec(["harness:probe", *words], bound_ms * NS_PER_MS + _SLACK_NS)
    text = result.stdout.decode("ascii", "replace").split()
    if result.returncode or not all(word.isdigit() for word in text):
        why = result.stderr.decode("utf-8", "replace").strip()[-200:]
        raise TrialError(f"{' '.join(words)}: ended with {result.returncode} {why}".rstrip())
    return [int(word) for word in text]
