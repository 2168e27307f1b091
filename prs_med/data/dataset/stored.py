"""An image and what is asked about it, as stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

ReadValue = Callable[[], bytes]
"""Gives the bytes of an encoded image or mask, and may read them from disk for it. Raises DataError
with shard and row group if they are damaged."""


class StoredTarget(NamedTuple):
    """One question about an image."""

    read_mask: ReadValue
    question: str
    answer: str
    row_id: str
    """File and line of the row that it was built from."""
    zone: str | None
    """Where the mask lies; None if it is empty."""
    near_center: bool | None

    @property
    def mask(self) -> bytes:
        """Encoded, as the source file was."""
        return self.read_mask()


class StoredImage(NamedTuple):
    """One image with all or some of its targets."""

    read_image: ReadValue
    where: str
    """Shard, row group and row, for messages."""
    modality: str | None
    targets: tuple[StoredTarget, ...]

    @property
    def image(self) -> bytes:
        """Encoded, as the source file was."""
        return self.read_image()
