"""Where a driven workload works: inside the instance through its agent, outside from the run's network namespace."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.container import hostroot
from harness.container.errors import ContainerError
from harness.errors import CommandError, TrialError
from harness.host import process
from harness.host.netns import Attachment, RunNetwork
from harness.interfaces import Instance
from harness.loading import cpu_time, generator
from harness.model.spec import RootTree
from harness.model.work import Did, Load, Served

_CLIENT_BYTES = 256 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class InstanceSite:
    """A `harness.interfaces.Site`. `network` is the run's; None where no instance of the run has a bridge.

    The client's programs are the image's own, run in a root over `tree` that exists for this trial alone: no client has
    to be installed on the host, and its version is that of the image.
    """

    def __init__(self, instance: Instance, network: RunNetwork | None, tree: RootTree, scratch: Path) -> None:
        self._instance = instance
        self._network = network
        self._tree = tree
        self._scratch = scratch
        self._root: Path | None = None
        self._meter: cpu_time.Meter | None = None
        self._late: Attachment | None = None

    @property
    def address(self) -> str | None:
        """Where it has none, a container with a network of its own gets one now: some engines join no bridge."""
        if self._network is None:
            return None
        if self._instance.address is None and self._late is None and self._instance.boundary == "container":
            self._late = self._attach_late(self._network)
        return self._instance.address or (None if self._late is None else str(self._late.address))

    def _attach_late(self, network: RunNetwork) -> Attachment | None:
        pid = _with_own_network(self._instance.pids())
        try:
            return None if pid is None else network.attach_process(pid)
        except OSError as error:
            raise TrialError(f"client: network of pid {pid}: {error.strerror}") from error

    def inside(self, argv: Sequence[str], timeout_ns: int) -> Did:
        start_ns = time.monotonic_ns()
        done = self._instance.exec(argv, timeout_ns)
        return Did(done.returncode, done.stdout, done.stderr, time.monotonic_ns() - start_ns)

    def client(self, argv: Sequence[str], timeout_ns: int) -> Did:
        if self._root is None:
            self._root = self._mount()
        with self._in_network():
            env = {"PATH": _PATH, **self._tree.config.env, "LC_ALL": "C", "HOME": "/tmp"}
            start_ns = time.monotonic_ns()
            try:
                done = process.run(["chroot", str(self._root), *argv], timeout_ns=timeout_ns, env=env)
            except CommandError as error:
                raise TrialError(f"client: {error.message}") from error
            took_ns = time.monotonic_ns() - start_ns
        return Did(0, done.stdout, done.stderr, took_ns)

    def client_file(self, path: str) -> bytes:
        if self._root is None:
            raise TrialError(f"client: {path}: no client has run")
        try:
            return (self._root / path.lstrip("/")).read_bytes()
        except OSError as error:
            raise TrialError(f"client: {path}: {error.strerror}") from error

    def serve(self, load: Load) -> Served:
        with self._in_network() as address:
            return generator.run(load, address)

    def cpu_ns(self) -> int | None:
        if self._meter is None:
            self._meter = cpu_time.Meter(self._instance.pids)
        return self._meter.read_ns()

    @contextlib.contextmanager
    def _in_network(self) -> Iterator[str]:
        """Have what is started meanwhile in the run's namespace; yield the instance's address."""
        if self._network is None or self.address is None:
            raise TrialError("client: the instance is not on the run's bridge", hint="network: bridge")
        with self._network.namespace.entered():
            yield self.address

    def _mount(self) -> Path:
        try:
            return Path(hostroot.mount_root(str(self._scratch), str(self._tree.path), _CLIENT_BYTES))
        except ContainerError as error:
            raise TrialError(f"client: {error}") from error

    def close(self) -> None:
        """Remove what was made for clients. Raises: TrialError."""
        if self._late is not None:
            self._late.close()
            self._late = None
        if self._root is not None:
            self._root = None
            try:
                hostroot.unmount_root(str(self._scratch))
            except ContainerError as error:
                raise TrialError(f"client: {error}") from error


def _with_own_network(pids: Sequence[int]) -> int | None:
    """Return a process whose network is not the host's, None without one."""
    host = Path("/proc/thread-self/ns/net").stat().st_ino
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/ns/net").stat().st_ino != host:
                return pid
    return None
