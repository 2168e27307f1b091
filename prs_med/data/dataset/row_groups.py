"""Read the rows of one row group out of its bytes."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prs_med.data.dataset.index import Shard
from prs_med.data.dataset.range_file import RangeFile
from prs_med.data.records import DataError
from prs_med.storage.store import StorageError, Store

_ATTEMPTS = 3
"""A transfer that was damaged is not damaged alike a second time; a file is."""


@dataclass(frozen=True)
class StoredTarget:
    """One question about an image, as stored."""

    mask: bytes
    """Encoded, as the source file was."""
    question: str
    answer: str
    row_id: str
    """File and line of the row that it was built from."""
    zone: str | None
    """Where the mask lies; None if it is empty."""
    near_center: bool | None


@dataclass(frozen=True)
class StoredImage:
    """One image with all or some of its targets, as stored."""

    image: bytes
    """Encoded, as the source file was."""
    where: str
    """Shard, row group and row, for messages."""
    modality: str | None
    targets: tuple[StoredTarget, ...]


_TEXTS = ("question", "answer", "row_id", "zone", "near_center")
"""The fields of :class:`StoredTarget` behind its mask, in order."""

_ELEMENT = "targets.list.element"
_COLUMNS = [
    *("image.bytes", "width", "height", "modality", f"{_ELEMENT}.mask.bytes"),
    *(f"{_ELEMENT}.{name}" for name in _TEXTS),
]
"""Parquet's names of what is handed out; each further column would cost time in every row group."""


class RowGroup:
    """The rows of one row group."""

    def __init__(self, table: pa.Table, where: str) -> None:
        self._where = where
        self.nbytes: int = table.nbytes
        image, targets = _chunk(table["image"]), _chunk(table["targets"])
        self._image = image.field("bytes")
        self._modality = _chunk(table["modality"]).to_pylist()
        self._width, self._height = _chunk(table["width"]), _chunk(table["height"])
        # Not through to_numpy and flatten, whose first call imports pandas and compute functions:
        # half a second in which nothing is read.
        offsets = np.frombuffer(targets.offsets.buffers()[1], np.int32)
        start = targets.offsets.offset
        places = offsets[start : start + len(targets) + 1]
        self._first_target: list[int] = (places - places[0]).tolist()
        flat = targets.values.slice(int(places[0]), self._first_target[-1])
        self._mask = flat.field("mask").field("bytes")
        # All at once: one by one, each value would cost more than the image's bytes.
        self._texts = [flat.field(name).to_pylist() for name in _TEXTS]

    @property
    def rows(self) -> int:
        """Number of images."""
        return len(self._image)

    @property
    def targets(self) -> int:
        """Number of questions about them."""
        return len(self._mask)

    def image(self, row: int) -> StoredImage:
        """An image with all its targets."""
        first, last = self._first_target[row], self._first_target[row + 1]
        return self._stored(row, range(first, last))

    def target(self, number: int) -> StoredImage:
        """The image of a target, with this target alone."""
        return self._stored(self.row_of(number), range(number, number + 1))

    def row_of(self, number: int) -> int:
        """The row of a target's image."""
        # NumPy would let Python's lock go for it, and wait behind the threads that decode.
        return bisect_right(self._first_target, number) - 1

    def size(self, row: int) -> tuple[int, int]:
        """Stored width and height of an image in pixels."""
        return self._width[row].as_py(), self._height[row].as_py()

    def _stored(self, row: int, targets: range) -> StoredImage:
        return StoredImage(
            image=self._image[row].as_py(),
            where=f"{self._where}, row {row}",
            modality=self._modality[row] or None,
            targets=tuple(
                StoredTarget(self._mask[number].as_py(), *(text[number] for text in self._texts))
                for number in targets
            ),
        )


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; combining, which copies, is needed only where it is not one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def read_row_group(store: Store, shard: Shard, number: int, footer: pq.FileMetaData) -> RowGroup:
    """Read a row group with one ranged read and check it.

    Raises:
        DataError: it is missing or damaged; the message names shard and row group.
    """
    groups = shard.row_groups
    where = f"{store.where(shard.name)} row group {number}"
    data = read_checked(
        store, shard.name, groups.offsets[number], groups.lengths[number], groups.crc32[number],
        f"row group {number}",
    )  # fmt: skip
    return parse_row_group(data, groups.offsets[number], number, footer, where)


def read_footer(store: Store, shard: Shard) -> pq.FileMetaData:
    """Read and check Parquet's own description of a shard.

    Raises:
        DataError: it is missing or damaged.
    """
    footer = shard.footer
    length = shard.size - footer.offset
    data = read_checked(store, shard.name, footer.offset, length, footer.crc32, "footer")
    return parse_footer(data, f"{store.where(shard.name)} footer")


def read_checked(store: Store, name: str, offset: int, length: int, crc32: int, part: str) -> bytes:
    """Bytes of a shard whose checksum is right; a damaged transfer is repeated.

    Raises:
        DataError: the file is missing, unreadable or damaged; the message names ``part``.
    """
    where = f"{store.where(name)} {part}"
    for _ in range(_ATTEMPTS):
        try:
            data = store.read(name, offset, length)
        except StorageError as error:
            raise DataError(f"{where}: {error}") from error
        if zlib.crc32(data) == crc32:
            return data
    raise DataError(
        f"{where}: the checksum is wrong each of {_ATTEMPTS} times, so the file is damaged; "
        "'launch/data.py check' lists what is, build or copy the shard again"
    )


def parse_footer(data: bytes, where: str) -> pq.FileMetaData:
    """Parquet's description of a file from the last bytes of it.

    Raises:
        DataError: it is none.
    """
    try:
        return pq.read_metadata(pa.BufferReader(b"PAR1" + data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where}: not a Parquet footer ({error})") from error


def parse_row_group(
    data: bytes, offset: int, number: int, footer: pq.FileMetaData, where: str
) -> RowGroup:
    """A row group from its bytes, which start at ``offset`` of their file.

    Raises:
        DataError: they are not the row group that the footer describes.
    """
    view = memoryview(data)

    def part(start: int, length: int) -> memoryview:
        if start < offset:
            raise OSError(f"byte {start} lies before the row group")
        return view[start - offset : start - offset + length]

    try:
        whole = RangeFile(offset + len(data), part)
        file = pq.ParquetFile(pa.PythonFile(whole, mode="r"), metadata=footer)
        table = file.read_row_group(number, columns=_COLUMNS, use_threads=False)
        return RowGroup(table, where)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{where}: not a row group of this format ({error})") from error
