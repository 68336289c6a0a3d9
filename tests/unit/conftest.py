"""Settings of the generated tests. Not in the conftest above: guests, which have no hypothesis, read that one too."""

from __future__ import annotations

from hypothesis import settings

# A slow moment of a shared machine is no fault of what is tested; pytest-timeout ends what hangs.
settings.register_profile("harness", deadline=None)
settings.load_profile("harness")
