"""Whatever config.json says, `create` works or says in one line what is wrong, with exit code 1; nothing is left.

Real creates: every mutation of a rich document goes through the command line. None of them can touch the host: what is
written are the container's own groups and namespaces, the program is never executed, hooks are /bin/true.
HARNESS_FUZZ_CASES and HARNESS_FUZZ_SEEDS ask for more, or others.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.container import cli, mountinfo
from tests.integration.attack_kit import MIB, Box, Document, box, until

pytestmark = pytest.mark.needs("root", "overlayfs")

CASES = int(os.environ.get("HARNESS_FUZZ_CASES", "160"))
SEEDS = tuple(map(int, os.environ.get("HARNESS_FUZZ_SEEDS", "1 2").split()))

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, -(2**63), 10**400, 1.5, float("inf"), "",
    "x", "..", "a/../b", "../../x", "\0", "a\0b", "\ud800", "é\u202e", "%s%n", "x" * 300, "y" * 70000, "\n", "-1",
    "0x10", "CAP_SYS_ADMIN", "CAP_NOPE", "SCMP_ACT_KILL", "RLIMIT_CORE", "mount", "user", "cgroup", "tmpfs", "rbind",
    "bind", "shared", "rshared", "/nonexistent/x", "0-1", "999", [], [[]], {}, {"a": 1}, [None], ["x"], [1], [{}],
    [[]] * 50,
)  # fmt: skip

# What an error may begin with: the field of the document, or the step that the kernel refused.
NAMED = re.compile(
    r"harness-oci: (config\.json: \S|step \d+ \([a-z_-]+\)|cgroup: \S|linux\.\S|seccomp: |hook: /|terminal: |"
    r"user namespace: |plan: \S|sync \w+: |launcher: ended)"
)


@pytest.fixture(scope="module")
def bundle(busybox: Path) -> Iterator[Box]:
    with box(busybox) as made:
        yield made


def rich(bundle: Box) -> Document:
    """A document with something of nearly every kind, that can be created."""
    document = bundle.document()
    hook = {"path": "/bin/true", "args": ["true", "x"], "env": ["A=b"], "timeout": 5}
    document["process"].update(
        user={"uid": 5, "gid": 6, "umask": 18, "additionalGids": [7]}, oomScoreAdj=100, cwd="/work",
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 4}, scheduler={"policy": "SCHED_BATCH", "nice": 1},
    )  # fmt: skip
    document.update(
        domainname="example.org", annotations={"org.example": "x"},
        hooks={point: [dict(hook)] for point in ("createRuntime", "createContainer", "startContainer", "poststop")},
    )  # fmt: skip
    document["mounts"] += [
        {"destination": "/data", "type": "bind", "source": str(bundle.bundle / "volume"), "options": ["rbind", "ro"]},
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "nosuid", "rprivate"]},
    ]
    document["linux"]["namespaces"].append({"type": "time"})
    document["linux"].update(
        sysctl={"net.ipv4.ip_forward": "1"}, timeOffsets={"monotonic": {"secs": 1, "nanosecs": 1}},
        rootfsPropagation="rprivate", personality={"domain": "LINUX"},
        devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
        seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]},
    )  # fmt: skip
    document["linux"]["resources"].update(
        memory={"limit": 64 * MIB, "swap": 64 * MIB},
        pids={"limit": 50},
        cpu={"shares": 512, "quota": 50000, "period": 100000},
    )
    return document


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in list(pairs):
            found += _places(entry, (*path, key))
    return found


def _mutate(document: Document, chance: random.Random) -> str:
    """Change one place; return which, and how."""
    path = chance.choice(_places(document))
    holder: Any = document
    for key in path[:-1]:
        holder = holder[key]
    last = path[-1]
    kind = chance.choice(["junk", "junk", "junk", "remove", "double", "wrap", "rename"])
    if kind == "remove":
        del holder[last]
    elif kind == "double" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[last]))
    elif kind == "wrap":
        holder[last] = [holder[last]]
    elif kind == "rename" and isinstance(holder, dict):
        holder[f"{last}x"] = holder.pop(last)
    else:
        holder[last] = copy.deepcopy(chance.choice(JUNK))
    return f"{'.'.join(map(str, path))}: {kind}"


def _is_harmless(document: Document) -> bool:
    """Without a mount namespace, or with the mounts shared, nothing here is the container's own; hooks must be ours."""
    with suppress(Exception):
        return "/bin/true" in json.dumps(document.get("hooks", "/bin/true")) or not document["hooks"]
    return True


def _create(bundle: Box, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return exit code and stderr of one real `create`, and delete what it made."""
    code = cli.main(["--root", str(bundle.state), "create", "--bundle", str(bundle.bundle), "c"])
    said = capsys.readouterr().err
    if code == 0:
        assert cli.main(["--root", str(bundle.state), "delete", "--force", "c"]) == 0, capsys.readouterr().err
    return code, said


def _check(bundle: Box, code: int, said: str, what: str) -> None:
    assert code in {0, 1}, (what, code, said)
    errors = [line for line in said.splitlines(keepends=True) if not line.startswith("harness-oci: warning: ")]
    assert len(errors) == code, (what, said)
    for error in errors:
        assert NAMED.match(error), (what, error)
        assert len(error) < 1500, (what, len(error))
    assert list(bundle.state.glob("[!.]*")) == [], what
    assert mountinfo.below(str(bundle.bundle.parent)) == (), what


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_documents_work_or_say_what_is_wrong(
    seed: int, bundle: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle.bundle / "volume").mkdir(exist_ok=True)
    good = rich(bundle)
    bundle.write(good)
    code, said = _create(bundle, capsys)
    assert code == 0, said
    chance = random.Random(seed)
    codes = [0, 0]
    for _ in range(CASES // len(SEEDS)):
        document = copy.deepcopy(good)
        what = "; ".join(_mutate(document, chance) for _ in range(chance.choice([1, 1, 1, 2, 4])))
        if not _is_harmless(document):
            continue
        bundle.write(document)
        code, said = _create(bundle, capsys)
        _check(bundle, code, said, what)
        codes[code] += 1
    assert min(codes) > 5, f"too one-sided to show anything: {codes}"
    until(lambda: not bundle.leftovers())


RAW: dict[str, bytes] = {
    "empty": b"", "null": b"null", "number": b"1", "list": b"[]", "string": b'"x"', "cut": b'{"ociVersion": "1.2',
    "not UTF-8": b'{"ociVersion": "\xff"}', "UTF-16": '{"a": 1}'.encode("utf-16"), "BOM": b"\xef\xbb\xbf{}",
    "deep": b"[" * 200_000, "deep objects": b'{"a":' * 100_000, "NaN": b'{"ociVersion": NaN}', "NULs": b"\0" * 100,
    "huge": b'{"a": "' + b"x" * (9 << 20) + b'"}', "digits": b'{"ociVersion": ' + b"9" * 100_000 + b"}",
    "two": b"{} {}", "object": b"{}", "version": b'{"ociVersion": "9.0.0"}', "trailing": b'{"ociVersion": "1.0.0",}',
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(RAW))
def test_bytes_that_are_no_document_are_refused(what: str, bundle: Box, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle.bundle / "config.json").write_bytes(RAW[what])
    code, said = _create(bundle, capsys)
    assert code == 1
    assert said.startswith("harness-oci: ")
    assert "config.json" in said
    assert said.count("\n") == 1
    assert len(said) < 500
    assert list(bundle.state.glob("[!.]*")) == []


@pytest.mark.parametrize("what", ["missing", "directory", "no bundle"])
def test_file_that_cannot_be_read_is_named(what: str, bundle: Box, capsys: pytest.CaptureFixture[str]) -> None:
    path = bundle.bundle / "config.json"
    path.unlink(missing_ok=True)
    if what == "directory":
        path.mkdir()
    place = bundle.bundle / "nowhere" if what == "no bundle" else bundle.bundle
    code = cli.main(["--root", str(bundle.state), "create", "--bundle", str(place), "c"])
    said = capsys.readouterr().err
    assert code == 1
    assert "config.json" in said
    assert list(bundle.state.glob("[!.]*")) == []
    path.rmdir() if what == "directory" else path.unlink(missing_ok=True)


def test_state_that_is_too_long_for_a_hook_is_an_error(bundle: Box, capsys: pytest.CaptureFixture[str]) -> None:
    document = bundle.document()
    document["annotations"] = {"long": "x" * 300_000}
    document["hooks"] = {"createContainer": [{"path": "/bin/true"}]}
    bundle.write(document)
    code, said = _create(bundle, capsys)
    assert code == 1
    assert re.match(r"harness-oci: sync hooks: a state of 300\d+ bytes: Message too long\n$", said), said
    assert list(bundle.state.glob("[!.]*")) == []
