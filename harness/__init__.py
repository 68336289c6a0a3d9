"""Measure the identical workload in virtual machines and in containers."""

__version__ = "0.1.0"
