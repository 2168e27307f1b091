"""Write one shard: read and check its images and masks, and put them into a Parquet file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prs_med.data.dataset.checksums import checksum
from prs_med.data.dataset.features import column_compression, schema
from prs_med.data.dataset.index import Footer, RowGroups, Shard, parse_shard
from prs_med.data.dataset.places import KEY, dump_places, find_places
from prs_med.data.images import (
    check_same_size,
    decode_image,
    decode_mask,
    encode_mask,
    read_bytes,
)
from prs_med.data.position import position_of
from prs_med.data.records import DataError, Record

_MAGIC_AND_LENGTH = 8


@dataclass(frozen=True)
class SourceImage:
    """An image file and all rows that ask about it."""

    path: str
    """Below the data root, with forward slashes."""
    records: tuple[Record, ...]
    nbytes: int
    """Size of the image and its masks as files."""


@dataclass(frozen=True)
class ShardReport:
    """A finished shard, and what the whole dataset must know of it."""

    shard: Shard | None
    """None if all rows were bad: then there is no file."""
    modalities: list[str]
    longest_text: int
    """Bytes of the longest question with its answer, in UTF-8."""
    contents: list[list[str]]
    """For each image and each mask that is not empty: its kind, the start of its SHA-256 and the
    row that names it."""
    bad_rows: list[str] = field(default_factory=list)

    def dumps(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    @staticmethod
    def parse(loaded: dict[str, Any]) -> ShardReport:
        """A report from its JSON values.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        shard = None if loaded["shard"] is None else parse_shard(loaded["shard"])
        return ShardReport(**{**loaded, "shard": shard})


@dataclass(frozen=True)
class _Row:
    """An image that was read: its values by column, what it contains, and its bad rows."""

    values: dict[str, Any] | None
    """None if no question about it can be used."""
    contents: list[list[str]]
    bad_rows: list[str]


def write_shard(
    path: Path,
    name: str,
    row_groups: Sequence[Sequence[SourceImage]],
    *,
    skip_bad_rows: bool,
    pool: ThreadPoolExecutor,
    done: Callable[[int], object],
) -> ShardReport:
    """Write the images of a shard to a local file.

    Args:
        path: file to write.
        name: the shard's name in the dataset.
        row_groups: the images of each row group.
        skip_bad_rows: list rows that cannot be used in the report rather than raise.
        pool: threads that read and decode.
        done: called with the number of images after each row group.

    Raises:
        DataError: for a row that cannot be used, with file and line.
    """
    columns = schema()
    compression = column_compression(columns)
    texts = [leaf for leaf, method in compression.items() if method != "none"]
    contents: list[list[str]] = []
    bad_rows: list[str] = []
    modalities: set[str] = set()
    longest = 0
    written: list[tuple[int, int]] = []
    places = []
    with (
        path.open("w+b") as file,
        pq.ParquetWriter(
            file,
            columns,
            compression=compression,
            use_dictionary=texts,
            write_statistics=texts,
            write_page_checksum=True,
        ) as writer,
    ):
        for images in row_groups:
            rows = list(pool.map(lambda image: _read(image, skip_bad_rows), images))
            contents += [entry for row in rows for entry in row.contents]
            bad_rows += [message for row in rows for message in row.bad_rows]
            values = [row.values for row in rows if row.values is not None]
            done(len(images))
            if not values:
                continue
            targets = [target for value in values for target in value["targets"]]
            modalities |= {value["modality"] for value in values if value["modality"]}
            longest = max(
                longest,
                *(len((t["question"] + t["answer"]).encode()) for t in targets),
            )
            # One call of write_table is one row group.
            table = pa.Table.from_pylist(values, schema=columns)
            start = file.tell()
            writer.write_table(table, row_group_size=len(values))
            file.flush()
            written.append((len(values), len(targets)))
            places.append(
                find_places(
                    os.pread(file.fileno(), file.tell() - start, start),
                    start,
                    [value["image"]["bytes"] for value in values],
                    [target["mask"]["bytes"] for target in targets],
                )
            )
        if places:
            writer.add_key_value_metadata({KEY: dump_places(places)})
    shard = _describe(path, name, written) if written else None
    return ShardReport(shard, sorted(modalities), longest, contents, bad_rows)


def _read(image: SourceImage, skip_bad_rows: bool) -> _Row:
    """Read and check an image and its masks."""
    first = image.records[0]
    bad_rows: list[str] = []
    contents: list[list[str]] = []
    targets: list[dict[str, Any]] = []
    try:
        data = read_bytes(first.image_path)
        decoded = decode_image(data, str(first.image_path))
    except DataError as error:
        message = f"{first.row_id}: {error}"
        if not skip_bad_rows:
            raise DataError(message) from None
        return _Row(None, [], [f"{record.row_id}: {error}" for record in image.records])
    for record in image.records:
        try:
            mask_data = read_bytes(record.mask_path)
            mask = decode_mask(mask_data, str(record.mask_path), record.mask_class)
            check_same_size(decoded, mask, record.row_id)
        except DataError as error:
            message = str(error)
            if not message.startswith(record.row_id):
                message = f"{record.row_id}: {message}"
            if not skip_bad_rows:
                raise DataError(message) from None
            bad_rows.append(message)
            continue
        mask_name = record.mask_path.name
        if record.mask_class is not None:
            mask_data = encode_mask(mask)
            mask_name = f"{record.mask_path.stem}_{record.mask_class.file_name}.png"
        position = position_of(mask) if mask.any() else None
        if position:
            contents.append(["mask", _digest(mask_data), record.row_id])
        targets.append(
            {
                "mask": {"bytes": mask_data, "path": mask_name},
                "question": record.question,
                "answer": record.answer,
                "position": record.position,
                "zone": position.zone if position else None,
                "near_center": position.near_center if position else None,
                "row_id": record.row_id,
            }
        )
    if not targets:
        return _Row(None, [], bad_rows)
    contents.append(["image", _digest(data), targets[0]["row_id"]])
    values = {
        "image": {"bytes": data, "path": image.path},
        "width": decoded.width,
        "height": decoded.height,
        "modality": first.modality or "",
        "task": first.task,
        "group": first.group,
        "targets": targets,
    }
    return _Row(values, contents, bad_rows)


def _describe(path: Path, name: str, written: Sequence[tuple[int, int]]) -> Shard:
    """What ``dataset.json`` says of a shard, from its file."""
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == len(written), "a row group was split"
    data = path.read_bytes()
    footer = len(data) - _MAGIC_AND_LENGTH - int.from_bytes(data[-8:-4], "little")
    starts = [_start(metadata.row_group(number)) for number in range(len(written))]
    ranges = list(zip(starts, [*starts[1:], footer], strict=True))
    return Shard(
        name=name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        row_groups=RowGroups(
            rows=[rows for rows, _ in written],
            targets=[targets for _, targets in written],
            offsets=starts,
            lengths=[end - start for start, end in ranges],
            checksums=[checksum(memoryview(data)[start:end]) for start, end in ranges],
        ),
        footer=Footer(footer, checksum(memoryview(data)[footer:])),
    )


def _start(group: Any) -> int:
    """First byte of a row group: its columns lie one behind the other."""

    def offsets() -> Iterator[int]:
        for number in range(group.num_columns):
            column = group.column(number)
            yield column.data_page_offset
            if column.has_dictionary_page:
                yield column.dictionary_page_offset

    return min(offsets())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
