"""What a file system costs, measured from inside by the agent's own `iobench`: one program, whatever the image holds.

Durations are taken inside, with the clock of the kernel that does the work, and are never subtracted from the host's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median
from typing import Any

from pydantic import BaseModel, Field

from harness.errors import UsageError
from harness.interfaces import Workload
from harness.model.fields import DurationNs, SizeBytes, Strict
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.spec import ImageConfig, Ready, WorkloadSpec
from harness.workloads._options import DEFAULT_PATH, AbsolutePath

PROGRAM = "harness:iobench"
SCHEMA = "harness.iobench/1"
MOST_FILES = 1_000_000

_SIZES = {4 << 10: "4k", 1 << 20: "1m", 16 << 20: "16m"}
_FIRST = (
    "open a file of {}, there and in the page cache, for writing, write one byte, close; median over the files. In a "
    "union of layers this copies the file up"
)
FIRST_WRITE = {
    size: Metric(f"storage.first_write.{name}", Unit.NS, Better.LOWER, _FIRST.format(text))
    for (size, name), text in zip(_SIZES.items(), ("4 KiB", "1 MiB", "16 MiB"), strict=True)
}
METADATA = {
    name: Metric(f"storage.{name}", Unit.NS, Better.LOWER, f"{text}; mean over all files")
    for name, text in {
        "lookup": "look a name up in the directory that is not there, for the first time: in a union, in every layer",
        "create": "create an empty file",
        "stat": "stat a file that was just created",
        "rename": "rename a file within its directory",
        "unlink": "remove a file",
    }.items()
}
WRITE = Metric(
    "storage.write", Unit.BYTES_PER_S, Better.HIGHER, "write one file in blocks of 1 MiB, until fsync has returned"
)
READ = Metric(
    "storage.read",
    Unit.BYTES_PER_S,
    Better.HIGHER,
    "read it again in blocks of 1 MiB, after the kernel inside was asked to drop its pages; a host may still have them",
)
WALK = Metric("storage.walk", Unit.NS, Better.LOWER, "list a tree of directories and stat all that is in it; per entry")

# include/uapi/linux/magic.h; the numbers that statfs(2) gives.
FILESYSTEMS = {
    0x794C7630: "overlay", 0xEF53: "ext4", 0x01021994: "tmpfs", 0x01021997: "9p", 0x65735546: "fuse",
    0x9123683E: "btrfs", 0x58465342: "xfs", 0xE0F5E1E2: "erofs", 0x61756673: "aufs", 0x858458F6: "ramfs",
}  # fmt: skip


class FirstWrites(Strict):
    """How many files of each size are written to for the first time; 0 leaves a size out."""

    kib4: int = Field(default=16, ge=0, le=10_000, alias="4KiB", description="files of 4 KiB")
    mib1: int = Field(default=4, ge=0, le=10_000, alias="1MiB", description="files of 1 MiB")
    mib16: int = Field(default=1, ge=0, le=10_000, alias="16MiB", description="files of 16 MiB")


class Walk(Strict):
    """The tree that is listed: so many files, and above the deepest level so many directories, in each directory."""

    depth: int = Field(default=3, ge=1, le=32, description="levels of directories")
    fanout: int = Field(default=4, ge=1, le=1000, description="files, and directories, in each directory")


class Options(Strict):
    """`workload: {kind: storage, directory: /data}`"""

    directory: AbsolutePath = Field(description="where it works, inside; it must be there and writable")
    first_write: FirstWrites = Field(default=FirstWrites(), description="files to write one byte into, by size")
    metadata: int = Field(
        default=1000, ge=0, le=MOST_FILES, description="files to create, stat, rename, remove; 0: none"
    )
    sequential_bytes: SizeBytes = Field(
        default=32 << 20, ge=0, alias="sequential", description="file to write and read; 0: none"
    )
    walk: Walk | None = Field(default=Walk(), description="tree to list; null: none")
    timeout_ns: DurationNs = Field(default=120_000_000_000, gt=0, alias="timeout", description="how long all may take")


class _Storage:
    name = "storage"
    doc = "measures a directory from inside: first writes, metadata, sequential I/O, listing; ready when it is done"
    options = Options
    metrics = (*FIRST_WRITE.values(), *METADATA.values(), WRITE, READ, WALK)

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        """Raises: UsageError when nothing is left to measure."""
        assert isinstance(options, Options)
        parts = tuple(_parts(options))
        if not parts:
            raise UsageError("workload: every part is left out: there is nothing to measure")
        return WorkloadSpec(
            argv=(PROGRAM, options.directory, *parts),
            env={"PATH": DEFAULT_PATH},
            ready=Ready("exit"),
            timeout_ns=options.timeout_ns,
        )

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """Return what `iobench` measured; what the scenario did not ask for is Absent. Raises: ValueError."""
        answer = _answer(stdout)
        magic = _count(answer, "filesystem")
        labels = {"filesystem": FILESYSTEMS.get(magic, f"{magic:#x}")}
        found = {item.metric.name: item for part in answer["parts"] for item in _measured(part, labels)}
        return [found.get(metric.name, Absent(metric, "not asked for in this scenario")) for metric in self.metrics]


def _parts(options: Options) -> Iterator[str]:
    """Yield the arguments of `iobench`. The tree comes first: no other part shall have looked its names up before."""
    if options.walk:
        yield f"walk={options.walk.depth}:{options.walk.fanout}"
    first = options.first_write
    for size, count in zip(_SIZES, (first.kib4, first.mib1, first.mib16), strict=True):
        if count:
            yield f"first_write={size}:{count}"
    if options.metadata:
        yield f"metadata={options.metadata}"
    if options.sequential_bytes:
        yield f"sequential={options.sequential_bytes}"


def _answer(stdout: bytes) -> Mapping[str, Any]:
    """Return what was printed. In a guest it may be anything; nothing of its shape is taken on trust."""
    try:
        answer = json.loads(stdout)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(answer, dict) or answer.get("schema") != SCHEMA or not isinstance(answer.get("parts"), list):
        raise ValueError(f"no answer of the schema {SCHEMA}")
    return answer


def _count(part: Mapping[str, Any], key: str) -> int:
    value = part.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"{key}: expected a number, got {value!r}")
    return value


def _origin(part: Mapping[str, Any]) -> dict[str, str]:
    return {"files": "made before" if _count(part, "made") else "found there"}


def _measured(part: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Measurement]:
    kind = part.get("part") if isinstance(part, dict) else None
    if kind not in _READERS:
        raise ValueError(f"{kind!r}: an unknown part")
    yield from _READERS[kind](part, labels)


def _first_write(part: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Measurement]:
    size, times = _count(part, "bytes"), part.get("ns")
    if not isinstance(times, list) or len(times) != _count(part, "count") or size not in FIRST_WRITE:
        raise ValueError(f"first_write of {size} bytes: not one time for each file")
    values = [_count({"ns": value}, "ns") for value in times]
    yield Measurement(FIRST_WRITE[size], round(median(values)), {**labels, **_origin(part)})


def _metadata(part: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Measurement]:
    for name, metric in METADATA.items():
        yield Measurement(metric, _ratio(_count(part, f"{name}_ns"), _count(part, "count")), labels)


def _sequential(part: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Measurement]:
    for metric, key in ((WRITE, "write_ns"), (READ, "read_ns")):
        yield Measurement(metric, _ratio(_count(part, "bytes") * 10**9, _count(part, key)), labels)


def _walk(part: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Measurement]:
    yield Measurement(WALK, _ratio(_count(part, "ns"), _count(part, "count")), {**labels, **_origin(part)})


def _ratio(amount: int, number: int) -> int:
    if number < 1:
        raise ValueError("nothing was done, or it took no time")
    return round(amount / number)


_Reader = Callable[[Mapping[str, Any], Mapping[str, str]], Iterator[Measurement]]
_READERS: dict[str, _Reader] = {
    "first_write": _first_write,
    "metadata": _metadata,
    "sequential": _sequential,
    "walk": _walk,
}

PLUGIN: Workload = _Storage()
