"""Benchmarks that take minutes begin with options that are right."""

from __future__ import annotations

import pytest

from benchmarks import vm_profiles
from harness.backends.libvirt import LibvirtBackend


@pytest.mark.parametrize(("name", "options"), [*vm_profiles.PROFILES.items(), *vm_profiles.LEVERS.items()])
def test_every_profile_and_lever_of_the_benchmark_can_be_started(name: str, options: dict[str, object]) -> None:
    assert LibvirtBackend.options.model_validate(options) is not None
