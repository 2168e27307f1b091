"""Divide records into training, validation and test, an image never on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
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

    shared_groups: list[str] = field(default_factory=list)
    """One message for each patient or study that the data's own labels put into several splits,
    with a row of each. They are left there: official splits may be so."""


def split_records(records: Sequence[Record], val_fraction: float, seed: int) -> Splits:
    """Divide records by their ``split``; without validation rows, hold out training images.

    Rows without a split are training rows. What is held out are whole groups: all images of a
    patient or study, or one image that belongs to none, each with all its rows. They are chosen by
    a hash of the seed and the group's name, or the end of the image's path, so the choice is the
    same on every machine, wherever the data lies. At least one group is held out of two or more;
    one group alone is never held out.

    Args:
        records: rows as read.
        val_fraction: share of the training images to hold out, 0 <= val_fraction < 1; 0 holds out
            none. Groups are taken as long as they bring the share closer to it. It has no effect
            where rows are labelled ``val``.
        seed: another seed holds out other groups.

    Raises:
        ValueError: val_fraction is out of range.
        DataError: an image belongs to two splits.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    images = _resolved_images(records)
    _check_disjoint(records, images)
    shared = _shared_groups(records)
    train = [record for record in records if record.split in ("train", "")]
    val = [record for record in records if record.split == "val"]
    test = [record for record in records if record.split == "test"]
    if val or val_fraction == 0:
        return Splits(train, val, test, held_out=False, shared_groups=shared)
    chosen = _choose(_groups(train, images), val_fraction, seed)
    val = [record for record in train if images[record.image_path] in chosen]
    train = [record for record in train if images[record.image_path] not in chosen]
    return Splits(train, val, test, held_out=bool(val), shared_groups=shared)


def held_out_text(val_fraction: float) -> str:
    """How validation images were chosen where none were labelled."""
    return (
        f"no row is labelled val: {val_fraction:.0%} of the training images are held out for "
        "validation (--val_fraction)"
    )


def _resolved_images(records: Sequence[Record]) -> dict[Path, Path]:
    """Every image path with its links followed: two names of one file are one image."""
    return {path: path.resolve() for path in {record.image_path for record in records}}


def _check_disjoint(records: Sequence[Record], images: dict[Path, Path]) -> None:
    first_rows: dict[Path, Record] = {}
    for record in records:
        first = first_rows.setdefault(images[record.image_path], record)
        if _label(first) != _label(record):
            raise DataError(
                f"{record.row_id}: image {record.image_path} is in split {_label(record)!r} here "
                f"and in {_label(first)!r} at {first.row_id}; give all rows of an image one split"
            )


def _label(record: Record) -> str:
    return record.split or "train"


def _shared_groups(records: Sequence[Record]) -> list[str]:
    first_rows: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.group:
            first_rows.setdefault(record.group, {}).setdefault(_label(record), record)
    return [
        f"patient or study {group!r} is in several splits: "
        + ", ".join(f"{split} ({record.row_id})" for split, record in rows.items())
        for group, rows in first_rows.items()
        if len(rows) > 1
    ]


@dataclass(frozen=True)
class _Group:
    """Images that stay together, and the names they go by: none, one, or several that share an
    image."""

    images: set[Path] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


def _groups(records: Sequence[Record], images: dict[Path, Path]) -> list[_Group]:
    """The groups of the records. Groups that have an image in common are one."""
    joined: dict[Path, Path] = {}

    def first_of(image: Path) -> Path:
        while joined[image] != image:
            joined[image] = joined[joined[image]]
            image = joined[image]
        return image

    first_images: dict[str, Path] = {}
    for record in records:
        image = images[record.image_path]
        joined.setdefault(image, image)
        if record.group:
            first = first_images.setdefault(record.group, image)
            joined[first_of(image)] = first_of(first)
    groups: dict[Path, _Group] = {}
    for image in joined:
        groups.setdefault(first_of(image), _Group()).images.add(image)
    for name, image in first_images.items():
        groups[first_of(image)].names.add(name)
    return list(groups.values())


def _choose(groups: Sequence[_Group], fraction: float, seed: int) -> set[Path]:
    """The images of those groups with the smallest hashes that make up the share."""

    def order(group: _Group) -> tuple[bytes, str]:
        # Task, folder and name identify an image of the official layout; what lies above them
        # differs between machines and must not change the choice.
        image = str(min(group.images))
        name = min(group.names) if group.names else "/".join(Path(image).parts[-3:])
        return hashlib.sha256(f"{seed}\n{name}".encode()).digest(), image

    wanted = max(1, round(fraction * sum(len(group.images) for group in groups)))
    chosen: list[_Group] = []
    number = 0
    for group in sorted(groups, key=order):
        closer = abs(number + len(group.images) - wanted) < abs(number - wanted)
        if closer and len(chosen) + 1 < len(groups):
            chosen.append(group)
            number += len(group.images)
    if not chosen and len(groups) > 1:
        # Every group is more than twice the share: the smallest comes closest.
        chosen = [min(groups, key=lambda group: (len(group.images), order(group)))]
    return {image for group in chosen for image in group.images}
