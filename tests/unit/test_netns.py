"""What of a run's network needs no privilege to be checked."""

import ipaddress

import pytest

from harness.errors import CapabilityError
from harness.host import netns


@pytest.mark.parametrize(
    ("address", "mac"), [("10.213.0.1", "02:00:0a:d5:00:01"), ("10.213.0.254", "02:00:0a:d5:00:fe")]
)
def test_an_addresses_mac_is_its_own_local_and_unicast(address, mac):
    assert netns.mac_of(ipaddress.IPv4Address(address)) == mac
    assert int(mac[:2], 16) & 0b11 == 0b10  # IEEE 802: locally administered, not a group


def test_pyroute2_is_not_imported_before_a_network_is_made():
    import subprocess
    import sys

    code = "import sys, harness.host.netns, harness.backends.libvirt; raise SystemExit('pyroute2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_pyroute2_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyroute2", None)
    with pytest.raises(CapabilityError, match="pyroute2: cannot be imported") as caught:
        netns._import_iproute()
    assert "pip install pyroute2" in caught.value.hint
