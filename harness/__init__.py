"""Measure the identical workload in virtual machines and in containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.results.frame import load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `load` when it is first used: pandas takes half a second, which `harness --help` need not pay."""
    if name != "load":
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from harness.results.frame import load  # noqa: PLC0415

    return load
