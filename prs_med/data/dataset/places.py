"""Where in a shard its encoded images and masks lie, so that they need no Parquet decoder.

They are stored as they were, uncompressed, so the bytes of a file stand in the shard in one piece.
The list of places is in the metadata of the Parquet footer under :data:`KEY`: for each row group
first all that comes behind its images, then its images, then its masks. An entry has 20 bytes,
little-endian: first byte in the file (64 bits), length (32) and XXH3 (64); the whole is written in
base64, because metadata are texts. Shards of format 1 have none.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import xxhash

from prs_med.storage.store import Buffer

KEY = "prs_med.places"
_ENTRY = np.dtype([("start", "<u8"), ("length", "<u4"), ("xxh3", "<u8")])
_LENGTH_BYTES = 4
"""Parquet writes the length of a value before it."""


class Place(NamedTuple):
    """Some bytes of a shard."""

    start: int
    """First byte in the file."""
    length: int
    """Bytes."""
    xxh3: int
    """XXH3 of them, 64 bits."""

    @property
    def end(self) -> int:
        """The byte behind them."""
        return self.start + self.length

    def holds(self, data: Buffer) -> bool:
        """Whether bytes are the right ones for this place."""
        return xxhash.xxh3_64_intdigest(data) == self.xxh3


class Places:
    """Places as lists of numbers: that many small objects would keep Python's garbage collector
    busy."""

    def __init__(self, entries: np.ndarray) -> None:
        """``entries`` as in the footer."""
        self._starts = entries["start"].tolist()
        self._lengths = entries["length"].tolist()
        self._digests = entries["xxh3"].tolist()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Place:
        return Place(self._starts[number], self._lengths[number], self._digests[number])

    def __iter__(self) -> Iterator[Place]:
        return map(Place, self._starts, self._lengths, self._digests)


class RowGroupPlaces:
    """What lies where in a row group."""

    def __init__(self, entries: np.ndarray, rows: int) -> None:
        """``entries`` as in the footer, for a row group of so many images."""
        (self.rest,) = Places(entries[:1])
        """All columns but the images."""
        self.images = Places(entries[1 : 1 + rows])
        """One for each row."""
        self.masks = Places(entries[1 + rows :])
        """One for each question."""


def find_places(
    data: bytes, offset: int, images: Sequence[bytes], masks: Sequence[bytes]
) -> np.ndarray:
    """The entries for a row group that was just written.

    Args:
        data: the row group.
        offset: its first byte in the file.
        images: in the order of the rows.
        masks: in the order of the questions.

    Raises:
        ValueError: they are not in it one behind the other.
    """
    at = 0
    values: list[tuple[int, int]] = []
    for value in (*images, *masks):
        # Found at once, except where Parquet begins a new page or column.
        start = data.index(len(value).to_bytes(_LENGTH_BYTES, "little") + value, at) + _LENGTH_BYTES
        at = start + len(value)
        values.append((start, at))
    rest = (values[len(images) - 1][1], len(data))
    return np.array(
        [
            (offset + start, end - start, xxhash.xxh3_64_intdigest(memoryview(data)[start:end]))
            for start, end in (rest, *values)
        ],
        _ENTRY,
    )


def dump_places(groups: Sequence[np.ndarray]) -> str:
    """The text for the footer of a shard with the entries of its row groups."""
    return base64.b64encode(np.concatenate(groups).tobytes()).decode("ascii")


class ShardPlaces:
    """The places in a shard, as its footer has them."""

    def __init__(self, text: bytes, rows: Sequence[int], targets: Sequence[int]) -> None:
        """``rows`` and ``targets``: images and questions of each row group.

        Raises:
            ValueError: the text is not about such row groups.
        """
        try:
            self._entries = np.frombuffer(base64.b64decode(text, validate=True), _ENTRY)
        except binascii.Error as error:
            raise ValueError(f"places are not in base64: {error}") from None
        self._rows = rows
        counts = [1 + sum(pair) for pair in zip(rows, targets, strict=True)]
        self._ends = list(accumulate(counts))
        if len(self._entries) != self._ends[-1]:
            raise ValueError(f"{len(self._entries)} places rather than {self._ends[-1]}")

    def row_group(self, number: int) -> RowGroupPlaces:
        """The places in one row group."""
        first = self._ends[number - 1] if number else 0
        return RowGroupPlaces(self._entries[first : self._ends[number]], self._rows[number])
