"""What a failed test leaves is ended."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.leftovers import kill_started_by
from tests.patience import patience


def test_what_a_test_has_started_is_killed(request: pytest.FixtureRequest) -> None:
    process = subprocess.Popen(["sleep", "600"])
    kill_started_by("tests/another.py::test")
    assert process.poll() is None
    kill_started_by(request.node.nodeid)
    assert process.wait(patience(10)) == -signal.SIGKILL
