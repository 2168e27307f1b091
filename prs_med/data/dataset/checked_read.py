"""Read bytes until their checksum is right."""

from __future__ import annotations

from collections.abc import Callable

from prs_med.data.records import DataError
from prs_med.storage.store import StorageAwayError, StorageError

_ATTEMPTS = 3
"""A transfer that was damaged is not damaged alike a second time; a file is."""


def read_checked(read: Callable[[], bytes], right: Callable[[bytes], bool], where: str) -> bytes:
    """Bytes that are right; a damaged transfer is repeated.

    Args:
        read: gives them, and raises StorageError.
        right: compares their checksum.
        where: names them in errors: the shard and which part of it.

    Raises:
        DataError: the file is missing, unreadable or damaged; the message starts with ``where``.
        StorageAwayError: the store does not answer for now.
    """
    for _ in range(_ATTEMPTS):
        try:
            data = read()
        except StorageAwayError:
            raise
        except StorageError as error:
            raise DataError(f"{where}: {error}") from error
        if right(data):
            return data
    raise DataError(
        f"{where}: the checksum is wrong each of {_ATTEMPTS} times, so the file is damaged; "
        "'launch/data.py check' lists what is, build or copy the shard again"
    )
