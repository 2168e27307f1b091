"""Divide records into training, validation and test, an image never on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prs_med.data.records import DataError, Record


@dataclass(frozen=True)
class Splits:
    """The records of each split, in the order they were read."""

    train: list[Record]
    val: list[Record]
    test: list[Record]

    held_out: bool
    """True when no row was labelled ``val`` and training images were held out instead."""


def split_records(records: Sequence[Record], val_fraction: float, seed: int) -> Splits:
    """Divide records by their ``split``; without validation rows, hold out training images.

    Rows without a split are training rows. The held-out images are chosen by a hash of the seed
    and the end of their path, so the choice is the same on every machine, wherever the data lies.
    At least one image is held out of two or more; one image alone is never held out.

    Args:
        records: rows as read.
        val_fraction: share of the training images to hold out, 0 <= val_fraction < 1; 0 holds out
            none. It has no effect where rows are labelled ``val``.
        seed: another seed holds out other images.

    Raises:
        ValueError: val_fraction is out of range.
        DataError: an image belongs to two splits.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    images = _resolved_images(records)
    _check_disjoint(records, images)
    train = [record for record in records if record.split in ("train", "")]
    val = [record for record in records if record.split == "val"]
    test = [record for record in records if record.split == "test"]
    if val or val_fraction == 0:
        return Splits(train, val, test, held_out=False)
    chosen = _choose({images[record.image_path] for record in train}, val_fraction, seed)
    val = [record for record in train if images[record.image_path] in chosen]
    train = [record for record in train if images[record.image_path] not in chosen]
    return Splits(train, val, test, held_out=bool(val))


def _resolved_images(records: Sequence[Record]) -> dict[Path, Path]:
    """Every image path with its links followed: two names of one file are one image."""
    return {path: path.resolve() for path in {record.image_path for record in records}}


def _check_disjoint(records: Sequence[Record], images: dict[Path, Path]) -> None:
    first_rows: dict[Path, Record] = {}
    for record in records:
        first = first_rows.setdefault(images[record.image_path], record)
        if (first.split or "train") != (record.split or "train"):
            raise DataError(
                f"{record.row_id}: image {record.image_path} is in split "
                f"{record.split or 'train'!r} here and in {first.split or 'train'!r} at "
                f"{first.row_id}; give all rows of an image one split"
            )


def _choose(images: Iterable[Path], fraction: float, seed: int) -> set[Path]:
    """The share of images with the smallest hashes."""

    def order(image: Path) -> tuple[bytes, str]:
        # Task, folder and name identify an image of the official layout; what lies above them
        # differs between machines and must not change the choice.
        name = "/".join(image.parts[-3:])
        return hashlib.sha256(f"{seed}\n{name}".encode()).digest(), str(image)

    ordered = sorted(images, key=order)
    if len(ordered) < 2:
        return set()
    count = min(max(1, round(fraction * len(ordered))), len(ordered) - 1)
    return set(ordered[:count])
