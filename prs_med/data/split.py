"""Divide records into training, validation and test, an image never on two sides.

The division depends on the usable rows, the seed and the shares alone: on where an image lies below
the data root, not on the root, the order of rows, or rows that cannot be used.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prs_med.config import RowSettings, fold_in
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

    test_held_out: bool = False
    """True when images were held out for the test."""

    how: str = ""
    """How images were held out, in a sentence for each split; empty where none were."""

    @property
    def shared_groups_text(self) -> str:
        """How many patients or studies the data's own labels put into several splits, of how many,
        and into which."""
        records = (record for part in (self.train, self.val, self.test) for record in part)
        return shared_groups_text((record.group, label_of(record)) for record in records)


def divide(records: Sequence[Record], settings: RowSettings, seed: int) -> Splits:
    """Divide records as the settings say; see :func:`split_records`."""
    return split_records(
        records,
        settings.val_fraction,
        seed,
        test_fraction=settings.test_fraction,
        fold=fold_in(settings.fold) if settings.fold else None,
    )


def split_records(
    records: Sequence[Record],
    val_fraction: float,
    seed: int,
    *,
    test_fraction: float = 0.0,
    fold: tuple[int, int] | None = None,
) -> Splits:
    """Divide records by their ``split``; without validation rows, hold out training images.

    Rows without a split are training rows. What is held out are whole groups: all images of a
    patient or study, or one image that belongs to none, each with all its rows. They are chosen by
    a hash of the seed and the group's name, or the end of the image's path below the data root, so
    the choice is the same on every machine, wherever the data lies. At least one group is held out
    of two or more.

    Args:
        records: usable rows.
        val_fraction: share of the images without labels ``val`` and ``test`` to hold out, 0 <=
            val_fraction < 1; 0 holds out none. Groups are taken as long as they bring the share
            closer to it. It has no effect where rows are labelled ``val``.
        seed: another seed holds out other groups.
        test_fraction: the same share for the test, taken before.
        fold: (2, 5) holds out the second of five parts instead of ``val_fraction``, which are as
            equal in images as groups allow and together hold every group once.

    Raises:
        ValueError: a share is out of range.
        DataError: an image belongs to two splits, shares or folds are asked for beside labels, or
            one patient has all images, so that none can be held out.
    """
    for name, share in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {share}")
    images = image_names(records)
    _check_disjoint(records, images)
    labelled = {
        name: [record for record in records if label_of(record) == name]
        for name in ("train", "val", "test")
    }
    _refuse_beside_labels("--test_fraction", test_fraction, labelled["test"])
    _refuse_beside_labels("--fold", fold and "/".join(map(str, fold)), labelled["val"])
    groups = _groups(labelled["train"], images)
    total = sum(len(group.images) for group in groups)
    how = []
    test: set[str] = set()
    if test_fraction:
        _refuse_one_group(groups, "the test", "--test_fraction")
        test = _choose(groups, round(test_fraction * total), f"test {seed}")
        groups = [group for group in groups if test.isdisjoint(group.images)]
        how.append(
            f"no row is labelled test: {test_fraction:.0%} of the training images are held out for "
            f"the test (--test_fraction): {_count(labelled['train'], images, test)}"
        )
    val: set[str] = set()
    if fold:
        val = _fold(groups, *fold, seed)
        how.append(
            f"no row is labelled val: part {fold[0]} of {fold[1]} of the training images is held "
            f"out for validation (--fold): {_count(labelled['train'], images, val)}"
        )
    elif val_fraction and not labelled["val"]:
        _refuse_one_group(groups, "validation", "--val_fraction")
        val = _choose(groups, round(val_fraction * total), str(seed))
        if val:
            how.append(
                f"no row is labelled val: {val_fraction:.0%} of the training images are held out "
                f"for validation (--val_fraction): {_count(labelled['train'], images, val)}"
            )

    def of(name: str, chosen: set[str]) -> list[Record]:
        if not chosen:
            return labelled[name]
        return [record for record in labelled["train"] if images[record.image_path] in chosen]

    taken = val | test
    train = [record for record in labelled["train"] if images[record.image_path] not in taken]
    return Splits(
        train,
        of("val", val),
        of("test", test),
        held_out=bool(val),
        shared_groups=_shared_groups(records),
        test_held_out=bool(test),
        how="; ".join(how),
    )


def image_names(records: Iterable[Record]) -> dict[Path, str]:
    """What tells each image from others, by its path: where it lies below the data root, links
    followed, so that two names of one file are one image; in Unicode's composed form (NFC)."""
    roots = {record.image_path: record.root for record in records}
    return {path: image_name(path, root) for path, root in roots.items()}


def image_name(path: Path, root: Path) -> str:
    """The same for one image; ``root`` is the data root, resolved."""
    return unicodedata.normalize("NFC", path.resolve().relative_to(root).as_posix())


def label_of(record: Record) -> str:
    """The split that the data itself puts a row into; that of training where it has no label."""
    return record.split or "train"


def shared_groups_text(groups: Iterable[tuple[str, str]]) -> str:
    """How many groups are in several splits: ``10 of 30 patients or studies are in several splits,
    as labelled (train and test: 10)``; empty if none is.

    Args:
        groups: a group, or nothing, and the split of each row.
    """
    splits: dict[str, dict[str, None]] = {}
    for group, split in groups:
        if group:
            splits.setdefault(group, {})[split] = None
    shared = Counter(" and ".join(found) for found in splits.values() if len(found) > 1)
    if not shared:
        return ""
    each = ", ".join(f"{names}: {count}" for names, count in shared.items())
    return (
        f"{shared.total()} of {len(splits)} patients or studies are in several splits, as labelled "
        f"({each})"
    )


def _check_disjoint(records: Sequence[Record], images: dict[Path, str]) -> None:
    first_rows: dict[str, Record] = {}
    for record in records:
        first = first_rows.setdefault(images[record.image_path], record)
        if label_of(first) != label_of(record):
            raise DataError(
                f"{record.row_id}: image {record.image_path} is in split {label_of(record)!r} here "
                f"and in {label_of(first)!r} at {first.row_id}; give all rows of an image one split"
            )


def _refuse_beside_labels(flag: str, value: object, labelled: Sequence[Record]) -> None:
    if value and labelled:
        split = label_of(labelled[0])
        raise DataError(
            f"{flag} {value}: rows are labelled {split} already, the first is "
            f"{labelled[0].row_id}; drop {flag}, or the labels"
        )


def _refuse_one_group(groups: Sequence[_Group], purpose: str, flag: str) -> None:
    """Refuse to go on without what was asked for because all is one patient's, as where every
    patient is called ``ANONYMOUS``."""
    if len(groups) == 1 and groups[0].names and len(groups[0].images) > 1:
        raise DataError(
            f"patient or study {min(groups[0].names)!r} has all {len(groups[0].images)} images "
            f"that could be held out for {purpose}: name a column that tells patients apart "
            f"(--group_column), label rows, or hold out none ({flag} 0)"
        )


def _shared_groups(records: Sequence[Record]) -> list[str]:
    first_rows: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.group:
            first_rows.setdefault(record.group, {}).setdefault(label_of(record), record)
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

    images: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def order(self, key: str) -> tuple[bytes, str]:
        """Where it comes in the order that a key draws."""
        image = min(self.images)
        # What lies above task, folder and name may be left out of the paths in CSV files.
        name = min(self.names) if self.names else "/".join(image.split("/")[-3:])
        return hashlib.sha256(f"{key}\n{name}".encode()).digest(), image


def _groups(records: Sequence[Record], images: dict[Path, str]) -> list[_Group]:
    """The groups of the records. Groups that have an image in common are one."""
    joined: dict[str, str] = {}

    def first_of(image: str) -> str:
        while joined[image] != image:
            joined[image] = joined[joined[image]]
            image = joined[image]
        return image

    first_images: dict[str, str] = {}
    for record in records:
        image = images[record.image_path]
        joined.setdefault(image, image)
        if record.group:
            first = first_images.setdefault(record.group, image)
            joined[first_of(image)] = first_of(first)
    groups: dict[str, _Group] = {}
    for image in joined:
        groups.setdefault(first_of(image), _Group()).images.add(image)
    for name, image in first_images.items():
        groups[first_of(image)].names.add(name)
    return list(groups.values())


def _choose(groups: Sequence[_Group], wanted: int, key: str) -> set[str]:
    """The images of those groups with the smallest hashes that make up so many images."""
    wanted = max(1, wanted)
    chosen: list[_Group] = []
    number = 0
    for group in sorted(groups, key=lambda group: group.order(key)):
        closer = abs(number + len(group.images) - wanted) < abs(number - wanted)
        if closer and len(chosen) + 1 < len(groups):
            chosen.append(group)
            number += len(group.images)
    if not chosen and len(groups) > 1:
        # Every group is more than twice the share: the smallest comes closest.
        chosen = [min(groups, key=lambda group: (len(group.images), group.order(key)))]
    return {image for group in chosen for image in group.images}


def _fold(groups: Sequence[_Group], number: int, parts: int, seed: int) -> set[str]:
    """The images of one of several parts. The largest groups are dealt first, each to the part that
    has the fewest images."""
    if len(groups) < parts:
        raise DataError(
            f"--fold {number}/{parts}: there are only {len(groups)} patients, studies or images of "
            "none to divide; use fewer parts"
        )
    dealt: list[set[str]] = [set() for _ in range(parts)]
    for group in sorted(groups, key=lambda g: (-len(g.images), g.order(f"fold {seed}"))):
        min(dealt, key=len).update(group.images)
    return dealt[number - 1]


def _count(records: Sequence[Record], images: dict[Path, str], chosen: set[str]) -> str:
    """How much of the training rows was chosen, in images and in groups."""
    of_all = {images[record.image_path] for record in records}
    groups = {record.group for record in records if record.group}
    held_out = {r.group for r in records if r.group and images[r.image_path] in chosen}
    text = f"{len(chosen)} of {len(of_all)} images"
    return f"{text}, {len(held_out)} of {len(groups)} patients or studies" if groups else text
