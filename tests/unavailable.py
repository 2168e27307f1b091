"""What becomes of a test that needs something which cannot be had here."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """Skip what needs a service; fail where leaving it out must not pass for success."""
    if os.environ.get("CI") or os.environ.get("PRS_MED_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
