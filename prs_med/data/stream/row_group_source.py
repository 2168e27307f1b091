"""The row groups of a split, numbered over all its shards."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pyarrow.parquet as pq

from prs_med.data.dataset.index import Shard, Split
from prs_med.data.dataset.row_groups import (
    RowGroup,
    parse_footer,
    parse_row_group,
    read_checked,
)
from prs_med.data.stream.disk_cache import DiskCache
from prs_med.storage.store import Store


@dataclass(frozen=True)
class _Place:
    shard: Shard
    number: int


class RowGroupSource:
    """Reads row groups by one ranged read each, from the cache on local disk if there is one.

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
        self._footers: dict[str, pq.FileMetaData] = {}
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
        """
        shard, number = self._places[group].shard, self._places[group].number
        groups = shard.row_groups
        offset = groups.offsets[number]
        data = self._bytes(
            shard, offset, groups.lengths[number], groups.crc32[number], f"row group {number}"
        )
        where = f"{self._store.where(shard.name)} row group {number}"
        return parse_row_group(data, offset, number, self._footer(shard), where)

    def _footer(self, shard: Shard) -> pq.FileMetaData:
        with self._footer_locks[shard.name]:
            found = self._footers.get(shard.name)
            if found is None:
                offset = shard.footer.offset
                length = shard.size - offset
                data = self._bytes(shard, offset, length, shard.footer.crc32, "footer")
                found = parse_footer(data, f"{self._store.where(shard.name)} footer")
                self._footers[shard.name] = found
        return found

    def _bytes(self, shard: Shard, offset: int, length: int, crc32: int, part: str) -> bytes:
        def read() -> bytes:
            return read_checked(self._store, shard.name, offset, length, crc32, part)

        if self._cache is None:
            return read()
        return self._cache.get(f"{shard.sha256}-{offset}", crc32, read)
