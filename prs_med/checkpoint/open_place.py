"""From a name that a user gives to the place behind it."""

from __future__ import annotations

import os
from pathlib import Path

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.s3_place import S3Place
from prs_med.paths import address_problem
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageError


def is_same(one: Place, other: Place) -> bool:
    """Whether two places are one, however they were spelled."""
    return _spelled(one) == _spelled(other)


def _spelled(place: Place) -> str:
    uri = place.store.uri
    return uri if "://" in uri else os.path.realpath(uri)


def open_place(uri: str, staging: Path | None = None) -> Place:
    """The place that ``s3://bucket/folder`` or the path of a folder names.

    ``staging``: local folder through which files go to S3; needed only to write.

    Raises:
        StorageError: the name is nearly an address, or names no bucket.
    """
    if uri.startswith("s3://"):
        return S3Place(S3Store(uri), staging or Path(os.devnull))
    if problem := address_problem(uri):
        raise StorageError(f"{uri}: {problem}")
    return DirectoryPlace(Path(uri))
