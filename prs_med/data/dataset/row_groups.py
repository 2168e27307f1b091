"""Read the rows of one row group out of its bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import partial

import numpy as np
import pyarrow as pa

from prs_med.data.dataset.checked_read import read_checked
from prs_med.data.dataset.checksums import matches
from prs_med.data.dataset.encoded_images import Images, ImagesInArray, ImagesInFile, ImagesInMemory
from prs_med.data.dataset.index import Shard
from prs_med.data.dataset.places import Places, RowGroupPlaces
from prs_med.data.dataset.shard_footer import ShardFooter, parse_footer
from prs_med.data.dataset.stored import StoredImage, StoredTarget
from prs_med.storage.open_file import OpenFile
from prs_med.storage.store import Store

_TEXTS = ("question", "answer", "row_id", "zone", "near_center")
"""The fields of :class:`StoredTarget` behind its mask, in order."""

_ELEMENT = "targets.list.element"
_COLUMNS = ["modality", *(f"{_ELEMENT}.{name}" for name in _TEXTS)]
"""Parquet's names of what is handed out beside images and masks; each further column would cost
time in every row group."""

_ENCODED = ["image.bytes", f"{_ELEMENT}.mask.bytes"]


class RowGroup:
    """The rows of one row group."""

    def __init__(self, table: pa.Table, images: Images, masks: Iterable[bytes], where: str) -> None:
        """``table`` has the other columns."""
        self._where = where
        self._images = images
        self._modality = _chunk(table["modality"]).to_pylist()
        targets = _chunk(table["targets"])
        self._first_target = _first_targets(targets)
        flat = _flat(targets)
        # All at once: one by one, each value would cost more than the image's bytes.
        texts = (flat.field(name).to_pylist() for name in _TEXTS)
        self._targets = list(map(StoredTarget, masks, *texts))

    @property
    def rows(self) -> int:
        """Number of images."""
        return len(self._images)

    @property
    def targets(self) -> int:
        """Number of questions about them."""
        return len(self._targets)

    def image(self, row: int) -> StoredImage:
        """An image with all its targets."""
        first, last = self._first_target[row], self._first_target[row + 1]
        return self._stored(row, tuple(self._targets[first:last]))

    def target(self, number: int) -> StoredImage:
        """The image of a target, with this target alone."""
        return self._stored(self.row_of(number), (self._targets[number],))

    def row_of(self, number: int) -> int:
        """The row of a target's image."""
        # NumPy would let Python's lock go for it, and wait behind the threads that decode.
        return bisect_right(self._first_target, number) - 1

    def _stored(self, row: int, targets: tuple[StoredTarget, ...]) -> StoredImage:
        modality = self._modality[row] or None
        return StoredImage(self._images[row], self._where, row, modality, targets)


def row_group_in_memory(
    data: bytes, offset: int, number: int, footer: ShardFooter, where: str
) -> RowGroup:
    """A row group from its bytes, which were checked and start at ``offset`` of their file.

    Raises:
        DataError: they are not the row group that the footer describes.
    """
    places = footer.places(number)
    if places is None:
        return decoded_row_group(data, offset, number, footer, where)
    table = footer.columns(data, offset, number, _COLUMNS, where)
    images = ImagesInMemory(data, offset, places.images)
    return RowGroup(table, images, _pieces(data, offset, places.masks), where)


def row_group_in_file(
    file: OpenFile, number: int, places: RowGroupPlaces, footer: ShardFooter, where: str
) -> RowGroup:
    """A row group of a file on this machine, of which images are read when they are asked for.

    Raises:
        DataError: it is missing or damaged.
    """
    first, rest = places.images[0].start, places.rest
    data = read_checked(partial(file.read, rest.start, rest.length), rest.holds, where)
    table = footer.columns(data, rest.start, number, _COLUMNS, where)
    masks = _pieces(data, rest.start, places.masks)
    # Now that nothing of this row group waits behind it.
    file.will_need(first, rest.start - first)
    return RowGroup(table, ImagesInFile(file, places.images, where), masks, where)


def decoded_row_group(
    data: bytes, offset: int, number: int, footer: ShardFooter, where: str
) -> RowGroup:
    """:func:`row_group_in_memory`, with images and masks as any reader of Parquet finds them."""
    table = footer.columns(data, offset, number, [*_ENCODED, *_COLUMNS], where)
    images = ImagesInArray(_chunk(table["image"]).field("bytes"))
    masks = _flat(_chunk(table["targets"])).field("mask").field("bytes").to_pylist()
    return RowGroup(table, images, masks, where)


def read_row_group(store: Store, shard: Shard, number: int, footer: ShardFooter) -> RowGroup:
    """Read a row group with one ranged read and check it.

    Raises:
        DataError: it is missing or damaged; the message names shard and row group.
    """
    groups = shard.row_groups
    offset, length = groups.offsets[number], groups.lengths[number]
    where = f"{store.where(shard.name)} row group {number}"
    data = read_part(store, shard.name, offset, length, groups.checksums[number], where)
    return row_group_in_memory(data, offset, number, footer, where)


def read_footer(store: Store, shard: Shard) -> ShardFooter:
    """Read and check the footer of a shard.

    Raises:
        DataError: it is missing or damaged.
    """
    offset, checksum = shard.footer.offset, shard.footer.checksum
    where = f"{store.where(shard.name)} footer"
    data = read_part(store, shard.name, offset, shard.size - offset, checksum, where)
    return parse_footer(data, shard, where)


def read_part(
    store: Store, name: str, offset: int, length: int, checksum: str, where: str
) -> bytes:
    """Bytes of a shard whose checksum is right.

    Raises:
        DataError: the file is missing, unreadable or damaged; the message starts with ``where``.
    """
    read = partial(store.read, name, offset, length)
    return read_checked(read, lambda data: matches(data, checksum), where)


def _pieces(data: bytes, offset: int, places: Places) -> list[bytes]:
    """What lies at some places, in bytes that start at ``offset`` of the file."""
    return [data[place.start - offset : place.end - offset] for place in places]


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; combining, which copies, is needed only where it is not one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _first_targets(targets: pa.ListArray) -> list[int]:
    """The number of the first target of each row, and of all targets."""
    places = _offsets(targets)
    return (places - places[0]).tolist()


def _flat(targets: pa.ListArray) -> pa.StructArray:
    """The targets of all rows, one behind the other."""
    places = _offsets(targets)
    return targets.values.slice(int(places[0]), int(places[-1] - places[0]))


def _offsets(targets: pa.ListArray) -> np.ndarray:
    # Not through to_numpy and flatten, whose first call imports pandas and compute functions:
    # half a second in which nothing is read.
    offsets = np.frombuffer(targets.offsets.buffers()[1], np.int32)
    start = targets.offsets.offset
    return offsets[start : start + len(targets) + 1]
