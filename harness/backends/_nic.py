"""A guest's side of the run's network: the tap, what the domain says of it, and how the agent learns its address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from harness.agent.program import encode_records
from harness.backends import _network
from harness.backends._domain import GuestSpec, Nic
from harness.backends._hardware import NIC_MODULES, NicModel
from harness.host import netns
from harness.interfaces import Json
from harness.model.spec import NetworkKind


def modules(network: NetworkKind, model: NicModel) -> tuple[str, ...]:
    """Return which modules a guest needs besides those of its root."""
    return NIC_MODULES[model] if network == "bridge" else ()


def refused(*, by_daemon: bool) -> Mapping[NetworkKind, str]:
    """Return the kinds of network that a guest cannot have, with the reason."""
    host = "a VM has a network stack of its own and cannot share the host's"
    bridge = "a libvirt daemon is in the host's network namespace and sees no tap in the run's"
    return {"host": host, "bridge": bridge} if by_daemon else {"host": host}


@dataclass(frozen=True, slots=True)
class Plug:
    """Attaches the guests of an arm to the run's bridge.

    Each gets an initramfs of its own: `pack` makes it of the agent's specification `spec` with the guest's address.
    """

    token: str
    network: netns.RunNetwork
    pack: Callable[[bytes], bytes]
    spec: bytes

    @classmethod
    def into(cls, token: str, pack: Callable[[bytes], bytes], spec: bytes) -> Plug:
        """Return a plug into the network of the run `token`. Raises: CapabilityError where it cannot be made."""
        return cls(token, _network.acquire_proven(token, netns.RunNetwork.attach_tap), pack, spec)

    def attach(self, guest: GuestSpec) -> tuple[GuestSpec, netns.Attachment]:
        """Return the guest with a tap and its initramfs (in the directory of its sockets), and where it is attached.

        Raises: BackendError.
        """
        assert guest.nic is not None
        place = self.network.attach_tap()
        try:
            guest.sockets.mkdir(parents=True)
            initrd = guest.sockets / "initrd"
            initrd.write_bytes(self.pack(self.spec + encode_records(self._records(place))))
        except BaseException:
            place.close()
            raise
        return replace(guest, initrd=initrd, nic=replace(guest.nic, tap=place.port, mac=place.mac)), place

    def _records(self, place: netns.Attachment) -> list[tuple[str, str]]:
        mask, gateway = str(netns.SUBNET.netmask), str(self.network.gateway)
        return [("net_address", str(place.address)), ("net_mask", mask), ("net_gateway", gateway)]

    def close(self) -> None:
        _network.release(self.token)


def with_nic(template: GuestSpec) -> tuple[GuestSpec, dict[str, Json]]:
    """Return an arm's template with a network interface on no tap yet, and what a run records of it."""
    model = template.hardware.nic
    slow = _network.vhost_missing(template.accelerator) if model == "virtio" else f"not with {model}"
    nic = Nic("tap", netns.mac_of(netns.SUBNET.network_address), vhost=not slow)
    return replace(template, nic=nic), _network.facts("bridge", *NIC_MODULES[model], vhost=not slow, vhost_reason=slow)
