"""What the words in `mounts[].options` of a config.json mean to the kernel. Pure: nothing here mounts anything.

The words are those of the runtime specification 1.2 ("Linux mount options"); what is none of them is an option of the
file system itself. As with mount(8) the last of two opposites counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.container.errors import ContainerError
from harness.container.frozen import Frozen
from harness.container.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import Literal, TypeVar

    Word = TypeVar("Word", bound=str)

# Source: include/uapi/linux/mount.h. The access time is one field, of which relatime is the zero.
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

PROPAGATION = {
    prefix + word: flag | recursive
    for word, flag in (
        ("private", MS_PRIVATE),
        ("shared", MS_SHARED),
        ("slave", MS_SLAVE),
        ("unbindable", MS_UNBINDABLE),
    )
    for prefix, recursive in (("", 0), ("r", MS_REC))
}
"""The words for propagation, with their MS_* flags."""

# (to set, to clear before that): each word undoes what words before it said of the same bits.
_ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "atime": (0, MOUNT_ATTR_NOATIME),
    "relatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nostrictatime": (0, MOUNT_ATTR_STRICTATIME),
}
_RECURSIVE = {"r" + word: bits for word, bits in _ATTRIBUTES.items()}

# Flags of the superblock: the keys that fsconfig(2) takes for every file system (fs/fs_context.c), and their opposites.
_SUPERBLOCK = ("sync", "dirsync", "lazytime", "mand")
_UNDO = {"async": "sync", "nolazytime": "lazytime", "nomand": "mand"}

# No effect. norelatime: without relatime the kernel's default is used, and that is relatime. silent: a matter of the
# kernel's log. iversion: the file systems that count versions do so always ("ext4: unconditionally enable the i_version
# counter", in v6.1).
_NOTHING = frozenset(("", "defaults", "silent", "loud", "iversion", "noiversion", "norelatime", "rnorelatime"))

# Their values are quoted only because a comma may be in them (mount(8), "context").
_LABELS = ("context", "fscontext", "defcontext", "rootcontext")


class Options(Frozen):
    """The options of one mount, in the fields of spec.Mount that have the same names.

    `remount` changes nothing of a bind, whose options are always set after it is made. Flags of the superblock are
    among `data` as bare words. A bind has a superblock already, so its `data` cannot have an effect.
    """

    bind: bool = False
    recursive: bool = False
    attrs: int = 0
    clear: int = 0
    recursive_attrs: int = 0
    recursive_clear: int = 0
    propagation: tuple[int, ...] = ()
    data: tuple[str, ...] = ()
    copy_up: bool = False
    idmap: Literal["", "idmap", "ridmap"] = ""
    remount: bool = False


def _attributes(options: Sequence[str], table: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the attributes to set and those to clear.

    mount_setattr(2) refuses to change the access time unless the whole field is cleared.
    """
    attrs = clear = 0
    for option in options:
        wanted, unwanted = table.get(option, (0, 0))
        attrs = attrs & ~unwanted | wanted
        clear = clear & ~wanted | unwanted
    if clear & MOUNT_ATTR__ATIME:
        clear |= MOUNT_ATTR__ATIME
    return attrs, clear


def _superblock(options: Sequence[str]) -> list[str]:
    """Return the flags of the superblock that are left on."""
    on: list[str] = []
    for option in options:
        off = _UNDO.get(option, option)
        if off in _SUPERBLOCK:
            on = [word for word in on if word != off]
            if option == off:
                on.append(option)
    return on


def _pieces(option: str) -> list[str]:
    """Return an option of a file system split at its commas, but for those in double quotes or after a backslash.

    mount(2) gets them joined by commas anyway; fsconfig(2) takes one at a time.
    """
    pieces, start, quoted = [], 0, False
    for index, letter in enumerate(option):
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted and option[index - 1 : index] != "\\":
            pieces.append(option[start:index])
            start = index + 1
    pieces.append(option[start:])
    return [piece for piece in pieces if piece]


def _unquoted(piece: str) -> str:
    key, equals, value = piece.partition("=")
    if key in _LABELS and len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return key + equals + value


WORDS = (
    frozenset(_ATTRIBUTES)
    | frozenset(_RECURSIVE)
    | frozenset(PROPAGATION)
    | frozenset(_SUPERBLOCK)
    | frozenset(_UNDO)
    | _NOTHING
    | {"bind", "rbind", "idmap", "ridmap", "tmpcopyup", "remount"}
)


def _last(options: Sequence[str], *words: Word) -> Word | Literal[""]:
    """Return which of some words comes last, or an empty string."""
    return next((word for option in reversed(options) for word in words if word == option), "")


def parse(options: Sequence[str], where: str = "options") -> Options:
    """Return what mount options mean.

    Raises: ContainerError, naming `where`, for a NUL byte.
    """
    for index, option in enumerate(options):
        if "\0" in option:
            raise ContainerError("mount", 0, f"{where}[{index}]: {option!r} contains a NUL byte")
    attrs, clear = _attributes(options, _ATTRIBUTES)
    recursive_attrs, recursive_clear = _attributes(options, _RECURSIVE)
    own = [_unquoted(piece) for option in options if not _is_known(option) for piece in _pieces(option)]
    bind = _last(options, "bind", "rbind")
    return Options(
        bind=bool(bind),
        recursive=bind == "rbind",
        attrs=attrs,
        clear=clear,
        recursive_attrs=recursive_attrs,
        recursive_clear=recursive_clear,
        propagation=tuple(PROPAGATION[option] for option in options if option in PROPAGATION),
        data=(*_superblock(options), *own),
        copy_up="tmpcopyup" in options,
        idmap=_last(options, "idmap", "ridmap"),
        remount="remount" in options,
    )


def _is_known(option: str) -> bool:
    """Return whether an option is no file system's. `x-` begins a comment for other programs (mount(8))."""
    return option in WORDS or option.startswith("x-")
