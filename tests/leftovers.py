"""What a failed test has started and left: it would take the cores from the tests behind it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Kill what a test that fails has started."""
    report = yield
    if report.failed:
        kill_started_by(item.nodeid)
    return report


def kill_started_by(nodeid: str) -> None:
    """Kill the processes that were started in the body of a test: they have its name from pytest.

    What set-up has started may serve other tests too.
    """
    mark = f"PYTEST_CURRENT_TEST={nodeid} (call)".encode()
    for process in Path("/proc").glob("[0-9]*"):
        # Processes end while they are looked at, and others cannot be looked at.
        with suppress(OSError):
            if mark in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)
