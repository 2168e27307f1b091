"""The row groups of a split, numbered over all its shards."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakValueDictionary

from prs_med.data.dataset.index import Shard, Split
from prs_med.data.dataset.row_groups import (
    RowGroup,
    read_part,
    row_group_in_file,
    row_group_in_memory,
)
from prs_med.data.dataset.shard_footer import ShardFooter, parse_footer
from prs_med.data.records import DataError
from prs_med.data.stream.disk_cache import DiskCache
from prs_med.storage.open_file import OpenFile
from prs_med.storage.store import StorageAwayError, StorageError, Store


@dataclass(frozen=True)
class _Place:
    shard: Shard
    number: int


class RowGroupSource:
    """Reads row groups by one ranged read each, from the cache on local disk if there is one.

    From a folder it reads texts and masks, and images when they are asked for: the system keeps
    files in memory already, and a copy of our own would cost each process time and memory.

    Several threads may read at once.
    """

    def __init__(self, store: Store, split: Split, cache: DiskCache | None = None) -> None:
        self._store = store
        self._cache = cache
        self._places = [
            _Place(shard, number)
            for shard in split.shards
            for number in range(len(shard.row_groups))
        ]
        self._footers: dict[str, ShardFooter] = {}
        self._files: WeakValueDictionary[str, OpenFile] = WeakValueDictionary()
        """Files of which row groups are in use."""
        self._footer_locks = {shard.name: threading.Lock() for shard in split.shards}

    def __len__(self) -> int:
        return len(self._places)

    def rows(self) -> list[int]:
        """Images in each row group."""
        return [place.shard.row_groups.rows[place.number] for place in self._places]

    def targets(self) -> list[int]:
        """Questions in each row group."""
        return [place.shard.row_groups.targets[place.number] for place in self._places]

    def nbytes(self, group: int) -> int:
        """Size of a row group in its file; in memory it is about the same."""
        place = self._places[group]
        return place.shard.row_groups.lengths[place.number]

    def read(self, group: int) -> RowGroup:
        """Read a row group.

        Raises:
            DataError: it is missing or damaged; the message names shard and row group.
            StorageAwayError: the store does not answer for now.
        """
        shard, number = self._places[group].shard, self._places[group].number
        where = f"{self._store.where(shard.name)} row group {number}"
        footer = self._footer(shard)
        places = footer.places(number)
        if places is not None and self._cache is None and (file := self._file(shard, where)):
            return row_group_in_file(file, number, places, footer, where)
        groups = shard.row_groups
        offset, length = groups.offsets[number], groups.lengths[number]
        data = self._bytes(shard, offset, length, groups.checksums[number], where)
        return row_group_in_memory(data, offset, number, footer, where)

    def _file(self, shard: Shard, where: str) -> OpenFile | None:
        file = self._files.get(shard.name)
        if file is None:
            try:
                file = self._store.open(shard.name)
            except StorageAwayError:
                raise
            except StorageError as error:
                raise DataError(f"{where}: {error}") from error
            if file is not None:
                self._files[shard.name] = file
        return file

    def _footer(self, shard: Shard) -> ShardFooter:
        with self._footer_locks[shard.name]:
            found = self._footers.get(shard.name)
            if found is None:
                offset = shard.footer.offset
                length = shard.size - offset
                where = f"{self._store.where(shard.name)} footer"
                data = self._bytes(shard, offset, length, shard.footer.checksum, where)
                found = self._footers[shard.name] = parse_footer(data, shard, where)
        return found

    def _bytes(self, shard: Shard, offset: int, length: int, checksum: str, where: str) -> bytes:
        def read() -> bytes:
            return read_part(self._store, shard.name, offset, length, checksum, where)

        if self._cache is None:
            return read()
        return self._cache.get(f"{shard.sha256}-{offset}", checksum, read)
