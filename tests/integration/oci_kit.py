"""What the tests of `harness-oci` share: a `--root` of one's own, bundles, and the real command line.

A test calls the installed program, never the library, so that it sees what an engine would see. Output goes to files: a
container that goes on keeps its streams open long after the command has ended.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.container import config_example

PROGRAM = str(Path(sys.executable).with_name("harness-oci"))
TIMEOUT_S = 60
Document = dict[str, Any]
Change = Callable[[Document], None]


def until(condition: Callable[[], object], what: str = "the condition", seconds: float = 10) -> None:
    """Wait until a condition holds, and fail if it never does."""
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, f"still not true after {seconds} s: {what}"
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Result:
    """A command that ended: its exit code, and what was written to its streams so far."""

    code: int
    stdout: Path
    stderr: Path

    @property
    def out(self) -> str:
        return self.stdout.read_text()

    @property
    def err(self) -> str:
        return self.stderr.read_text()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


# -- bundles ---------------------------------------------------------------------------------------------------------


def document(tree: Path, script: str | Sequence[str]) -> Document:
    """Return config.json of the runtime's own example, which runs a script (or arguments) on a writable root."""
    made: Document = config_example.example()
    made["root"] = {"path": str(tree), "readonly": False}
    made["process"]["terminal"] = False
    made["process"]["args"] = ["/bin/sh", "-c", script] if isinstance(script, str) else list(script)
    return made


def bundle(tree: Path, script: str | Sequence[str] = "true", change: Change | None = None) -> Path:
    """Write a bundle beside a tree; `change` edits its config.json."""
    made = document(tree, script)
    if change is not None:
        change(made)
    return write_bundle(tree.parent, made)


def write_bundle(directory: Path, made: Document) -> Path:
    path = directory / f"bundle-{secrets.token_hex(4)}"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(made))
    return path


def namespaces(made: Document, **changes: str | None) -> None:
    """Change namespaces by type: a path, "" for a new one, None for the host's."""
    kept = [entry for entry in made["linux"]["namespaces"] if entry["type"] not in changes]
    more = [{"type": kind, **({"path": path} if path else {})} for kind, path in changes.items() if path is not None]
    made["linux"]["namespaces"] = [*kept, *more]


def mount(made: Document, destination: str, kind: str, source: str, *options: str) -> None:
    made["mounts"].append({"destination": destination, "type": kind, "source": source, "options": list(options)})


def bind(made: Document, source: Path | str, destination: str, *options: str) -> None:
    mount(made, destination, "bind", str(source), *(options or ("rbind",)))


def map_ids(made: Document, outside: int = 100000, size: int = 65536) -> None:
    """Give the container a user namespace of its own whose root is `outside`."""
    namespaces(made, user="")
    for key in ("uidMappings", "gidMappings"):
        made["linux"][key] = [{"containerID": 0, "hostID": outside, "size": size}]


@dataclass(frozen=True, slots=True)
class MountLine:
    """A line of mountinfo (proc(5))."""

    parent: int
    root: str
    target: str
    options: frozenset[str]
    propagation: str
    type: str
    source: str
    data: frozenset[str]


def mounts_in(lines: Sequence[str]) -> dict[str, MountLine]:
    """Return mountinfo by mount point; the topmost where there are several."""
    found = {}
    for line in lines:
        left, _, right = line.partition(" - ")
        words, tail = left.split(" "), right.split(" ")
        found[words[4]] = MountLine(
            int(words[1]), words[3], words[4], frozenset(words[5].split(",")), " ".join(words[6:]),
            tail[0], tail[1], frozenset(tail[2].split(",")),
        )  # fmt: skip
    return found


# -- the command line ------------------------------------------------------------------------------------------------


class Oci:
    """The program with a `--root` of its own. What `at` yields leaves no container behind."""

    def __init__(self, root: Path, prefix: Sequence[str] = (PROGRAM,), env: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.logs = root.parent / f"{root.name}-logs"
        self.logs.mkdir(exist_ok=True)
        self.prefix = tuple(prefix)
        self.env = dict(os.environ if env is None else env)

    @classmethod
    @contextmanager
    def at(cls) -> Iterator[Oci]:
        """Yield a runtime whose states lie where a mapped root may go, as below /run."""
        with tempfile.TemporaryDirectory(prefix="harness-oci-test-", dir="/run") as name:
            Path(name).chmod(0o711)
            runtime = cls(Path(name) / "state")
            try:
                yield runtime
            finally:
                runtime.remove_all()

    def remove_all(self) -> None:
        """End and remove every container. Fails if one stays."""
        for container_id in self.call("list", "-q").lines:
            self.call("delete", "--force", container_id)
        left = self.call("list", "-q")
        assert left.code == 0, left.err
        assert not left.out, f"not deleted: {left.out}"

    def argv(self, *words: str | Path) -> list[str]:
        return [*self.prefix, "--root", str(self.root), *map(str, words)]

    def popen(self, *words: str | Path, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv(*words), **{"env": self.env, **more})

    def call(self, *words: str | Path, stdin: bytes = b"", **more: Any) -> Result:
        """Run a command to its end, whatever its exit code."""
        token = secrets.token_hex(4)
        result = Result(0, self.logs / f"{token}.out", self.logs / f"{token}.err")
        given = self.logs / f"{token}.in"
        given.write_bytes(stdin)
        with given.open("rb") as source, result.stdout.open("wb") as out, result.stderr.open("wb") as err:
            code = subprocess.run(
                self.argv(*words), stdin=source, stdout=out, stderr=err, timeout=TIMEOUT_S, check=False,
                **{"env": self.env, **more},
            ).returncode  # fmt: skip
        return Result(code, result.stdout, result.stderr)

    def ok(self, *words: str | Path, **more: Any) -> Result:
        """Run a command that must succeed."""
        result = self.call(*words, **more)
        assert result.code == 0, f"{' '.join(map(str, words))}: exit code {result.code}: {result.err}{result.out}"
        return result

    def error(self, *words: str | Path, **more: Any) -> str:
        """Run a command that must fail by saying why; return what it said. (`exec` fails with 255, as runc's does.)"""
        result = self.call(*words, **more)
        assert result.code == (255 if words[0] == "exec" else 1), (
            f"{' '.join(map(str, words))}: exit code {result.code}: {result.err}{result.out}"
        )
        assert "harness-oci: " in result.err, result.err
        assert "Traceback" not in result.err, result.err
        return result.err

    # -- containers ------------------------------------------------------------------------------------------------

    def run(self, path: Path, *options: str, **more: Any) -> Result:
        """Run a bundle in the foreground, whatever its exit code."""
        return self.call("run", *options, "--bundle", path, new_id(), **more)

    def output(self, path: Path, *options: str, **more: Any) -> list[str]:
        """Return the lines that a bundle's program writes; it must end with 0."""
        result = self.run(path, *options, **more)
        assert result.code == 0, f"exit code {result.code}: {result.err}{result.out}"
        return result.lines

    def refused(self, path: Path, *options: str, **more: Any) -> str:
        """Return why a bundle cannot be created; nothing of it is left."""
        container_id = new_id()
        said = self.error("create", *options, "--bundle", path, container_id, **more)
        assert container_id not in self.call("list", "-q").lines
        return said

    @contextmanager
    def created(self, path: Path, *options: str, **more: Any) -> Iterator[str]:
        """Yield the id of a created container; it is deleted at the end."""
        container_id = new_id()
        self.ok("create", *options, "--bundle", path, container_id, **more)
        try:
            yield container_id
        finally:
            self.ok("delete", "--force", container_id)

    @contextmanager
    def running(self, path: Path, *options: str, **more: Any) -> Iterator[str]:
        """Yield the id of a container whose program was executed."""
        with self.created(path, *options, **more) as container_id:
            self.ok("start", container_id)
            yield container_id

    def state(self, container_id: str) -> Document:
        made: Document = json.loads(self.ok("state", container_id).out)
        return made

    def status(self, container_id: str) -> str:
        return str(self.state(container_id)["status"])

    def pid(self, container_id: str) -> int:
        return int(self.state(container_id)["pid"])

    def inside(self, container_id: str, script: str, *options: str) -> list[str]:
        """Return the lines that a shell added to a container writes."""
        return self.ok("exec", *options, container_id, "/bin/sh", "-c", script).lines

    def await_status(self, container_id: str, status: str) -> None:
        until(lambda: self.status(container_id) == status, f"{container_id} is {status}")


def new_id() -> str:
    return f"t-{secrets.token_hex(4)}"


def namespace_of(pid: int | str, kind: str) -> str:
    """Return what identifies a namespace of a process; `kind` as in /proc/PID/ns."""
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def children_named(text: str) -> set[int]:
    """Return the processes of the host with a text in their command lines."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if text.encode() in words:
            found.add(int(path.parent.name))
    return found - {os.getpid()}
