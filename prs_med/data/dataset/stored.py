"""An image and what is asked about it, as stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

ReadValue = Callable[[], bytes]
"""Gives the bytes of an encoded image, and may read them from disk for it. Raises DataError with
shard, row group and row if they are damaged."""


class StoredTarget(NamedTuple):
    """One question about an image."""

    mask: bytes
    """Encoded, as the source file was."""
    question: str
    answer: str
    row_id: str
    """File and line of the row that it was built from."""
    zone: str | None
    """Where the mask lies; None if it is empty."""
    near_center: bool | None


class StoredImage(NamedTuple):
    """One image with all or some of its targets."""

    read_image: ReadValue
    row_group: str
    """Shard and row group, for messages."""
    row: int
    """Within the row group."""
    modality: str | None
    targets: tuple[StoredTarget, ...]

    @property
    def image(self) -> bytes:
        """Encoded, as the source file was."""
        return self.read_image()

    @property
    def where(self) -> str:
        """Shard, row group and row, for messages."""
        return f"{self.row_group}, row {self.row}"
