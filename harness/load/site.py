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
from harness.host.netns import RunNetwork
from harness.interfaces import Instance
from harness.load import cpu_time, generator
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

    @property
    def address(self) -> str | None:
        return self._instance.address if self._network is not None else None

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
        if self._root is not None:
            self._root = None
            try:
                hostroot.unmount_root(str(self._scratch))
            except ContainerError as error:
                raise TrialError(f"client: {error}") from error
