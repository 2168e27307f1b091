"""What can go wrong with checkpoints."""

from __future__ import annotations


class BrokenCheckpointError(Exception):
    """A checkpoint, or a file in it, is not what it should be; the message names it."""


class UnfittingCheckpointError(Exception):
    """A checkpoint is whole, but of another model; the message says what differs."""


class SupersededError(Exception):
    """Another attempt of this run, or another run, has taken over the place to save to."""
