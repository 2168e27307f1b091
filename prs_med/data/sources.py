"""Read annotation files in the layouts PosMed-style data sets come in.

The layouts a row may use:

* ``image_path`` under ``{task}/{split}_masks/``: the official files, whose image path is really
  the mask's. The image is looked for under ``{task}/{split}_images/``.
* ``image_path`` under ``{task}/{split}_images/``: the image. The mask is looked for likewise.
* ``image_path`` and ``mask_path``.
* ``image_name``, ``task`` and ``split``: the image is ``{task}/{split}_images/{image_name}``.

An image and its mask share a name, except that the mask's may end in ``_Segmentation`` and that
their extensions may differ; the row's own extension is tried first.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from prs_med.data.records import DataError, Record

SPLITS = ("train", "val", "test")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASK_SUFFIX = "_Segmentation"

# One variant of the data set keeps images and masks together in this folder.
_SHARED_FOLDER = "images_and_masks"
# Folders that hold the files of a task and therefore name none.
_STORE_FOLDER = re.compile(rf"((train|val|test)_)?(images|masks)|{_SHARED_FOLDER}")


@dataclass(frozen=True)
class Annotations:
    """What a set of annotation files holds."""

    records: list[Record]
    """The usable rows, in file order."""

    bad_rows: list[str]
    """One message for each row that was skipped, with its file and line."""


def read_annotations(
    data_root: Path, ann_paths: Sequence[Path] | None, on_bad_rows: Literal["error", "skip"]
) -> Annotations:
    """Read annotation files and find the image and the mask of every row.

    Images are not decoded here; that both files exist is checked.

    Args:
        data_root: folder that the paths in the files are relative to; none may lead out of it.
        ann_paths: files to read; None reads every ``data_root/annotations/*.csv``, sorted.
        on_bad_rows: ``error`` raises for the first bad row, ``skip`` collects their messages.

    Raises:
        DataError: no annotation file, a file that is not a CSV file with the columns needed, two
            files of one name, a bad row under ``error``, or no usable row at all.
    """
    root = data_root.resolve()
    paths = sorted((root / "annotations").glob("*.csv")) if ann_paths is None else list(ann_paths)
    if not paths:
        raise DataError(
            f"no annotation file in {root / 'annotations'}: put the CSV files there or name them"
        )
    names = [path.name for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two annotation files are named {name}: rename one, rows go by it")
    records: list[Record] = []
    bad_rows: list[str] = []
    for path in paths:
        for line, row in _rows(path):
            row_id = f"{path.name}:{line}"
            try:
                records.append(_record(root, row_id, row))
            except DataError as error:
                message = f"{row_id}: {error}"
                if on_bad_rows == "error":
                    raise DataError(message) from None
                bad_rows.append(message)
    if not records:
        reason = f"all {len(bad_rows)} rows are bad, the first: {bad_rows[0]}" if bad_rows else ""
        raise DataError(f"no usable row in {', '.join(names)}: {reason or 'the files have no row'}")
    return Annotations(records, bad_rows)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str] | int]]:
    """Each row with the line it starts on; of a row with a wrong field count only that count."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    columns: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(
                f"{path.name}:{line}: broken CSV ({error}); check the quotes of this row"
            ) from None
        if not fields:
            continue
        if not columns:
            columns = [field.strip() for field in fields]
            _check_columns(f"{path.name}:{line}", columns)
        elif len(fields) != len(columns):
            yield line, len(fields) - len(columns)
        else:
            yield line, dict(zip(columns, (field.strip() for field in fields), strict=True))
    if not columns:
        raise DataError(f"{path.name}:1: the file is empty; it must start with a header line")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the annotation file {path}: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path.name}:{line}: not UTF-8 text; save the file as UTF-8") from None


def _check_columns(where: str, columns: list[str]) -> None:
    found = f"the columns found are {', '.join(columns)}"
    for column in ("question", "answer"):
        if column not in columns:
            raise DataError(f"{where}: column {column!r} is missing; {found}")
    if "image_path" in columns:
        return
    if "image_name" not in columns:
        raise DataError(f"{where}: column 'image_path' or 'image_name' is missing; {found}")
    for column in ("task", "split"):
        if column not in columns:
            raise DataError(
                f"{where}: column {column!r} is missing, without image_path it is needed; {found}"
            )


def _record(root: Path, row_id: str, row: dict[str, str] | int) -> Record:
    """Make a record of a row; what is wrong with it is raised without file and line."""
    if isinstance(row, int):
        amount = f"{abs(row)} field{'s' if abs(row) > 1 else ''} too {'many' if row > 0 else 'few'}"
        raise DataError(f"{amount} for the header; quote a text that contains commas")
    for column in ("question", "answer"):
        if not row[column]:
            raise DataError(f"the {column} is empty")
    split = row.get("split", "").lower()
    if "split" in row and split not in SPLITS:
        raise DataError(f"unknown split {row['split']!r}; use one of {', '.join(SPLITS)}")
    if "image_path" in row:
        named = _relative(row["image_path"], "image_path")
    else:
        _relative(row["task"], "task")
        name = _relative(row["image_name"], "image_name")
        named = _relative(row["task"], "task") / f"{split}_images" / name
    image, mask = _pair(root, named, row.get("mask_path", ""))
    folder = named.parts[0] if len(named.parts) > 1 else ""
    task = "" if _STORE_FOLDER.fullmatch(folder) else folder
    return Record(
        row_id=row_id,
        image_path=image,
        mask_path=mask,
        question=row["question"],
        answer=row["answer"],
        position=row.get("position", ""),
        modality=row.get("modality") or row.get("task") or task or None,
        split=split or _split_of_folder(named),
    )


def _split_of_folder(path: PurePosixPath) -> str:
    """The split that a folder such as ``test_masks`` names: without a split column, the official
    folders still keep test images out of training. Empty where no folder names one."""
    for part in path.parts[:-1]:
        split, _, kind = part.partition("_")
        if split in SPLITS and kind in ("images", "masks"):
            return split
    return ""


def _relative(text: str, column: str) -> PurePosixPath:
    """A path of the file as a relative one, with forward slashes and no way upwards."""
    if not text:
        raise DataError(f"{column} is empty")
    path = PurePosixPath(text.replace("\\", "/"))
    # A drive letter ("C:/x") is absolute on Windows only, but never a path inside the data root.
    if path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts:
        raise DataError(f"{column} {text!r} leads out of the data root; use a path relative to it")
    return path


def _pair(root: Path, named: PurePosixPath, mask_path: str) -> tuple[Path, Path]:
    """The image and the mask of a row that names one file, or both."""
    if _in_masks(named) or (named.stem.endswith(MASK_SUFFIX) and not mask_path):
        # Taken literally, the official image_path would show the model its own answer.
        image = _find(root, "image", [_moved(named, "_masks", "_images", _plain_stem(named))])
        masks = [named]
    else:
        image = _find(root, "image", [named])
        masks = [
            _moved(named, "_images", "_masks", stem)
            for stem in (_plain_stem(named), f"{_plain_stem(named)}{MASK_SUFFIX}")
        ]
    if mask_path:
        masks = [_relative(mask_path, "mask_path")]
    mask = _find(root, "mask", masks, other_than=image)
    return image, mask


def _in_masks(path: PurePosixPath) -> bool:
    return any(part.endswith("_masks") and part != _SHARED_FOLDER for part in path.parts[:-1])


def _plain_stem(path: PurePosixPath) -> str:
    name = path.stem if path.suffix.lower() in EXTENSIONS else path.name
    return name.removesuffix(MASK_SUFFIX)


def _moved(path: PurePosixPath, old: str, new: str, stem: str) -> PurePosixPath:
    """The path in the sister folder, under another stem and the same extension."""
    folders = [
        part.removesuffix(old) + new if part.endswith(old) and part != _SHARED_FOLDER else part
        for part in path.parts[:-1]
    ]
    extension = path.suffix if path.suffix.lower() in EXTENSIONS else ""
    return PurePosixPath(*folders, stem + extension)


def _find(
    root: Path, what: str, wanted: Sequence[PurePosixPath], other_than: Path | None = None
) -> Path:
    """The first file that exists: each path as written, then with each known extension."""
    for path in wanted:
        base = path.with_suffix("") if path.suffix.lower() in EXTENSIONS else path
        for name in (path, *(base.with_name(base.name + extension) for extension in EXTENSIONS)):
            file = root / name
            # os.path.isfile also answers for names no file system accepts, where Path.is_file
            # raises.
            if not os.path.isfile(file):
                continue
            resolved = file.resolve()
            if not resolved.is_relative_to(root):
                raise DataError(f"{what} {str(name)!r} is a link that leads out of the data root")
            if other_than is None or resolved != other_than.resolve():
                return file
    hint = " other than the image itself; add a mask_path column" if other_than else ""
    raise DataError(f"no {what} file {' or '.join(repr(str(p)) for p in wanted)} in {root}{hint}")
