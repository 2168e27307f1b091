"""What the rest of the program asks of a place where files lie, be it a folder or S3.

Names are relative, with forward slashes. A name that is there holds a whole file: half-written ones
are never seen under their name.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prs_med.storage.open_file import OpenFile

Buffer = bytes | bytearray | memoryview


class StorageError(OSError):
    """A file cannot be read or written, and trying again would not help; the message starts with
    the file's full name. What means what: :mod:`prs_med.storage.failures`."""


class MissingFileError(StorageError):
    """There is no such file."""


class StorageAwayError(StorageError):
    """The store does not answer for now. The same may succeed later: a program that was told so
    ends with the status that makes a launcher start it again."""


class Store(Protocol):
    """A folder or a prefix of an S3 bucket. All methods may be called from several threads, and
    raise :class:`StorageError`."""

    uri: str

    def where(self, name: str) -> str:
        """The full name of a file, for messages."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of a file from ``offset`` on, ``length`` of them or all.

        Raises:
            MissingFileError: there is no such file.
            StorageError: it cannot be read, or ends before ``offset + length``.
        """

    def open(self, name: str) -> OpenFile | None:
        """A file to read small pieces of, if that is cheap: None where each would be a request.

        Raises:
            MissingFileError: there is no such file.
            StorageError: it cannot be opened.
        """

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, in place of an older one of the name."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless one of the name is there, as one step that only one of several
        writers can win; whether this one did, or had done so already with the same data."""

    def write_file(self, name: str, source: Path) -> None:
        """Write a file with the content of a local one, in place of an older one of the name."""

    def names(self, prefix: str = "") -> list[str]:
        """The names that start with ``prefix``, sorted."""

    def delete(self, name: str) -> None:
        """Remove a file; that there is none is no error."""

    def sweep(self, folder: str) -> None:
        """Remove what interrupted writes of this program left in ``folder``, when nothing else
        writes there; what others put there stays."""


def check_name(name: str) -> str:
    """The name itself, if it stays inside its store.

    Raises:
        ValueError: it is empty, absolute, or leads upwards.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file below its folder")
    return name
