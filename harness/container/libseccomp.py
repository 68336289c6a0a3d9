"""The few functions of libseccomp.so.2 that turn rules into a program, bound by ctypes.

The library is found without being loaded, so that who needs only its identity (a cache's key) does not pay for it.
Source: seccomp.h of libseccomp 2.5, and its manual pages seccomp_init(3), seccomp_rule_add(3), seccomp_export_bpf(3).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from types import TracebackType

from harness.container.errors import ContainerError
from harness.container.frozen import Frozen, values

_SONAME = "libseccomp.so.2"
_CTL_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE, libseccomp 2.5.0
_UNKNOWN_NAME = -1  # __NR_SCMP_ERROR

BINARY_TREE = 2
"""SCMP_FLTATR_CTL_OPTIMIZE: look the call up in a tree, not in a list: attached in two fifths of the time."""


class Condition(Frozen):
    """`struct scmp_arg_cmp`: which argument (0 to 5), the operator (`enum scmp_compare`), its one or two numbers."""

    argument: int
    operator: int
    value: int
    value_two: int


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def _directories() -> Sequence[str]:
    multiarch = getattr(sys.implementation, "_multiarch", "")
    first = (f"/usr/lib/{multiarch}", f"/lib/{multiarch}") if multiarch else ()
    return (*first, "/usr/lib64", "/lib64", "/usr/lib", "/lib", "/usr/local/lib")


def find(directories: Sequence[str] | None = None) -> tuple[str, str]:
    """Return the library's path and what tells one build of it from another; nothing is loaded.

    Where it is in none of the usual directories, the path is its bare name, and the dynamic linker shall find it.
    """
    for directory in _directories() if directories is None else directories:
        path = f"{directory}/{_SONAME}"
        try:
            about = os.stat(path)
        except OSError:
            continue
        version = os.readlink(path) if os.path.islink(path) else ""  # by custom `libseccomp.so.2.5.4`
        return path, f"{path} {version} {about.st_size} {about.st_mtime_ns}"
    return _SONAME, ""


_loaded: dict[str, ctypes.CDLL] = {}


def load(path: str) -> ctypes.CDLL:
    """Return the library, loaded once for each path. Raises ContainerError, with a hint, where there is none."""
    if path not in _loaded:
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            hint = "a seccomp profile is compiled by libseccomp (Debian, Ubuntu: apt install libseccomp2)"
            raise ContainerError("seccomp", 0, f"{error}; {hint}") from error
        _declare(library)
        _loaded[path] = library
    return _loaded[path]


def _declare(library: ctypes.CDLL) -> None:
    context, number = ctypes.c_void_p, ctypes.c_uint32
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "seccomp_init": (context, [number]),
        "seccomp_release": (None, [context]),
        "seccomp_attr_set": (ctypes.c_int, [context, ctypes.c_int, number]),
        "seccomp_arch_resolve_name": (number, [ctypes.c_char_p]),
        "seccomp_arch_exist": (ctypes.c_int, [context, number]),
        "seccomp_arch_add": (ctypes.c_int, [context, number]),
        "seccomp_syscall_resolve_name": (ctypes.c_int, [ctypes.c_char_p]),
        "seccomp_rule_add_array": (
            ctypes.c_int,
            [context, number, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison)],
        ),
        "seccomp_export_bpf": (ctypes.c_int, [context, ctypes.c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def native_number(path: str, name: str) -> int:
    """Return the number of a system call on this machine; negative where it has none, or nobody knows the name."""
    return int(load(path).seccomp_syscall_resolve_name(name.encode()))


class Context:
    """A filter in the making (`scmp_filter_ctx`); a `with` block frees it. The host's architecture is part of it."""

    def __init__(self, path: str, default_action: int, optimisation: int = BINARY_TREE) -> None:
        self._library = load(path)
        self._handle = self._library.seccomp_init(default_action)
        if not self._handle:
            raise ContainerError("seccomp", 0, f"defaultAction: {default_action:#x}: libseccomp refuses it")
        # A library older than 2.5 does not know it: its programs are slower, and no different.
        # No other attribute matters: those for no_new_privs and for flags are read by seccomp_load(3) alone.
        self._library.seccomp_attr_set(self._handle, _CTL_OPTIMIZE, optimisation)

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.seccomp_release(self._handle)

    def add_architecture(self, name: str) -> bool:
        """Filter the calls of this architecture too (`x86_64`, `x32`); return False where the library has not got it.

        Raises: ContainerError for one that cannot go with the others, such as one of the other byte order.
        """
        token = self._library.seccomp_arch_resolve_name(name.encode())
        if not token:
            return False
        if self._library.seccomp_arch_exist(self._handle, token) != 0:
            self._check(self._library.seccomp_arch_add(self._handle, token), name)
        return True

    def add_rule(self, name: str, action: int, conditions: Sequence[Condition]) -> bool:
        """Add a rule on each architecture that has the call; return False where the library does not know its name.

        Raises: ContainerError, EEXIST for one that says something else than an earlier one on the same call.
        """
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN_NAME:
            return False
        array = (_Comparison * len(conditions))(*(_Comparison(*values(condition)) for condition in conditions))
        self._check(self._library.seccomp_rule_add_array(self._handle, action, number, len(conditions), array), name)
        return True

    def program(self) -> bytes:
        """Return the filter as an array of `struct sock_filter`."""
        fd = os.memfd_create("harness-seccomp", os.MFD_CLOEXEC)
        try:
            self._check(self._library.seccomp_export_bpf(self._handle, fd), "export")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    @staticmethod
    def _check(result: int, what: str) -> None:
        if result < 0:
            raise ContainerError("seccomp", -result, what)
