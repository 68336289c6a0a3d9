"""Where the harness keeps things on this host: data that is wanted again, caches, and short-lived runtime files.

    data_dir()     images, trees, disks   $HARNESS_HOME/data   $XDG_DATA_HOME/harness   ~/.local/share/harness
    cache_dir()    packages, kernels      $HARNESS_HOME/cache  $XDG_CACHE_HOME/harness  ~/.cache/harness
    runtime_dir()  sockets, trial files   $HARNESS_RUNTIME     /run/harness as root     $XDG_RUNTIME_DIR/harness

The first that is set wins. Nothing is created here: who writes makes the directory.
Source: XDG Base Directory Specification 0.8 (a relative path in its variables is ignored).
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import CapabilityError


def _absolute(variable: str) -> Path | None:
    """Return the directory that an environment variable names, or None where it is unset or relative."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None


def _home(kind: str) -> Path | None:
    """Return $HARNESS_HOME/KIND; a relative $HARNESS_HOME counts from the working directory."""
    home = os.environ.get("HARNESS_HOME", "")
    return Path(home).absolute() / kind if home else None


def _user_home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        hint = "HARNESS_HOME says where images, trees and volumes are kept"
        raise CapabilityError("home directory: this user has none", hint=hint) from error


def data_dir() -> Path:
    """Return the directory of what must survive: images, trees, disks, volumes."""
    return _home("data") or (_absolute("XDG_DATA_HOME") or _user_home() / ".local" / "share") / "harness"


def cache_dir() -> Path:
    """Return the directory of what can be had again: downloaded packages, kernels, probe answers."""
    return _home("cache") or (_absolute("XDG_CACHE_HOME") or _user_home() / ".cache") / "harness"


def runtime_dir() -> Path:
    """Return the directory of sockets and per-trial files: short, because a socket's path has at most 107 bytes.

    Raises: CapabilityError for a user without $XDG_RUNTIME_DIR and without $HARNESS_RUNTIME.
    """
    chosen = os.environ.get("HARNESS_RUNTIME", "")
    if chosen:
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/run/harness")
    runtime = _absolute("XDG_RUNTIME_DIR")
    if runtime is None:
        raise CapabilityError(
            "runtime directory: XDG_RUNTIME_DIR: not set",
            hint="set HARNESS_RUNTIME to a directory that is yours, or log in through systemd-logind",
        )
    return runtime / "harness"
