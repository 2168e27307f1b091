"""A file of which only what is asked for is read."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class RangeFile(io.RawIOBase):
    """A file behind a function that gives any part of it, for readers that want a file."""

    def __init__(self, size: int, part: Callable[[int, int], Any]) -> None:
        """``size`` in bytes; ``part(offset, length)`` gives bytes or raises OSError."""
        self._size = size
        self._part = part
        self._position = 0

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, as files do."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = start[whence] + position
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def read(self, size: int | None = -1) -> Any:
        """The next ``size`` bytes, fewer at the end of the file."""
        left = self._size - self._position
        length = left if size is None or size < 0 else min(size, left)
        data = self._part(self._position, length)
        self._position += length
        return data

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True
