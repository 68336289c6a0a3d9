"""What is kept of the containers made by hand, on disk:

    DATA/containers/ID/container.json   what was asked for and made of it; written once
    DATA/containers/ID/config.json      its configuration, an OCI bundle's
    DATA/containers/ID/exit.json        how it ended; missing while it runs, and where nobody saw its end
    DATA/containers/ID/log              what it wrote (`logs.py`)
    DATA/containers/ID/lock             held by the process that watches it
    DATA/containers/ID/upper, work      its writable layer
    DATA/volumes/NAME                   volumes (`harness.images.volumes`)
    RUN/.containers/ID                  the runtime's own state, gone with a reboot

`harness clean` looks for the remains of runs by their tokens, and passes over names that begin with a dot.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.container.errors import ContainerError
from harness.container.oci import Runtime
from harness.errors import CapabilityError, UsageError
from harness.host.paths import cache_dir, data_dir, runtime_dir
from harness.images.volumes import Volumes
from harness.model.document import did_you_mean

ID_BYTES = 6
_LOOK_S = 0.02
_FIRST = "amber brave calm clear eager early fair fast firm fresh gentle glad grand keen kind light loyal mild".split()
_SECOND = "ash bay birch brook cedar cliff cove dune elm fern fjord glen grove hill lake linden maple reed".split()


@dataclass(frozen=True, slots=True)
class Record:
    """container.json."""

    id: str
    name: str
    image: str
    digest: str
    tree: str
    command: tuple[str, ...]
    created: str
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str = "none"
    tty: bool = False
    interactive: bool = False
    detached: bool = False
    remove: bool = False
    volumes: tuple[str, ...] = ()
    """Those without a name: they go with the container."""
    stop_signal: str = "SIGTERM"
    stop_timeout_s: int = 10


@dataclass(frozen=True, slots=True)
class Ending:
    """exit.json. `code` is None where nobody saw it; `oom_kills_count` None where the kernel does not count them."""

    code: int | None
    finished: str
    oom_kills_count: int | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """A container as it is now: `created`, `running`, `paused` or `exited`; `pid` is 0 where nothing runs."""

    record: Record
    status: str
    pid: int = 0
    ending: Ending | None = None

    @property
    def is_running(self) -> bool:
        return self.status in {"created", "running", "paused"}


def now() -> str:
    """Return the time as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Home:
    """One container's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"

    def read(self) -> Record:
        """Raises: CapabilityError for a directory whose container.json is missing or damaged."""
        try:
            document = json.loads((self.path / "container.json").read_text())
            known = {entry.name for entry in fields(Record)}
            said: dict[str, Any] = {key: _frozen(value) for key, value in document.items() if key in known}
            return Record(**said)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            hint = f"harness container rm -f {self.path.name} removes what is left"
            raise CapabilityError(f"container: {self.path}: {error}", hint=hint) from error

    def ending(self) -> Ending | None:
        try:
            return Ending(**json.loads((self.path / "exit.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, name: str, content: Mapping[str, Any] | str) -> None:
        """Replace a file as a whole."""
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        partial = self.path / f"{name}.partial"
        partial.write_text(text)
        partial.rename(self.path / name)

    def end(self, ending: Ending) -> None:
        self.write("exit.json", asdict(ending))

    def lock(self) -> int:
        """Take the lock of whoever watches the container, and return it as an fd that keeps it until it is closed."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def is_watched(self) -> bool:
        """Return whether a process of the harness still watches it."""
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def wait_unwatched(self, timeout_ns: int) -> bool:
        """Wait until nobody watches it any more; return whether that is so."""
        deadline_ns = time.monotonic_ns() + timeout_ns
        while self.is_watched():
            if time.monotonic_ns() > deadline_ns:
                return False
            time.sleep(_LOOK_S)
        return True


class Shelf:
    """All containers made by hand of this user on this host."""

    def __init__(self) -> None:
        self.path = data_dir() / "containers"
        self.volumes = Volumes(data_dir())
        self.runtime = Runtime(str(runtime_dir() / ".containers"), cache_dir=str(cache_dir() / "seccomp"))

    def home(self, container_id: str) -> Home:
        return Home(self.path / container_id)

    def ids(self) -> list[str]:
        try:
            return sorted(path.name for path in self.path.iterdir() if path.is_dir() and path.name[0] != ".")
        except FileNotFoundError:
            return []

    def new_id(self) -> str:
        return secrets.token_hex(ID_BYTES)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep others from taking a name meanwhile."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for half_made in self.path.glob(f".{'?' * 2 * ID_BYTES}"):  # by who was killed, or had no room, meanwhile
                shutil.rmtree(half_made, ignore_errors=True)
            yield

    def records(self) -> list[Record]:
        """Return all that can be read, oldest first; what is being removed is not there any more."""
        found = []
        for container_id in self.ids():
            with suppress(CapabilityError):
                found.append(self.home(container_id).read())
        return sorted(found, key=lambda record: (record.created, record.id))

    def free_name(self, wanted: str) -> str:
        """Return the name, or a new one where none is wanted. Raises: UsageError for one that is taken."""
        taken = {record.name: record.id for record in self.records()}
        if wanted in taken:
            hint = f"harness container rm {wanted}, or another name"
            raise UsageError(f"--name: {wanted}: taken by container {taken[wanted]}", hint=hint)
        while not wanted or wanted in taken:
            wanted = f"{secrets.choice(_FIRST)}_{secrets.choice(_SECOND)}"
            wanted += f"_{secrets.randbelow(1000)}" if wanted in taken else ""
        return wanted

    def find(self, text: str) -> str:
        """Return the id of a container by name, id or the beginning of one. Raises: UsageError."""
        names = {record.name: record.id for record in self.records()}
        if text in names:
            return names[text]
        near = [container_id for container_id in self.ids() if text and container_id.startswith(text)]
        if len(near) == 1:
            return near[0]
        if near:
            raise UsageError(f"container: {text}: begins the ids of {len(near)} containers", hint=", ".join(near))
        raise UsageError(
            f"container: {text}: no such container{did_you_mean(text, names)}", hint="harness container ps -a"
        )

    def look(self, record: Record) -> Sight:
        """Return how a container is doing."""
        ending = self.home(record.id).ending()
        if ending is not None:
            return Sight(record, "exited", ending=ending)
        try:
            state, status = self.runtime.state(record.id)
        except ContainerError as error:
            if error.errno not in {0, errno.ENOENT}:
                raise CapabilityError(f"container: {record.name}: {error}", hint="are you root?") from error
            status = "created" if self.home(record.id).is_watched() else "exited"
            return Sight(record, status)
        if status in {"running", "paused"}:
            return Sight(record, status, state.pid)
        return Sight(record, "exited" if status == "stopped" else "created", 0)

    def remove(self, record: Record | None, container_id: str) -> None:
        """Take away everything of a container that does not run. Raises: CapabilityError for what stays."""
        try:
            self.runtime.delete(container_id, force=True)
        except ContainerError as error:
            if error.errno != errno.ENOENT:
                hint = "a process that hangs in the kernel keeps a cgroup; another try may help"
                raise CapabilityError(f"container: {container_id}: {error}", hint=hint) from error
        for volume in record.volumes if record is not None else ():
            with suppress(CapabilityError):
                self.volumes.remove(volume)
        shutil.rmtree(self.home(container_id).path, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what `--rm` promised to, and whose watcher was killed before it could."""
        for record in self.records():
            if record.remove and not self.home(record.id).is_watched() and not self.look(record).is_running:
                self.remove(record, record.id)
