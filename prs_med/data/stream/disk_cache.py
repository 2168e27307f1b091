"""Row groups kept on local disk, shared by the processes of a node and kept between runs.

An entry is a file. It gets its name when it is complete, and its checksum is compared at every
reading, so neither a half-written nor a damaged file is ever served. The space that all entries
take up stays below a limit: those that were not used for the longest time go first. What is counted
is kept in a small file under a lock, so that processes agree on it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prs_med.data.dataset.checksums import matches

_logger = logging.getLogger("prs_med.data")
_ENTRY = ".part"
_UNFINISHED = "unfinished-"


class DiskCache:
    """A folder with entries of at most ``limit`` bytes in all."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Makes the folder, counts what is there, and makes room if it is more than the limit.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder = folder
        self._limit = limit
        self._works = True
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._remove_unfinished()
            self._make_room(0)

    def get(self, key: str, checksum: str, read: Callable[[], bytes]) -> bytes:
        """The entry under a key if its checksum is right, or else what ``read`` gives, which is
        kept. A cache that cannot be written (a full disk) is reported once and then left alone."""
        path = self._folder / f"{key}{_ENTRY}"
        data = self._load(path, checksum)
        if data is None:
            data = read()
            self._keep(path, data)
        return data

    def _load(self, path: Path, checksum: str) -> bytes | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error)
            return None
        if not matches(data, checksum):
            _logger.warning("%s: damaged, fetched again", path)
            with self._locked():
                self._remove(path)
            return None
        # Another process may just have removed it; what was read is right all the same.
        with suppress(OSError):
            os.utime(path)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        if not self._works or len(data) > self._limit:
            return
        unfinished = ""
        try:
            handle, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._folder)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            with self._locked():
                if not path.exists():
                    self._make_room(len(data))
                    os.replace(unfinished, path)
                    self._count(self._counted() + len(data))
                    unfinished = ""
        except OSError as error:
            self._give_up(error)
        finally:
            if unfinished:
                Path(unfinished).unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        """Remove entries until ``needed`` bytes more fit, and then a tenth more, so that the folder
        is not listed for each entry. The lock is held."""
        if needed and self._counted() + needed <= self._limit:
            return
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        goal = self._limit if total + needed <= self._limit else int(0.9 * self._limit)
        for _, size, path in entries:
            if total + needed <= goal or not total:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._count(total)

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """When each entry was used last, its size and its path."""
        for entry in os.scandir(self._folder):
            if entry.name.endswith(_ENTRY):
                status = entry.stat()
                yield status.st_mtime_ns, status.st_size, Path(entry.path)

    def _remove(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return
        self._count(self._counted() - size)

    def _remove_unfinished(self) -> None:
        """Remove what killed processes left: a file that is being written is held by nobody for
        longer than a moment, unless its process is gone."""
        now = self._now()
        for entry in os.scandir(self._folder):
            if entry.name.startswith(_UNFINISHED) and now - entry.stat().st_mtime > 3600:
                Path(entry.path).unlink(missing_ok=True)

    def _now(self) -> float:
        """The time by the clock of the folder's file system."""
        probe = self._folder / "lock"
        os.utime(probe)
        return probe.stat().st_mtime

    def _counted(self) -> int:
        try:
            return int((self._folder / "bytes").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return sum(size for _, size, _ in self._entries())

    def _count(self, total: int) -> None:
        (self._folder / "bytes").write_text(str(total), encoding="ascii")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._folder / "lock", "a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _give_up(self, error: OSError) -> None:
        if self._works:
            _logger.warning(
                "cache %s: %s; going on without keeping more", self._folder, error.strerror
            )
        self._works = False
