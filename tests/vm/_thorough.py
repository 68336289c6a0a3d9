"""Tests that boot more guests to show what others show too: on request, since emulation takes its time."""

from __future__ import annotations

import os

import pytest

ON_REQUEST = pytest.mark.skipif(
    os.environ.get("HARNESS_GUEST_TESTS") != "all",
    reason="HARNESS_GUEST_TESTS=all runs it: its parts are tested anyway",
)
