"""How long to wait for what may hang: as long as this machine needs, not as a fast one does."""

from __future__ import annotations

import os
import time

_SLOWNESS = "PRS_MED_TEST_SLOWNESS"
_LOOP = 2_000_000
_REFERENCE_S = 0.1
"""CPU time of the loop on the machine that the limits were written for."""


def measure() -> float:
    """How many times slower than that machine this one is, and not below 1; told to all processes
    of the run. The best of a few rounds, in CPU time: what else runs then counts little."""
    slowness = max(1.0, min(_round() for _ in range(5)) / _REFERENCE_S)
    os.environ[_SLOWNESS] = f"{slowness:.2f}"
    return slowness


def _round() -> float:
    begun = time.process_time()
    total = 0
    for number in range(_LOOP):
        total += number
    return time.process_time() - begun


def patience(seconds: float) -> float:
    """A limit that is there for hangs alone, on this machine."""
    return seconds * float(os.environ.get(_SLOWNESS, "1"))
