"""Files in a folder."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from prs_med.storage.failures import NO_LINKS, folder_error
from prs_med.storage.open_file import OpenFile
from prs_med.storage.store import MissingFileError, StorageError, check_name

UNFINISHED = ".unfinished-"
"""How the names of files start that are being written."""


class DirectoryStore:
    """A folder. A file gets its name when it is complete and on disk."""

    def __init__(self, folder: Path, through_links: bool = True) -> None:
        """
        Args:
            folder: there or not.
            through_links: write into folders outside, too, that links in it lead to. In a folder
                that came from elsewhere, whoever made it would choose them.
        """
        self.uri = str(folder)
        self._folder = folder
        self._through_links = through_links

    def where(self, name: str) -> str:
        """The path of a file."""
        return str(self._folder / name)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :class:`prs_med.storage.store.Store`."""
        try:
            with open(self._path(name), "rb") as file:
                file.seek(offset)
                if length is not None:
                    # Room would be made for all of it, there or not.
                    there = max(0, os.fstat(file.fileno()).st_size - offset)
                data = file.read(-1 if length is None else min(length, there))
        except FileNotFoundError:
            raise MissingFileError(f"{self.where(name)}: no such file") from None
        except OSError as error:
            raise folder_error(self.where(name), error) from error
        if length is not None and len(data) != length:
            raise StorageError(
                f"{self.where(name)}: ends at byte {offset + len(data)}, "
                f"but {offset + length} were expected"
            )
        return data

    def open(self, name: str) -> OpenFile:
        """See :class:`prs_med.storage.store.Store`."""
        return OpenFile(self._path(name))

    def size(self, name: str) -> int | None:
        """See :class:`prs_med.storage.store.Store`."""
        try:
            return self._path(name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise folder_error(self.where(name), error) from error

    def write(self, name: str, data: bytes) -> None:
        """See :class:`prs_med.storage.store.Store`."""
        self._replace(name, lambda file: file.write(data))

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`prs_med.storage.store.Store`."""

        def link(unfinished: str, path: Path) -> None:
            try:
                os.link(unfinished, path)
            except OSError as error:
                if errno.errorcode.get(error.errno or 0) not in NO_LINKS.codes:
                    raise
                raise StorageError(
                    f"{self.uri}: {NO_LINKS.what} ({error.strerror}), by which one of two runs is "
                    f"kept from saving there: {NO_LINKS.mend}"
                ) from error

        try:
            self._replace(name, lambda file: file.write(data), give_name=link)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                return self.read(name) == data
            raise
        return True

    def write_file(self, name: str, source: Path) -> None:
        """See :class:`prs_med.storage.store.Store`."""
        with source.open("rb") as content:
            self._replace(name, lambda file: shutil.copyfileobj(content, file, 1 << 20))

    def names(self, prefix: str = "") -> list[str]:
        """See :class:`prs_med.storage.store.Store`."""

        def unless_gone(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise folder_error(error.filename, error) from error

        # Only where names with this prefix can be: in the other folders much may go on.
        top = self._folder / prefix.rpartition("/")[0]
        found = (
            Path(folder, file).relative_to(self._folder).as_posix()
            for folder, _, files in os.walk(top, onerror=unless_gone)
            for file in files
            if not file.startswith(UNFINISHED)
        )
        return sorted(name for name in found if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """See :class:`prs_med.storage.store.Store`."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise folder_error(self.where(name), error) from error

    def sweep(self, folder: str) -> None:
        """See :class:`prs_med.storage.store.Store`; the folder itself goes if it is empty."""
        swept = self._folder / folder
        try:
            for file in swept.glob(f"{UNFINISHED}*"):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise folder_error(str(swept), error) from error
        with suppress(OSError):
            os.rmdir(swept)

    def _path(self, name: str) -> Path:
        return self._folder / check_name(name)

    def _check_inside(self, folder: Path) -> None:
        if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self._folder)):
            raise StorageError(
                f"{folder}: is, or lies below, a link that leads out of {self._folder}; nothing is "
                "written there: put a folder in its place"
            )

    def _replace(
        self,
        name: str,
        fill: Callable[[BinaryIO], object],
        give_name: Callable[[str, Path], object] = os.replace,
    ) -> None:
        """Fill a new file and give it its name once its bytes are on disk."""
        path = self._path(name)
        if not self._through_links:
            self._check_inside(path.parent)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(unfinished, 0o666 & ~_umask())
                give_name(unfinished, path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(unfinished)
            sync_folder(path.parent)
        except StorageError:
            raise
        except OSError as error:
            raise folder_error(self.where(name), error) from error


def _umask() -> int:
    # The umask can only be read by setting it; this file of Linux tells it without a race.
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return 0o022


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
