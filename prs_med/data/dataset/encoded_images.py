"""Where the encoded images of a row group come from: memory, a file, or Arrow's arrays."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import pyarrow as pa

from prs_med.data.dataset.checked_read import read_checked
from prs_med.data.dataset.places import Places
from prs_med.data.dataset.stored import ReadValue
from prs_med.storage.open_file import OpenFile
from prs_med.storage.store import Buffer, StorageError


class Images(Protocol):
    """The encoded images of a row group, by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> ReadValue: ...


class ImagesInMemory:
    """Parts of bytes that were checked as a whole."""

    def __init__(self, data: Buffer, offset: int, places: Places) -> None:
        """``offset``: place of ``data`` in its file."""
        self._view = memoryview(data)
        self._offset = offset
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> ReadValue:
        place = self._places[number]
        start = place.start - self._offset
        # Copied now: what waits to be decoded would otherwise keep the whole row group in memory.
        return partial(bytes, self._view[start : start + place.length].tobytes())


class ImagesInFile:
    """Images in a file on this machine, read and checked when they are asked for.

    The system keeps in memory what was read ahead or read before, for all processes alike.
    """

    def __init__(self, file: OpenFile, places: Places, where: str) -> None:
        """``where`` names shard and row group."""
        self._file = file
        self._places = places
        self._where = where

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> ReadValue:
        return partial(self._read, number)

    def _read(self, number: int) -> bytes:
        place = self._places[number]
        try:
            data = self._file.read(place.start, place.length)
        except StorageError:
            pass
        else:
            if place.holds(data):
                return data
        # What is wrong shows again. Asking in this way at first would cost each image more time.
        read = partial(self._file.read, place.start, place.length)
        return read_checked(read, place.holds, f"{self._where}, row {number}")


class ImagesInArray:
    """What Arrow decoded."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, number: int) -> ReadValue:
        return partial(bytes, self._array[number].as_py())
