"""What the columns of an annotation file are called, in all the spellings data sets use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prs_med.data.groups import GROUP_COLUMNS
from prs_med.data.records import DataError

SPLITS = ("train", "val", "test")

# Another spelling counts only where the column itself is absent.
_OTHER_SPELLINGS = {"image_path": "image", "mask_path": "mask", "question": "description"}
# One column for each split with a 1 in the rows that belong to it, instead of one column "split".
_SPLIT_FLAGS = {
    spelling: f"is_{split}"
    for split in SPLITS
    for spelling in (split, f"is_{split}", f"split_{split}", f"{split}_set")
}
_READ = {"image_path", "mask_path", "image_name", "question", "answer", "position", "split"} | {
    *("task", "modality", *_SPLIT_FLAGS.values())
}
_FLAG_VALUES = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


_RUN_TOGETHER = {name.replace("_", ""): name for name in GROUP_COLUMNS}


def plain_name(name: str) -> str:
    """``Image Path`` and ``image-path`` as ``image_path``, DICOM's ``PatientID`` as
    ``patient_id``."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    return _RUN_TOGETHER.get(plain, plain)


def named_columns(header: Sequence[str]) -> list[str]:
    """The columns of a header by the names that this package uses; others keep their own.

    The first version of the data set has ``description`` and ``position`` where later ones have
    ``question`` and ``answer``; these two are taken for each other only together.

    Raises:
        DataError: two columns mean the same.
    """
    columns = [plain_name(name) for name in header]
    if {"question", "answer"}.isdisjoint(columns) and {"description", "position"} <= {*columns}:
        columns[columns.index("position")] = "answer"
    for name, other in _OTHER_SPELLINGS.items():
        if name not in columns and other in columns:
            columns[columns.index(other)] = name
    if "split" not in columns:
        columns = [_SPLIT_FLAGS.get(column, column) for column in columns]
    for column in columns:
        if column in _READ and columns.count(column) > 1:
            raise DataError(
                f"two columns mean {column!r}; remove or rename one of {', '.join(header)}"
            )
    return columns


def check_columns(columns: Sequence[str], file_split: str, need_answers: bool = True) -> None:
    """Refuse columns that do not suffice to find image, mask, question and answer.

    Args:
        columns: as :func:`named_columns` gives them.
        file_split: the split that the file's own name tells, or empty.
        need_answers: whether there must be a column of answers.

    Raises:
        DataError: names the column that is missing and those that are there.
    """
    found = f"the columns found are {', '.join(columns)}"
    for column in ("question", "answer") if need_answers else ("question",):
        if column not in columns:
            raise DataError(f"column {column!r} is missing; {found}")
    if "image_path" in columns:
        return
    if "image_name" not in columns:
        raise DataError(f"column 'image_path' or 'image_name' is missing; {found}")
    missing = [] if "task" in columns else ["task"]
    if not (file_split or has_split(columns)):
        missing.append("split")
    if missing:
        raise DataError(
            f"column {missing[0]!r} is missing, without image_path it is needed; {found}"
        )


def has_split(columns: Sequence[str]) -> bool:
    """Whether rows say which split they belong to."""
    return "split" in columns or any(f"is_{split}" in columns for split in SPLITS)


def split_of(row: Mapping[str, str]) -> str:
    """The split that the row names: ``train``, ``val``, ``test``; empty without such a column.

    Raises:
        DataError: the value is none of them, or not exactly one of the split's columns is 1.
    """
    if "split" in row:
        split = row["split"].lower()
        if split not in SPLITS:
            raise DataError(f"unknown split {row['split']!r}; use one of {', '.join(SPLITS)}")
        return split
    flags = {split: row[f"is_{split}"] for split in SPLITS if f"is_{split}" in row}
    if not flags:
        return ""
    values = {split: _FLAG_VALUES.get(value.lower()) for split, value in flags.items()}
    chosen = [split for split, value in values.items() if value]
    if None in values.values() or len(chosen) != 1:
        raise DataError(
            "the columns of the splits hold "
            f"{', '.join(f'{split}: {value!r}' for split, value in flags.items())}; "
            "exactly one must be 1 and the others 0"
        )
    return chosen[0]
