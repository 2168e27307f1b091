"""``dataset.json``: which shards a dataset has, and what is in them.

It is written last, so a dataset that has one is complete. Its text never changes once it is there:
the order in which a dataset is read follows from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from prs_med.data.dataset.checksums import crc32_text
from prs_med.data.records import DataError
from prs_med.storage.store import (
    MissingFileError,
    StorageAwayError,
    StorageError,
    Store,
    check_name,
)

NAME = "dataset.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
FORMAT = 2
"""Format 1 has CRC-32 as numbers, and its shards no places; it is still read."""


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a shard, in file order; each list has one number for each of them."""

    rows: list[int]
    """Images."""
    targets: list[int]
    """Questions about them."""
    offsets: list[int]
    """First byte in the file."""
    lengths: list[int]
    """Bytes in the file."""
    checksums: list[str]
    """Checksums of these bytes."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Footer:
    """Parquet's own description of a shard, from ``offset`` to the end of the file."""

    offset: int
    checksum: str


@dataclass(frozen=True)
class Shard:
    """One Parquet file."""

    name: str
    """Relative to the folder of ``dataset.json``."""
    size: int
    """Bytes."""
    sha256: str
    row_groups: RowGroups
    footer: Footer


@dataclass(frozen=True)
class Split:
    """The shards of one split, and what it holds in all."""

    shards: list[Shard]
    modalities: list[str]
    """Names that occur, in alphabetical order."""
    longest_text: int
    """Bytes of the longest question with its answer, in UTF-8."""

    @property
    def rows(self) -> int:
        """Number of images."""
        return sum(sum(shard.row_groups.rows) for shard in self.shards)

    @property
    def targets(self) -> int:
        """Number of questions."""
        return sum(sum(shard.row_groups.targets) for shard in self.shards)


@dataclass(frozen=True)
class DatasetIndex:
    """What ``dataset.json`` says."""

    splits: dict[str, Split]
    """By name: ``train``, ``val``, ``test``; a split without rows is not there."""
    built_from: str
    """SHA-256 of the inputs and settings it was built from."""
    held_out: str = ""
    """How images were held out for validation and test, if no row was labelled so."""
    duplicates: list[str] = field(default_factory=list)
    """Images and masks that are in several splits, if that was allowed."""
    shared_groups: str = ""
    """How many patients are in several splits, if any are, as labelled."""
    split_sha256: str = ""
    """SHA-256 of ``split.json`` (:mod:`prs_med.data.stored_split`); empty where there is none."""

    def dumps(self) -> str:
        """The text of ``dataset.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":")) + "\n"


@dataclass(frozen=True)
class OpenedIndex:
    """An index that was read from a store."""

    index: DatasetIndex
    fingerprint: str
    """SHA-256 of the text of ``dataset.json``: the dataset's identity."""

    def split(self, name: str) -> Split:
        """The split of this name.

        Raises:
            DataError: there is none.
        """
        found = self.index.splits.get(name)
        if found is None:
            raise DataError(
                f"the dataset has no split {name!r}; it has {', '.join(self.index.splits)}; label "
                "rows, or hold out images when it is built (--val_fraction, --test_fraction)"
            )
        return found


def read_index(store: Store) -> OpenedIndex:
    """Read and check ``dataset.json``.

    Raises:
        DataError: there is none, or it is not one that this version reads.
        StorageAwayError: the store does not answer for now.
    """
    where = store.where(NAME)
    try:
        text = store.read(NAME)
    except MissingFileError:
        raise DataError(
            f"{where}: no such file; a dataset is made by 'launch/data.py build', which writes "
            "this file last: without it the dataset is not complete"
        ) from None
    except StorageAwayError:
        raise
    except StorageError as error:
        raise DataError(str(error)) from None
    return OpenedIndex(parse_index(text, where), hashlib.sha256(text).hexdigest())


def orphans(store: Store, index: DatasetIndex) -> list[str]:
    """The Parquet files in a store that the dataset there does not name. Programs that take all
    Parquet files of a folder, as ``load_dataset`` does, read them all the same.

    Raises:
        StorageError: the store cannot be listed.
    """
    named = {shard.name for split in index.splits.values() for shard in split.shards}
    return [name for name in store.names() if name.endswith(".parquet") and name not in named]


def parse_index(text: bytes, where: str) -> DatasetIndex:
    """The index that the text of a ``dataset.json`` describes.

    Raises:
        DataError: it is none, or of another format; the message starts with ``where``.
    """
    try:
        loaded = json.loads(text)
        if loaded["format"] not in (1, FORMAT):
            raise DataError(
                f"{where}: format {loaded['format']}, but this version reads formats 1 and "
                f"{FORMAT}; build the dataset again or use the version that wrote it"
            )
        return DatasetIndex(
            splits={name: _split(split) for name, split in loaded["splits"].items()},
            built_from=loaded["built_from"],
            held_out=loaded["held_out"],
            duplicates=loaded["duplicates"],
            # Datasets of earlier versions do not say.
            shared_groups=str(loaded.get("shared_groups", "")),
            split_sha256=str(loaded.get("split_sha256", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not a description of a dataset ({error!r})") from None


def parse_shard(loaded: dict[str, Any]) -> Shard:
    """A shard from its JSON form, that of format 1 included.

    Raises:
        ValueError, KeyError, TypeError: it is none, or leads out of the dataset's folder.
    """
    described = dict(loaded["row_groups"])
    footer = loaded["footer"]
    if "crc32" in described:
        described["checksums"] = [crc32_text(number) for number in described.pop("crc32")]
        footer = {"offset": footer["offset"], "checksum": crc32_text(footer["crc32"])}
    groups = RowGroups(**{spec.name: described[spec.name] for spec in fields(RowGroups)})
    lists = [groups.rows, groups.targets, groups.offsets, groups.lengths]
    if not all(isinstance(number, int) and number >= 0 for each in lists for number in each):
        raise ValueError(f"shard {loaded['name']}: row groups must be described by numbers")
    if not all(isinstance(checksum, str) for checksum in groups.checksums):
        raise ValueError(f"shard {loaded['name']}: checksums of row groups must be text")
    if {len(numbers) for numbers in lists} != {len(groups.checksums)} or not all(groups.rows):
        raise ValueError(f"shard {loaded['name']}: row groups are not described completely")
    # It becomes the name of a file in a cache.
    if not _SHA256.fullmatch(loaded["sha256"]):
        raise ValueError(f"shard {loaded['name']}: sha256 is no SHA-256")
    size = int(loaded["size"])
    ends = [start + length for start, length in zip(groups.offsets, groups.lengths, strict=True)]
    if max([*ends, int(footer["offset"])]) > size:
        raise ValueError(f"shard {loaded['name']}: is said to end before its row groups do")
    return Shard(
        name=check_name(loaded["name"]),
        size=size,
        sha256=loaded["sha256"],
        row_groups=groups,
        footer=Footer(int(footer["offset"]), str(footer["checksum"])),
    )


def _split(loaded: dict[str, Any]) -> Split:
    return Split(
        shards=[parse_shard(shard) for shard in loaded["shards"]],
        modalities=[str(name) for name in loaded["modalities"]],
        longest_text=int(loaded["longest_text"]),
    )
