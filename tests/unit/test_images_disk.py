"""A disk that cannot be made because there is no room is told as that, and nothing half made is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import CommandError, ImageError
from harness.images import disk
from harness.model.spec import RootTree


def test_no_room_for_a_disk_is_told_in_one_line_with_what_helps(tmp_path: Path) -> None:
    def make(_tree: RootTree, path: Path) -> None:
        path.write_bytes(b"half")
        raise CommandError(["mkfs.erofs", str(path)], 1, "<E> erofs: [Error 28] No space left on device\n")

    with pytest.raises(ImageError, match=r"^disk of the image sha256:abc: .*: no space left on device$") as caught:
        disk._make(RootTree(tmp_path, "sha256:abc", 0), tmp_path / "disk", make)
    assert "make room" in (caught.value.hint or "")
    assert [*tmp_path.iterdir()] == []


def test_another_failure_of_the_tool_stays_what_it_is(tmp_path: Path) -> None:
    def make(_tree: RootTree, _path: Path) -> None:
        raise CommandError(["mkfs.erofs"], 1, "<E> erofs: cannot read directory")

    with pytest.raises(CommandError, match="cannot read directory"):
        disk._make(RootTree(tmp_path, "sha256:abc", 0), tmp_path / "disk", make)
