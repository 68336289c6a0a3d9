"""Measure the identical workload in virtual machines and in containers."""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 5 ms to import, and `harness-oci` comes by here
if TYPE_CHECKING:
    from typing import Any

    from harness.results.frame import history, load, load_many

__all__ = ["__version__", "history", "load", "load_many"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the loaders when they are first used: pandas takes half a second, which `harness --help` need not pay."""
    if name not in {"history", "load", "load_many"}:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from harness.results import frame  # noqa: PLC0415

    return getattr(frame, name)
