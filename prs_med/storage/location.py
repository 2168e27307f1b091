"""From a name that a user gives to the store behind it."""

from __future__ import annotations

from pathlib import Path

from prs_med.paths import address_problem
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageError, Store


def open_store(uri: str) -> Store:
    """The store that ``s3://bucket/folder`` or the path of a folder names. Nothing is read yet.

    Raises:
        StorageError: the name has another scheme, or names no bucket, or is nearly an address.
    """
    if problem := address_problem(uri):
        raise StorageError(f"{uri}: {problem}")
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return DirectoryStore(Path(uri))
    if scheme == "s3":
        return S3Store(uri)
    raise StorageError(f"{uri}: {scheme}:// is not known here; give a folder or s3://bucket/folder")
