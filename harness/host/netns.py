"""The private network of one run: a network namespace with a bridge in it, to which every instance is attached.

    host's namespace          the run's namespace                      an instance's
    (nothing changes)         harnessTOKEN 10.213.0.1/24, load generator
                                |-- veth3 -------------------------- eth0 10.213.0.3/24   container, process
                                |-- tap4 --------------------------- eth0 10.213.0.4/24   guest (virtio-net)

The namespace has no name on the host: it is held by a file descriptor of this process (and by what runs in it). So the
kernel itself removes it, with bridge, veths and taps, when the last holder ends, even by SIGKILL; a bind mount, as `ip
netns` makes, would stay until somebody unmounts it. What may still run in it after that (a VMM, a load generator) is
found by the bridge, which carries the run's token: see `holders`.

Everything here takes milliseconds and is done before a clock starts; only `Namespace.entered` is cheap (two setns(2)).
Nothing is forwarded anywhere and there is no NAT: the bridge reaches what is attached to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import BackendError, CapabilityError, HarnessError
from harness.host.process import Completed, run

T = TypeVar("T")

# Private to the run, so the same for all runs: what is inside sees the same addresses each time.
SUBNET = ipaddress.IPv4Network("10.213.0.0/24")
MTU_BYTES = 1500
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_LOOPBACK = 1  # the first interface of every namespace (include/net/net_namespace.h, LOOPBACK_IFINDEX)
_BRIDGE = re.compile(r"^\s*harness([0-9a-f]{8}):", re.MULTILINE)  # an interface's name has at most 15 bytes
_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare and os.setns came with Python 3.12


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def _open_own() -> int:
    """Return an fd of the calling thread's network namespace; /proc/self would be the main thread's."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(call: Callable[[], T]) -> T:
    """Return what `call` returns in a thread of its own, whose namespaces end with it."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again, in the thread that asked
            answer.set_exception(error)

    threading.Thread(target=work, name="network", daemon=True).start()
    return answer.result()


class Namespace:
    """A new network namespace, held open by this process; only loopback is in it, and that is down.

    Raises: OSError (EPERM without CAP_SYS_ADMIN).
    """

    def __init__(self) -> None:
        def make() -> int:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            return _open_own()

        self._fd = _in_thread(make)

    @classmethod
    def of(cls, pid: int) -> Namespace:
        """Return the namespace that a process is in, held open by this process too. Raises: OSError."""
        namespace = cls.__new__(cls)
        namespace._fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return namespace

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def path(self) -> str:
        """A path by which any process of root joins it, for as long as it is held here."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns in a thread inside. Raises what it raises."""

        def work() -> T:
            _check(_libc.setns(self._fd, _CLONE_NEWNET), "setns")
            return call()

        return _in_thread(work)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread inside meanwhile, and all processes and threads that it starts for ever."""
        before = _open_own()
        try:
            _check(_libc.setns(self._fd, _CLONE_NEWNET), "setns")
            try:
                yield
            finally:
                _check(_libc.setns(before, _CLONE_NEWNET), "setns back")
        finally:
            os.close(before)

    def close(self) -> None:
        """Let go of it; it goes away with its last process. Again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def _netlink(what: str) -> Iterator[Any]:
    """A netlink socket of the calling thread's namespace. Raises: BackendError with the kernel's reason."""
    iproute = _import_iproute()
    try:
        with iproute() as socket:
            yield socket
    except HarnessError:
        raise
    except Exception as error:  # NetlinkError is no OSError, and asyncio below it has errors of its own
        reason = getattr(error, "code", None) or getattr(error, "errno", None)
        hint = f"the kernel has no {what}: modprobe {what}" if reason == errno.EOPNOTSUPP else None
        raise BackendError(f"network: {what}: {error}", hint=hint) from error


def _import_iproute() -> Any:
    """Return pyroute2's IPRoute, whose import takes 160 ms. Raises: CapabilityError."""
    try:
        from pyroute2 import IPRoute  # noqa: PLC0415
    except ImportError as error:
        raise CapabilityError(
            f"pyroute2: cannot be imported: {error}", hint="scripts/setup installs it (pip install pyroute2)"
        ) from error
    return IPRoute


def isolated() -> Namespace:
    """Return a namespace with nothing but loopback, up. Raises: CapabilityError, BackendError."""
    try:
        namespace = Namespace()
    except OSError as error:
        hint = "run as root" if error.errno == errno.EPERM else "is CONFIG_NET_NS in this kernel?"
        raise CapabilityError(f"network namespace: {error.strerror}", hint=hint) from error

    def up() -> None:
        with _netlink("loopback") as netlink:
            netlink.link("set", index=_LOOPBACK, state="up")

    try:
        namespace.run(up)
    except BaseException:
        namespace.close()
        raise
    return namespace


def mac_of(address: ipaddress.IPv4Address) -> str:
    """Return the locally administered MAC of an address: the same each time, so that no ARP entry can be stale."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x00, *address.packed))


@dataclass(slots=True)
class Attachment:
    """One instance's place on the bridge. `port` is the device in the run's namespace.

    `namespace` is where to start the instance: its own, or the run's for a VMM, which opens the tap there.
    """

    address: ipaddress.IPv4Address
    port: str
    namespace: Namespace
    _retire: Callable[[Attachment], None] = field(repr=False)
    _closed: bool = False

    @property
    def mac(self) -> str:
        return mac_of(self.address)

    def close(self) -> None:
        """Say that the instance has gone. Free of cost: what it held is removed before the next is attached."""
        if not self._closed:
            self._closed = True
            self._retire(self)


class RunNetwork:
    """Namespace and bridge of one run. `run_inside` and `command` are for what plays the client.

    Raises: CapabilityError where the kernel, the privilege or pyroute2 is missing.
    """

    def __init__(self, token: str) -> None:
        self.bridge = f"harness{token}"
        self.namespace = isolated()
        self._addresses = list(SUBNET.hosts())
        self.gateway = self._addresses.pop(0)
        self._retired: list[Attachment] = []
        try:
            self._bridge_index = self.namespace.run(self._make_bridge)
        except BackendError as error:
            self.namespace.close()
            raise CapabilityError(error.message, hint=error.hint) from error
        except BaseException:
            self.namespace.close()
            raise

    def _make_bridge(self) -> int:
        """Its MAC is set, or it would change with its ports; ports forward at once, for there is no loop to look for.

        IPv6 is off on this side, whose announcements would disturb; an instance's own interface has it.
        """
        for name, value in (("ipv4/ip_forward", "0"), ("ipv6/conf/default/disable_ipv6", "1")):
            _set_sysctl(name, value)
        with _netlink("bridge") as netlink:
            netlink.link(
                "add", ifname=self.bridge, kind="bridge", address=mac_of(self.gateway), mtu=MTU_BYTES,
                br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0,
            )  # fmt: skip
            index: int = netlink.link_lookup(ifname=self.bridge)[0]
            netlink.addr("add", index=index, address=str(self.gateway), prefixlen=SUBNET.prefixlen)
            netlink.link("set", index=index, state="up")
        return index

    # -- instances -----------------------------------------------------------------------------------------------

    def attach_namespace(self) -> Attachment:
        """Return a new namespace with eth0 (address, default route, up) on the bridge. Raises: BackendError."""
        self._sweep()
        return self._attach(isolated())

    def attach_process(self, pid: int) -> Attachment:
        """As `attach_namespace`, for the namespace that a process is in already. Raises: BackendError, OSError."""
        self._sweep()
        return self._attach(Namespace.of(pid))

    def _attach(self, inner: Namespace) -> Attachment:
        address = self._take_address()
        port = f"veth{address.packed[-1]}"
        try:
            self.namespace.run(lambda: self._make_veth(port, address, inner.fd))
            inner.run(lambda: self._configure(address))
        except BaseException:
            inner.close()  # and with it the pair
            self._addresses.append(address)
            raise
        return Attachment(address, port, inner, self._retired.append)

    def attach_tap(self) -> Attachment:
        """Return a tap on the bridge, for a VMM that is started in the run's namespace. Raises: BackendError."""
        self._sweep()
        address = self._take_address()
        port = f"tap{address.packed[-1]}"
        try:
            self.namespace.run(lambda: self._make_tap(port))
        except BaseException:
            self._addresses.append(address)
            raise
        return Attachment(address, port, self.namespace, self._retired.append)

    def withhold(self, part: ipaddress.IPv4Network) -> None:
        """Give no instance an address of this part from now on: an engine gives them to its own."""
        self._addresses = [address for address in self._addresses if address not in part]

    def _take_address(self) -> ipaddress.IPv4Address:
        """The one that was free for the longest time."""
        if not self._addresses:
            raise BackendError(f"network: {SUBNET}: all addresses are taken", hint="fewer instances at a time")
        return self._addresses.pop(0)

    def _make_veth(self, port: str, address: ipaddress.IPv4Address, inner: int) -> None:
        """Its peer is made where it belongs: to move it there would take five times as long."""
        with _netlink("veth") as netlink:
            netlink.link(
                "add", ifname=port, kind="veth", mtu=MTU_BYTES, master=self._bridge_index, state="up",
                peer={"ifname": "eth0", "net_ns_fd": inner, "address": mac_of(address), "mtu": MTU_BYTES},
            )  # fmt: skip

    def _configure(self, address: ipaddress.IPv4Address) -> None:
        with _netlink("eth0") as netlink:
            index = netlink.link_lookup(ifname="eth0")[0]
            netlink.addr("add", index=index, address=str(address), prefixlen=SUBNET.prefixlen)
            netlink.link("set", index=index, state="up")
            netlink.route("add", dst="default", gateway=str(self.gateway))

    def _make_tap(self, port: str) -> None:
        with _netlink("tun") as netlink:
            netlink.link("add", ifname=port, kind="tuntap", mode="tap")
            index = netlink.link_lookup(ifname=port)[0]
            netlink.link("set", index=index, mtu=MTU_BYTES, master=self._bridge_index, state="up")

    def _sweep(self) -> None:
        """Remove what retired attachments held."""
        if self._retired:
            self.namespace.run(self._remove_retired)

    def _remove_retired(self) -> None:
        with _netlink("remove") as netlink:
            while self._retired:
                attachment = self._retired[-1]
                for index in netlink.link_lookup(ifname=attachment.port):
                    netlink.link("del", index=index)
                self._retired.pop()
                if attachment.namespace is not self.namespace:
                    attachment.namespace.close()
                self._addresses.append(attachment.address)

    # -- the client's side ---------------------------------------------------------------------------------------

    def run_inside(self, call: Callable[[], T]) -> T:
        """Return what `call` returns in a thread that sees the bridge. Raises what it raises."""
        return self.namespace.run(call)

    def command(self, argv: Sequence[str], *, timeout_ns: int | None = None) -> Completed:
        """Run a command that sees the bridge. Raises: as `harness.host.process.run`."""
        with self.namespace.entered():
            return run(argv, timeout_ns=timeout_ns)

    def close(self) -> None:
        """Remove everything at once, even where a thread of somebody's library still is inside."""
        if self.namespace.fd < 0:
            return
        try:
            self.namespace.run(self._remove_links)
        finally:
            for attachment in self._retired:
                attachment.namespace.close()
            self.namespace.close()

    def _remove_links(self) -> None:
        with _netlink("remove") as netlink:
            for link in netlink.get_links():
                if link["index"] != _LOOPBACK:
                    netlink.link("del", index=link["index"])


def _set_sysctl(name: str, value: str) -> None:
    """Set a value of the calling thread's own network namespace (proc(5): /proc/sys/net is that of the reader)."""
    path = Path("/proc/sys/net") / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except FileNotFoundError:
        return  # a kernel without IPv6
    except OSError as error:
        raise BackendError(f"network: {path}: {error.strerror}", hint="is /proc/sys writable?") from error


# -- what a dead run left --------------------------------------------------------------------------------------------


def holders() -> dict[str, set[int]]:
    """Return the pids of all processes inside a run's namespace, by the run's token; those that we may look at.

    Our own namespace and that of pid 1 are no run's, whatever is in them: a dead run's processes are ended.
    """
    tokens: dict[int, str | None] = {_inode(Path(f"/proc/{who}/ns/net")): None for who in ("thread-self", "1")}
    found: dict[str, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            inode = _inode(entry / "ns" / "net")
            if inode and inode not in tokens:
                match = _BRIDGE.search((entry / "net" / "dev").read_text())
                tokens[inode] = match[1] if match else None
        except OSError:
            continue  # it has ended, or is another user's
        if (token := tokens.get(inode)) is not None:
            found.setdefault(token, set()).add(int(entry.name))
    return found


def _inode(namespace: Path) -> int:
    """Return what tells a namespace from others, 0 where another user's may not be looked at."""
    try:
        return namespace.stat().st_ino
    except PermissionError:
        return 0
