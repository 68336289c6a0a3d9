"""Which network an arm gets, and what is said of it."""

from pathlib import Path

import pytest

from harness.backends import _network, _nic
from harness.errors import BackendError, CapabilityError
from harness.interfaces import ArmSpec
from harness.model.spec import Limits, RootTree, WorkloadSpec


def arm(network):
    return ArmSpec("vm", RootTree(Path("/tree"), "", 0), WorkloadSpec(("/run",)), Limits(), network)


def test_the_scenarios_word_wins_over_the_backends_default():
    assert _network.choose(arm(None), "none", {}) == "none"
    assert _network.choose(arm("bridge"), "none", {}) == "bridge"


def test_a_guest_is_told_why_it_cannot_have_the_hosts_network_and_what_it_can_have():
    with pytest.raises(CapabilityError, match=r"^vm: network: host: a VM has a network stack of its own") as caught:
        _network.choose(arm("host"), "none", _nic.refused(by_daemon=False))
    assert caught.value.hint == "give vm a network of its own in runtimes: none or bridge"


def test_a_guest_of_a_daemon_can_have_none_alone():
    assert set(_nic.refused(by_daemon=True)) == {"host", "bridge"}


def test_only_a_bridge_has_a_driver():
    assert _network.facts("none") == {"kind": "none"}
    assert _network.facts("host", "veth") == {"kind": "host"}
    assert _network.facts("bridge", "veth") == {
        "kind": "bridge",
        "driver": "veth",
        "mtu_bytes": 1500,
        "subnet": "10.213.0.0/24",
    }


def test_vhost_is_for_kvm_and_says_what_is_missing(monkeypatch, tmp_path):
    assert _network.vhost_missing("tcg") == "only with KVM"
    monkeypatch.setattr(_network, "_VHOST", tmp_path / "vhost-net")
    assert _network.vhost_missing("kvm") == f"{tmp_path}/vhost-net: No such file or directory"
    (tmp_path / "vhost-net").touch()
    assert _network.vhost_missing("kvm") == ""


def without_tun(network):
    raise BackendError("network: tun: no such device", hint="modprobe tun")


def test_what_the_kernel_lacks_is_told_before_the_run_and_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(_network.netns, "RunNetwork", Counted)
    closed = Counted.closed
    with pytest.raises(CapabilityError, match="network: tun: no such device") as caught:
        _network.acquire_proven("0123abcd", without_tun)
    assert caught.value.hint == "modprobe tun"
    assert Counted.closed == closed + 1


class Counted:
    made = 0
    closed = 0

    def __init__(self, token):
        Counted.made += 1

    def close(self):
        Counted.closed += 1


def test_a_runs_network_is_made_once_and_goes_with_its_last_arm(monkeypatch):
    monkeypatch.setattr(_network.netns, "RunNetwork", Counted)
    monkeypatch.setattr(Counted, "made", 0)
    monkeypatch.setattr(Counted, "closed", 0)
    first, second = _network.acquire("0123abcd"), _network.acquire("0123abcd")
    assert first is second
    _network.release("0123abcd")
    assert (Counted.made, Counted.closed) == (1, 0)
    _network.release("0123abcd")
    assert (Counted.made, Counted.closed) == (1, 1)
    assert _network.acquire("0123abcd") is not first
    _network.release("0123abcd")
