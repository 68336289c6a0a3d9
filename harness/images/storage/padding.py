"""Layers that change nothing of a tree: a stack of any depth shows the same files, and has the same root digest.

Each restates the directories at the top of the tree, with their attributes. So every one of them is looked into when a
path is resolved, as a real layer would be: an empty directory would be passed by at the first name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from harness.images.storage.applying import copy_attributes


def pad(tree: Path, count: int, place: Path) -> Sequence[Path]:
    """Make `count` such layers of a tree below `place`; return their directories, lowest first."""
    layers = []
    for number in range(count):
        layer = place / f"pad-{number:03}"
        layer.mkdir(parents=True)
        with os.scandir(tree) as entries:
            tops = sorted(entry.name for entry in entries if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode))
        for name in tops:
            (layer / name).mkdir()
            copy_attributes(tree / name, layer / name)
        copy_attributes(tree, layer)
        layers.append(layer)
    return layers
