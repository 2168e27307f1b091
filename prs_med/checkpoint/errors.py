"""What can go wrong with checkpoints, told apart everywhere.

A damaged one is passed over for the one before; one that does not fit is refused, since the one
before would not fit either; and where storage does not answer (:mod:`prs_med.storage.store`),
nothing is known of any.
"""

from __future__ import annotations


class BrokenCheckpointError(Exception):
    """A checkpoint, or a file in it, is damaged or missing; the message names it."""


class UnfittingCheckpointError(Exception):
    """A checkpoint is whole, but of another model; the message says what differs."""


class SupersededError(Exception):
    """Another attempt of this run, or another run, has taken over the place to save to."""
