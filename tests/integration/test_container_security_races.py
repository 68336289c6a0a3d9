"""Directories that become links while a container is created, on the host and in a volume that two containers share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness.container.errors import ContainerError
from tests.integration.attack_kit import Box, Document, box, compiled, install, until

pytestmark = pytest.mark.needs("root", "overlayfs")

CREATES = 200
CREATES_EACH = 70

# ARGS: two paths. They change places (renameat2(2), RENAME_EXCHANGE) until we are ended.
SWAP = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	int swapped = 0;
	while (syscall(SYS_renameat2, AT_FDCWD, argv[1], AT_FDCWD, argv[2], 2) == 0)
		if (swapped++ == 100)
			dprintf(1, "swapping\n");
	perror("renameat2");
	return 1;
}
"""


@pytest.fixture
def bundle(busybox: Path) -> Iterator[Box]:
    with box(busybox) as made:
        yield made


@pytest.fixture
def outside(bundle: Box) -> Path:
    place = bundle.bundle.parent / "outside"
    place.mkdir()
    (place / "victim").write_text("untouched")
    return place


@contextmanager
def swapping(program: Path, place: Path) -> Iterator[None]:
    with subprocess.Popen([program, place / "dir", place / "link"], stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"swapping\n"
        try:
            yield
            assert swapper.poll() is None, "it swapped to the end"
        finally:
            swapper.kill()


def _mount_below(document: Document, at: str) -> None:
    """Everything that makes or mounts something below `at`."""
    bind = {"type": "bind", "source": "/etc", "options": ["rbind", "ro"]}
    document["mounts"] += [
        {"destination": f"{at}/tmpfs", "type": "tmpfs", "source": "tmpfs"},
        {"destination": f"{at}/a/b/bind", **bind},
        {"destination": f"{at}/victim", **bind, "source": "/etc/hostname"},
    ]
    document["linux"]["devices"] = [{"path": f"{at}/node", "type": "c", "major": 1, "minor": 3}]
    document["linux"]["maskedPaths"] += [f"{at}/victim", at]
    document["linux"]["readonlyPaths"] += [f"{at}/victim", at]
    document["process"]["cwd"] = f"{at}/cwd/deep"


def _names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def _create_again_and_again(bundle: Box, times: int = CREATES) -> dict[str, int]:
    """Return how often it went how: the step that failed, or `created`."""
    seen: dict[str, int] = {}
    runtime = bundle.runtime
    for _ in range(times):
        try:
            runtime.create("c", str(bundle.bundle))
            how = "created"
            runtime.delete("c", force=True)
        except ContainerError as error:
            how = error.step.partition("(")[2].rstrip(")") or error.step
        seen[how] = seen.get(how, 0) + 1
    return seen


def _naive(root: Path, at: str) -> None:
    """What a runtime does that looks first and then goes by the path."""
    for number in range(3000):
        target = root / at.lstrip("/") / f"naive{number}"
        if not (target.parent).is_symlink():
            with suppress(OSError):
                target.mkdir()


def test_swap_in_the_root_never_leads_outside(bundle: Box, outside: Path) -> None:
    """CVE-2021-30465: a path that was checked is another one when it is used. The naive loop shows the race runs."""
    swap = install(compiled(SWAP), bundle.bundle.parent / "swap")
    place = bundle.rootfs / "vol"
    (place / "dir").mkdir(parents=True)
    (place / "link").symlink_to(outside)
    document = bundle.document()
    _mount_below(document, "/vol/dir")
    bundle.write(document)
    with swapping(swap, place):
        seen = _create_again_and_again(bundle)
    assert _names(outside) == ["victim"], seen
    assert (outside / "victim").read_text() == "untouched"
    assert sum(seen.values()) == CREATES
    with swapping(swap, place):
        _naive(bundle.rootfs, "/vol/dir")
    assert _names(outside) != ["victim"], "the race was never won: this test can show nothing"


@pytest.mark.parametrize("target", ["outside", "/", "../../../../../../../.."])
def test_swap_by_another_container_in_a_shared_volume_never_leads_outside(
    target: str, bundle: Box, outside: Path
) -> None:
    """The attack as it was found: one container swaps in the volume while another's mounts below it are made."""
    install(compiled(SWAP), bundle.rootfs / "swap")
    volume = bundle.bundle.parent / "volume"
    (volume / "dir").mkdir(parents=True)
    (volume / "link").symlink_to(outside if target == "outside" else target)
    share = {"destination": "/vol", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]}

    def shared(document: Document) -> None:
        document["mounts"].append(share)

    out = bundle.bundle.parent / "out"
    with out.open("wb") as file, bundle.running("exec /swap /vol/dir /vol/link", "b", change=shared, stdout=file):
        until(out.read_text)
        document = bundle.document()
        document["mounts"].append(share)
        _mount_below(document, "/vol/dir")
        bundle.write(document)
        seen = _create_again_and_again(bundle, CREATES_EACH)
        assert bundle.status("b") == "running"
    assert _names(outside) == ["victim"], seen
    assert (outside / "victim").read_text() == "untouched"
    for name in ("tmpfs", "victim", "node", "cwd"):
        assert not Path("/", name).exists()


def test_swap_of_mount_points_never_has_one_outside(bundle: Box, outside: Path) -> None:
    """A container that was created has its mounts inside; what its mount namespace shows elsewhere escaped."""
    swap = install(compiled(SWAP), bundle.bundle.parent / "swap")
    place = bundle.rootfs / "vol"
    (place / "dir").mkdir(parents=True)
    (place / "link").symlink_to("/etc")
    document = bundle.document()
    document["mounts"].append({"destination": "/vol/dir/m", "type": "tmpfs", "source": "tmpfs"})
    bundle.write(document)
    seen = set()
    with swapping(swap, place):
        for _ in range(60):
            with suppress(ContainerError):
                runtime = bundle.runtime
                pid = runtime.create("c", str(bundle.bundle)).pid
                lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
                seen |= {line.split(" ")[4] for line in lines}
                runtime.delete("c", force=True)
    swapped = {path for path in seen if path.endswith("/m")}
    assert swapped <= {"/etc/m", "/vol/dir/m", "/vol/link/m"}
    assert len(swapped) > 1, "the swap was never met: this test can show nothing"
