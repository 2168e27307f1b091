"""A shard's footer: Parquet's own description of the file, and where images and masks lie in it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from prs_med.data.dataset.index import Shard
from prs_med.data.dataset.places import KEY, RowGroupPlaces, ShardPlaces
from prs_med.data.dataset.range_file import RangeFile
from prs_med.data.records import DataError
from prs_med.storage.store import Buffer


class _KnownBytes:
    """The bytes of a file that are at hand. An object of its own: Arrow refers to it from where
    Python cannot see that the footer, which refers to Arrow, is no longer in use."""

    def __init__(self) -> None:
        self.data = memoryview(b"")
        self.offset = 0
        """Place of ``data`` in the file."""

    def part(self, start: int, length: int) -> memoryview:
        """Some of the bytes; raises OSError for others."""
        first = start - self.offset
        if first < 0 or first + length > len(self.data):
            raise OSError(f"bytes {start} to {start + length} are not there")
        return self.data[first : first + length]


class ShardFooter:
    """Reads columns out of bytes of the shard; several threads may ask at once."""

    def __init__(self, metadata: pq.FileMetaData, shard: Shard) -> None:
        """Raises ValueError for places that are not those of this shard."""
        self.metadata = metadata
        text = (metadata.metadata or {}).get(KEY.encode())
        groups = shard.row_groups
        self._places = ShardPlaces(text, groups.rows, groups.targets) if text else None
        self._lock = threading.Lock()
        self._known = _KnownBytes()
        # One for all row groups: making it takes longer than reading the columns of one. Buffered,
        # it would read across the gaps between columns, and in threads of its own.
        source = pa.PythonFile(RangeFile(shard.size, self._known.part), mode="r")
        self._file = pq.ParquetFile(source, metadata=metadata, pre_buffer=False)

    def places(self, number: int) -> RowGroupPlaces | None:
        """What lies where in a row group; None in a shard that does not tell."""
        return self._places.row_group(number) if self._places else None

    def columns(
        self, data: Buffer, offset: int, number: int, columns: Sequence[str], where: str
    ) -> pa.Table:
        """Some columns of a row group.

        Args:
            data: bytes of the shard in which they lie.
            offset: place of these in the file.
            number: of the row group.
            columns: Parquet's names of them.
            where: names the row group in errors.

        Raises:
            DataError: these are not the bytes that the footer describes.
        """
        with self._lock:
            self._known.data, self._known.offset = memoryview(data), offset
            try:
                return self._file.read_row_group(number, columns=list(columns), use_threads=False)
            except (pa.ArrowException, OSError, KeyError) as error:
                raise DataError(f"{where}: not a row group of this format ({error})") from error
            finally:
                self._known.data = memoryview(b"")


def parse_footer(data: bytes, shard: Shard, where: str) -> ShardFooter:
    """The footer of a shard from the last bytes of its file.

    Raises:
        DataError: it is none.
    """
    try:
        return ShardFooter(pq.read_metadata(pa.BufferReader(b"PAR1" + data)), shard)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{where}: not a Parquet footer ({error})") from error
