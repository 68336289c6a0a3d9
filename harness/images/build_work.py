"""What makes the layers of a build: files copied, directories made, commands run, over the layers so far.

What only that needs is imported when it is done: a build in which nothing changed does none of it.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CapabilityError
from harness.images import oci
from harness.images.build_steps import Copy, Origin, Run
from harness.images.context import Context, Found
from harness.images.files import Files
from harness.images.oci import Layer
from harness.images.store import BlobWriter, Store

if TYPE_CHECKING:
    from harness.images.build_run import RunFailed
    from harness.images.merged import Merged
    from harness.images.pack import LayerWriter, Owner

_TAIL_LINES = 20
_AS_ROOT = "run as root: only root can unpack the owners of files"


@dataclass(slots=True)
class Workshop:
    """Where the steps of one build are done. `stages` are the layers of those that are finished."""

    store: Store
    scratch: Path
    context: Context
    epoch_s: int | None
    stages: dict[int, tuple[Layer, ...]]
    _count: int = 0

    def now(self) -> str:
        """Return the time that the image tells of what is done now."""
        at = datetime.now(UTC) if self.epoch_s is None else datetime.fromtimestamp(self.epoch_s, UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")

    # Trees

    def layers_of(self, origin: Origin) -> tuple[Layer, ...]:
        """Return the layers of an earlier stage or of an image. Raises: ImageError."""
        return self.stages[origin.stage] if origin.kind == "stage" else self.store.find(origin.name).layers

    def files(self, origin: Origin | None) -> Files:
        """Return what COPY takes from. Raises: CapabilityError where owners cannot be read."""
        if origin is None:
            return self.context
        if os.geteuid() != 0:
            raise CapabilityError(f"--from={origin}: not root", hint=_AS_ROOT)
        from harness.images.tree_files import TreeFiles

        return TreeFiles(self.tree(self.layers_of(origin)), f"{origin}")

    def tree(self, layers: Sequence[Layer]) -> Merged:
        from harness.images.merged import Merged

        return Merged(self._directories(layers))

    def _directories(self, layers: Sequence[Layer]) -> tuple[Path, ...]:
        """Return layers as directories, unpacked where they are not yet."""
        from harness.images.layers import Budget, LayerReader

        if not layers:
            return ()
        if os.geteuid() == 0:
            from harness.images.stack import open_chain

            return open_chain(self.store, layers).directories
        from harness.images.unpack import Unpacker

        tree = self._fresh()
        unpacker = Unpacker(tree, Budget(), owners=False)
        for layer in layers:
            with self.store.open_blob(layer.blob) as packed:
                unpacker.apply(LayerReader(packed, "layer", Budget()))
        unpacker.finish()
        return (tree,)

    def _fresh(self) -> Path:
        self._count += 1
        path = self.scratch / str(self._count)
        path.mkdir()
        return path

    # Steps

    def make_directory(self, path: str, layers: Sequence[Layer]) -> Layer | None:
        """Make a directory that is not there yet, and those above it."""
        tree = self.tree(layers)
        names = tree.canonical(os.fsencode(path))
        missing = [names[:depth] for depth in range(1, len(names) + 1) if tree.status(names[:depth]) is None]

        def write(writer: LayerWriter) -> None:
            for place in missing:
                writer.directory(b"/".join(place))

        return self._layer(write) if missing else None

    def copy(self, action: Copy, sources: tuple[Found, ...], files: Files, layers: Sequence[Layer]) -> Layer | None:
        """Copy what was found. Raises: ContextError, UsageError for an unknown owner."""
        from harness.images.copying import Copier, plan_copy

        tree = self.tree(layers)
        plan = plan_copy(action, sources, files, tree, _owner(action.owner, tree))
        return self._layer(lambda writer: Copier(plan, files, tree, writer).copy())

    def _layer(self, write: Callable[[LayerWriter], None]) -> Layer | None:
        """Store what `write` writes as a layer; nothing written is no layer."""
        from harness.images.pack import LayerWriter

        count = 0

        def fill(out: BlobWriter) -> None:
            nonlocal count
            with LayerWriter(out, None, self.epoch_s) as writer:
                write(writer)
                count = writer.count

        blob = self.store.add_blob(oci.LAYER, fill)
        return Layer(blob, blob.digest) if count else None

    def run(self, action: Run, layers: Sequence[Layer], where: str, output: Callable[[str], None]) -> Layer | None:
        """Run a command. Raises: RunFailed for one that ends with another code than 0; `where` is FILE:LINE: TEXT."""
        from harness.container.errors import ContainerError
        from harness.images import build_run, diff
        from harness.images.build_mounts import RunMounts

        tail = deque[str](maxlen=_TAIL_LINES)

        def listen(line: str) -> None:
            tail.append(line)
            output(line)

        directories = self._directories(layers)
        with RunMounts(self, action, self._fresh()) as mounts:
            place = build_run.Place(self._fresh(), directories, mounts)
            try:
                code = build_run.run(action, place, listen)
            except ContainerError as error:
                raise _not_started(error, where, action) from error
            if code:
                raise build_run.RunFailed(f"{where}: exit code {code}", tail, hint=_hint(code))
            return diff.pack_upper(self.store, place.upper, (*directories, place.stubs), self.epoch_s)


def _owner(text: str, tree: Merged) -> Owner | None:
    """Return --chown=USER[:GROUP]; a number alone is the group too, a name's group is the one in /etc/passwd."""
    if not text:
        return None
    from harness.images.pack import Owner
    from harness.images.users import resolve_in

    user, colon, _ = text.partition(":")
    found = resolve_in(tree, text)
    return Owner(found.uid, found.gid if colon or not user.isdigit() else found.uid)


def _not_started(error: Exception, where: str, action: Run) -> RunFailed:
    from harness.images.build_run import RunFailed

    number, step = getattr(error, "errno", 0), getattr(error, "step", "")
    if number == errno.ENOENT and ("find" in step or "exec" in step):
        hint = "a shell form needs a shell in the image; the exec form runs a program of the image itself"
        return RunFailed(f"{where}: {action.argv[0]}: not in the image", (), hint=hint)
    return RunFailed(f"{where}: {error}", ())


def _hint(code: int) -> str | None:
    known = {126: "it is there, but cannot be executed", 127: "a command that is not in the image: is it in its PATH?",
             137: "it was killed (SIGKILL): by the kernel, where memory ran out"}  # fmt: skip
    return known.get(code)
