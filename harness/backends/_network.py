"""The networks of instances, as far as backends share them: which one, the run's own bridge, and what a dead run left.

    none     loopback alone
    host     the host's own network; a VM has none to share
    bridge   an interface on a bridge in a network namespace that the run has for itself (`harness.host.netns`)

Whatever takes time (namespace, bridge, veth, tap) is made before `requested`; an instance only joins it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BackendError, CapabilityError
from harness.host import netns
from harness.interfaces import ArmSpec, Json
from harness.model.spec import NetworkKind

_VHOST = Path("/dev/vhost-net")
_networks: dict[str, tuple[netns.RunNetwork, int]] = {}


def choose(spec: ArmSpec, default: NetworkKind, refused: Mapping[NetworkKind, str]) -> NetworkKind:
    """Return the kind of network of an arm. Raises CapabilityError with the reason for one that it cannot have."""
    kind = spec.network or default
    if kind in refused:
        possible = [other for other in ("none", "host", "bridge") if other not in refused]
        raise CapabilityError(
            f"{spec.runtime}: network: {kind}: {refused[kind]}",
            hint=f"give {spec.runtime} a network of its own in runtimes: {' or '.join(possible)}",
        )
    return kind


# -- the run's bridge ------------------------------------------------------------------------------------------------


def acquire(token: str) -> netns.RunNetwork:
    """Return the network of a run, made for the first arm that asks. Raises: CapabilityError."""
    network, users = _networks.get(token) or (netns.RunNetwork(token), 0)
    _networks[token] = (network, users + 1)
    return network


def acquire_proven(token: str, attach: Callable[[netns.RunNetwork], netns.Attachment]) -> netns.RunNetwork:
    """As `acquire`, after `attach` has worked once: what the kernel lacks is told before a run and not by each trial.

    Raises: CapabilityError.
    """
    network = acquire(token)
    try:
        attach(network).close()
    except BackendError as error:
        release(token)
        raise CapabilityError(error.message, hint=error.hint) from error
    except BaseException:
        release(token)
        raise
    return network


def release(token: str) -> None:
    """Let go of what `acquire` returned; the last arm removes it. Raises: BackendError when it resists."""
    network, users = _networks.pop(token)
    if users > 1:
        _networks[token] = (network, users - 1)
    else:
        network.close()


def of_run(token: str) -> netns.RunNetwork | None:
    """Return the network that the arms of a run have made, None where none of them has a bridge."""
    return _networks[token][0] if token in _networks else None


def facts(kind: NetworkKind, driver: str | None = None, **more: Json) -> dict[str, Json]:
    """Return what a run records of an arm's network; `driver` is that of the instance's interface."""
    if kind != "bridge":
        return {"kind": kind}
    subnet = str(netns.SUBNET)
    return {"kind": kind, "driver": driver, "mtu_bytes": netns.MTU_BYTES, "subnet": subnet, **more}


def vhost_missing(accelerator: str | None) -> str:
    """Return why packets of a guest go through QEMU itself and not through vhost-net; empty where they need not.

    libvirt takes vhost-net for KVM guests alone.
    """
    if accelerator != "kvm":
        return "only with KVM"
    try:
        os.close(os.open(_VHOST, os.O_RDWR | os.O_CLOEXEC))  # this also loads the module where there is one
    except OSError as error:
        return f"{_VHOST}: {error.strerror}"
    return ""


@dataclass(frozen=True, slots=True)
class Place:
    """The network of one container or process: the namespace to join, None where there is nothing to join."""

    path: str | None = None
    address: str | None = None
    close: Callable[[], None] = field(default=lambda: None, repr=False)


class Places:
    """The places of an arm's containers or processes; those of the kinds `joined` are namespaces that `take` makes.

    Raises: CapabilityError where a bridge cannot be made.
    """

    def __init__(self, kind: NetworkKind, token: str, joined: Sequence[NetworkKind]) -> None:
        self.kind = kind
        self._token = token
        self._joined = joined
        self._network = acquire_proven(token, netns.RunNetwork.attach_namespace) if kind == "bridge" else None

    def take(self) -> Place:
        """Return a new place, made before any clock runs. Raises: BackendError."""
        if self.kind not in self._joined:
            return Place()
        if self._network is None:
            namespace = netns.isolated()
            return Place(namespace.path, None, namespace.close)
        attached = self._network.attach_namespace()
        return Place(attached.namespace.path, str(attached.address), attached.close)

    def close(self) -> None:
        if self._network is not None:
            self._network = None
            release(self._token)


# -- what a dead run left --------------------------------------------------------------------------------------------


def tokens() -> set[str]:
    """Return the tokens of all runs in whose network namespace a process is."""
    return set(netns.holders())


def reap(token: str, *, dry_run: bool, but: Collection[int] = ()) -> list[str]:
    """End the processes in a dead run's network namespace; return one line for each, `but` for those known already.

    The namespace goes with the last of them, and all that is in it.
    """
    pids = netns.holders().get(token, set()) - set(but)
    if not dry_run:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return [f"process: pid {pid} in the network namespace of run {token}" for pid in sorted(pids)]
