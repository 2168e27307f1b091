"""Which images of a data root belong to which masks, before there are questions about them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prs_med.data.columns import SPLITS, has_split, named_columns, split_of
from prs_med.data.groups import GROUP_COLUMNS, check_one_group, group_of_columns
from prs_med.data.paths import (
    EXTENSIONS,
    SHARED_FOLDER,
    image_and_mask,
    relative,
    split_of_folder,
    task_of,
)
from prs_med.data.records import DataError
from prs_med.data.table import Row, read_table
from prs_med.mask_classes import MaskClass

# What operating systems leave in folders that they show.
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Pair:
    """An image and a mask of it; paths are relative to the data root."""

    image: PurePosixPath
    mask: PurePosixPath
    task: str
    """Empty where neither folder nor column tells."""
    split: str
    """``train``, ``val`` or ``test``; empty where neither folder nor column tells."""
    modality: str
    """The task where no column tells."""
    patient_id: str
    """Patient or study; empty where no column tells."""
    structure: str = ""
    """What the mask shows; empty where no column tells."""


def find_pairs(data_root: Path, pairs_csv: Path | None) -> list[Pair]:
    """Find the images of a data root and their masks.

    Args:
        data_root: folder that all paths are relative to; none may lead out of it.
        pairs_csv: CSV file with the columns ``image_path`` and ``mask_path``, and if known
            ``task``, ``modality``, ``split`` and a column of the patient
            (:data:`prs_med.data.groups.GROUP_COLUMNS`). None takes the files in all folders that
            are called ``images`` or ``masks`` or end in ``_images`` or ``_masks``, such as
            ``lung_CT/train_images``.

    Returns:
        The pairs of the folders in alphabetical order, or those of the file in its own.

    Raises:
        DataError: an image without a mask, or in the folders a mask without an image; a path out
            of the data root; a wrong row, with its line; no pair at all.
    """
    root = data_root.resolve()
    if not root.is_dir():
        raise DataError(f"{data_root}: no such folder")
    return _of_folders(root) if pairs_csv is None else _of_table(root, pairs_csv)


def part_path(
    mask: PurePosixPath, number: int | None, shown: MaskClass | None = None
) -> PurePosixPath:
    """Where the mask of a single piece goes: ``lung_CT/train_masks_parts/a_1.png``, of a class
    ``a_tumor.1.png``, or ``a_tumor.png`` with all pieces.

    The folder's name does not end in ``masks``, so it is never searched for masks.

    Args:
        mask: the mask with all pieces, relative to the data root.
        number: number of the piece, from 1; None for all.
        shown: the class, of a mask with several.
    """
    of_class = f"_{shown.file_name}" if shown else ""
    of_piece = "" if number is None else f"{'.' if shown else '_'}{number}"
    folders = list(mask.parts[:-1])
    store = _store_folder(mask)
    if folders:
        folders[-1 if store is None else store] += "_parts"
    else:
        folders = ["masks_parts"]
    return PurePosixPath(*folders, f"{mask.stem}{of_class}{of_piece}.png")


def check_pairs(pairs: Sequence[Pair], classes: Sequence[MaskClass] = ()) -> None:
    """Refuse pairs that no annotation file can hold together.

    Raises:
        DataError: some have a split and others none, or the pieces of two masks would have one
            name.
    """
    with_split = next((pair for pair in pairs if pair.split), None)
    without = next((pair for pair in pairs if not pair.split), None)
    if with_split and without:
        raise DataError(
            f"{with_split.image} is of split {with_split.split!r}, but {without.image} of none: "
            "call its folders train_images and train_masks (or val, test), or name the split of "
            "every image in a CSV file of pairs"
        )
    owners: dict[PurePosixPath, PurePosixPath] = {}
    for pair in pairs:
        for one in classes or (None,):
            owner = owners.setdefault(part_path(pair.mask, 1, one), pair.mask)
            if owner != pair.mask:
                raise DataError(
                    f"masks {owner} and {pair.mask} are named so alike that their pieces would "
                    "have one name: rename one of them"
                )


def _of_folders(root: Path) -> list[Pair]:
    images: list[PurePosixPath] = []
    masks: list[PurePosixPath] = []
    for path, kind in _stored(root):
        (images if kind == "images" else masks).append(path)
    if not images:
        raise DataError(
            f"no image in {root}: put images into TASK/train_images and their masks into "
            "TASK/train_masks, or name them in a CSV file with image_path and mask_path"
        )
    owners: dict[PurePosixPath, PurePosixPath] = {}
    for image in sorted(images):
        found, mask = _resolved(root, image, None)
        if found != image:
            raise DataError(
                f"image {image} is named like a mask of {found}: rename it, or move it to the masks"
            )
        if mask in owners:
            raise DataError(
                f"images {owners[mask]} and {image} have one mask, {mask}: rename one of them and "
                "add its mask"
            )
        owners[mask] = image
    for mask in sorted(masks):
        if mask not in owners:
            raise DataError(f"mask {mask} has no image: add the image, or remove the mask")
    return [
        Pair(image, mask, task_of(image), split_of_folder(image), task_of(image), "")
        for mask, image in owners.items()
    ]


def _stored(root: Path) -> Iterator[tuple[PurePosixPath, str]]:
    """The files in folders of images or masks, each with which of them."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [
            name
            for name in folders
            if not (name.startswith(".") or _leads_back(Path(folder, name)))
        ]
        for name in names:
            path = PurePosixPath(Path(folder, name).relative_to(root).as_posix())
            number = _store_folder(path)
            if number is None or name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS:
                continue
            if path.suffix.lower() not in EXTENSIONS:
                raise DataError(
                    f"{path} is no image or mask that can be read: convert it to one of "
                    f"{', '.join(EXTENSIONS)}, or remove it from this folder"
                )
            yield path, path.parts[number].rpartition("_")[2]


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in itself."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _of_table(root: Path, path: Path) -> list[Pair]:
    table = read_table(path)
    try:
        columns = named_columns(table.header.fields)
        for column in ("image_path", "mask_path"):
            if column not in columns:
                found = ", ".join(columns)
                raise DataError(f"column {column!r} is missing; the columns found are {found}")
    except DataError as error:
        raise DataError(f"{table.name}:{table.header.line}: {error}") from None
    whole = (row for row in table.rows if len(row.fields) == len(columns))
    try:
        rows = ((row.line, row.fields) for row in whole)
        check_one_group(table.header.fields, columns, rows, GROUP_COLUMNS)
    except DataError as error:
        raise DataError(f"{table.name}:{error}") from None
    file_split = path.stem.lower() if path.stem.lower() in SPLITS else ""
    pairs: list[Pair] = []
    lines: dict[tuple[PurePosixPath, PurePosixPath], int] = {}
    for row in table.rows:
        try:
            pair = _of_row(root, columns, row, "" if has_split(columns) else file_split)
            line = lines.setdefault((pair.image, pair.mask), row.line)
            if line != row.line:
                raise DataError(f"the same image and mask as in line {line}; remove one of them")
        except DataError as error:
            raise DataError(f"{table.name}:{row.line}: {error}") from None
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{table.name} has no row: write a row for each image and its mask")
    return pairs


def _of_row(root: Path, columns: list[str], row: Row, file_split: str) -> Pair:
    if len(row.fields) != len(columns):
        raise DataError(
            f"{len(row.fields)} fields, but the header has {len(columns)}; quote what contains "
            "commas"
        )
    values = dict(zip(columns, (field.strip() for field in row.fields), strict=True))
    image, mask = _resolved(
        root,
        relative(root, values["image_path"], "image_path"),
        relative(root, values["mask_path"], "mask_path"),
    )
    task = values.get("task") or task_of(image)
    return Pair(
        image=image,
        mask=mask,
        task=task,
        split=split_of(values) or file_split or split_of_folder(image),
        modality=values.get("modality") or task,
        patient_id=group_of_columns(values, GROUP_COLUMNS),
        structure=values.get("structure", ""),
    )


def _resolved(
    root: Path, named: PurePosixPath, mask: PurePosixPath | None
) -> tuple[PurePosixPath, PurePosixPath]:
    """The image and the mask that exist, relative to the data root."""
    try:
        image_path, mask_path = image_and_mask(root, named, mask)
    except DataError as error:
        raise DataError(f"{named}: {error}") from None
    return (
        PurePosixPath(image_path.relative_to(root).as_posix()),
        PurePosixPath(mask_path.relative_to(root).as_posix()),
    )


def _store_folder(path: PurePosixPath) -> int | None:
    """Number of the last folder of a path that is called ``images`` or ``masks``, or ends so."""
    for number in reversed(range(len(path.parts) - 1)):
        folder = path.parts[number]
        if folder != SHARED_FOLDER and folder.rpartition("_")[2] in ("images", "masks"):
            return number
    return None
