"""Where this process stands, written by training and read by its watchdog."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

Phase = Literal[
    "waiting for data",
    "in the forward pass",
    "in the backward pass",
    "in the optimizer step",
    "writing the log",
    "validating",
    "saving",
]
PHASES: tuple[Phase, ...] = (
    "waiting for data",
    "in the forward pass",
    "in the backward pass",
    "in the optimizer step",
    "writing the log",
    "validating",
    "saving",
)
"""In the order in which a step passes through them."""


@dataclass(frozen=True)
class Place:
    """A point that training reached."""

    step: int
    """Steps that are done."""
    phase: Phase
    since: float
    """When it was reached, by the clock of ``time.monotonic``."""


class Heartbeat:
    """The newest place. One thread writes, others read."""

    def __init__(self) -> None:
        self.place = Place(0, "waiting for data", time.monotonic())

    def enter(self, phase: Phase, step: int) -> None:
        """Note that a phase begins, or a part of it."""
        # One assignment, so that a reader never sees parts of two places.
        self.place = Place(step, phase, time.monotonic())
