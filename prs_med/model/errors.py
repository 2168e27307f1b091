"""Errors about weights on disk."""

from __future__ import annotations


class CheckpointError(ValueError):
    """Weights that cannot be used; the message names the file and what is wrong with it."""
