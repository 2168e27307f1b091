"""A file in a folder that is kept open for many small reads."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from prs_med.storage.failures import folder_error
from prs_med.storage.store import MissingFileError, StorageError

_ADVISED_BYTES = 256 * 1024
"""For one piece of advice Linux reads no more than the largest transfer of the device."""


class OpenFile:
    """Any parts of one file; several threads may read at once. It is closed with its last user."""

    def __init__(self, path: Path) -> None:
        """Raises:
        MissingFileError: there is no such file.
        StorageError: it cannot be opened.
        """
        self._path = path
        self._handle = -1
        try:
            self._handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise MissingFileError(f"{path}: no such file") from None
        except OSError as error:
            raise folder_error(str(path), error) from error

    def __del__(self) -> None:
        if self._handle >= 0:
            with suppress(OSError):
                os.close(self._handle)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on.

        Raises:
            StorageError: they cannot be read, or the file ends before.
        """
        try:
            data = os.pread(self._handle, length, offset)
            # A signal or a network file system may cut a read short.
            while len(data) < length and (
                more := os.pread(self._handle, length - len(data), offset + len(data))
            ):
                data += more
        except OSError as error:
            raise folder_error(str(self._path), error) from error
        if len(data) != length:
            raise StorageError(
                f"{self._path}: ends at byte {offset + len(data)}, "
                f"but {offset + length} were expected"
            )
        return data

    def will_need(self, offset: int, length: int) -> None:
        """Let the system bring these bytes into memory in the background."""
        for start in range(offset, offset + length, _ADVISED_BYTES):
            # Advice that is not taken makes reading slower, not wrong.
            with suppress(OSError):
                os.posix_fadvise(self._handle, start, _ADVISED_BYTES, os.POSIX_FADV_WILLNEED)
