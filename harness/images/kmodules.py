"""Which files of a kernel's module tree a guest must load, and in which order.

A downloaded kernel package has no modules.dep (depmod writes it at installation), so the dependencies are read from the
modules themselves: `depends=` in their .modinfo section. Names with `-` and with `_` are the same name (modprobe(8)).
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterable, Mapping
from pathlib import Path

import zstandard

from harness.errors import CapabilityError
from harness.images import elf

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


def load_order(tree: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Return the files of `names` and of all that they depend on, each once, what is needed before what needs it.

    `tree` is lib/modules/RELEASE. What is built into the kernel needs no file and is left out.

    Raises: CapabilityError for a name that is neither a module nor built in, and for a damaged module.
    """
    files, builtin = _files(tree), _builtin(tree)
    order: dict[str, Path] = {}
    pending = [canonical(name) for name in reversed(list(names))]
    opened: set[str] = set()
    while pending:
        name = pending[-1]
        if name in order or name in builtin:
            pending.pop()
        elif name not in files:
            raise CapabilityError(
                f"kernel module: {name}: neither in {tree} nor built in",
                hint="this kernel was built without it: take another kernel, or a profile that does not need it",
            )
        elif name in opened:
            pending.pop()
            order[name] = files[name]
        else:
            opened.add(name)
            hard, soft = _depends(files[name])
            pending.extend(reversed([*_found(soft, files), *hard]))
    return tuple(order.values())


def module_bytes(path: Path) -> bytes:
    """Return a module as finit_module(2) wants it: uncompressed. Raises: CapabilityError when it is damaged."""
    data = path.read_bytes()
    try:
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".gz":
            return gzip.decompress(data)
        if path.suffix == ".zst":
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    except (lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise CapabilityError(f"kernel module: {path}: {error}", hint="fetch the kernel again") from error
    return data


def canonical(name: str) -> str:
    """Return a module's name as the kernel spells it: `virtio-blk` is `virtio_blk`."""
    return name.replace("-", "_")


def module_name(path: Path) -> str:
    """Return the name of the module in this file: `.../crc32c-intel.ko.xz` is `crc32c_intel`."""
    return canonical(path.name.partition(".ko")[0])


def _files(tree: Path) -> Mapping[str, Path]:
    return {module_name(path): path for path in sorted(tree.rglob("*.ko*")) if path.name.endswith(_SUFFIXES)}


def _builtin(tree: Path) -> frozenset[str]:
    """Return the names in modules.builtin: one path such as kernel/fs/ext4/ext4.ko a line."""
    try:
        lines = (tree / "modules.builtin").read_text().splitlines()
    except FileNotFoundError:
        raise CapabilityError(
            f"kernel modules: {tree}: has no modules.builtin", hint="give lib/modules/RELEASE of the kernel's package"
        ) from None
    return frozenset(module_name(Path(line)) for line in lines)


def _found(soft: Iterable[str], files: Mapping[str, Path]) -> list[str]:
    """Return those of `soft` that are modules; an algorithm's generic module is named after it (crc32c_generic).

    An algorithm may be named by its alias, as the kernel asks for it: `crypto-crc32c` (crypto/api.c).
    """
    names = [name.removeprefix("crypto_") for name in soft]
    return [module for name in names for module in (name, f"{name}_generic") if module in files]


def _depends(path: Path) -> tuple[list[str], list[str]]:
    """Return what a module depends on, and what it wants before it where that exists (`softdep=pre: crc32c`).

    Without the second, libcrc32c finds no algorithm and refuses to be loaded (its init returns ENOENT).
    """
    try:
        info = elf.section(module_bytes(path), b".modinfo")
    except ValueError as error:
        raise CapabilityError(f"kernel module: {path}: {error}", hint="fetch the kernel again") from error
    records = [record.partition(b"=") for record in (info or b"").split(b"\0")]
    soft = [value.decode().removeprefix("pre:").split("post:")[0] for key, _, value in records if key == b"softdep"]
    for key, _, value in records:
        if key == b"depends":
            hard = [canonical(name) for name in value.decode().split(",") if name]
            return hard, [canonical(name) for text in soft for name in text.split()]
    raise CapabilityError(f"kernel module: {path}: its .modinfo names no dependencies", hint="fetch the kernel again")
