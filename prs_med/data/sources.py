"""Read annotation files in the layouts PosMed-style data sets come in.

The layouts a row may use:

* ``image_path`` under ``{task}/{split}_masks/``: the official files, whose image path is really
  the mask's. The image is looked for under ``{task}/{split}_images/``.
* ``image_path`` under ``{task}/{split}_images/``: the image. The mask is looked for likewise.
* ``image_path`` and ``mask_path``.
* ``image_name``, ``task`` and ``split``: the image is ``{task}/{split}_images/{image_name}``.

The folders may lie below ``images_and_masks/``, and the files may be ``csv/train.csv``,
``csv/val.csv`` and ``csv/test.csv``, whose names then tell the split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from prs_med.data.columns import (
    SPLITS,
    check_columns,
    has_split,
    named_columns,
    plain_name,
    split_of,
)
from prs_med.data.groups import (
    GROUP_COLUMNS,
    check_one_group,
    group_of_columns,
    group_of_name,
    same_name,
)
from prs_med.data.paths import (
    image_and_mask,
    image_named,
    image_of,
    names_a_file,
    relative,
    split_of_folder,
    task_of,
)
from prs_med.data.records import DataError, Record
from prs_med.data.repair import repair
from prs_med.data.split import image_name
from prs_med.data.table import Row, Table, read_table

TASKS = (
    "brain_tumors_ct_scan",
    "breast_tumors_ct_scan",
    "dental_xray",
    "head_and_neck",
    "lung_CT",
    "lung_Xray",
    "polyp_endoscopy",
    "prostate",
    "skin_rgbimage",
)
"""The tasks of the published data. Any other works too; a CSV file that has one of these names
tells the task of rows that name none."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    row_id: str
    """Annotation file and line, as of a record."""
    reason: str
    split: str
    """As far as its columns or its file tell; else empty."""
    modality: str
    """Also as far as it can be told."""
    question: str
    answer: str
    group: str = ""
    """Its patient or study, as far as a column or the image's name tells."""
    task: str = ""
    """Also as far as it can be told."""
    answer_lost: bool = False
    """Whether the file has answers, but that of this row cannot be told."""
    image: str = ""
    """The image, as :func:`prs_med.data.split.image_name` has it; where it is not there, as it is
    named; empty where it is not named either."""

    @property
    def message(self) -> str:
        """What is wrong, with file and line."""
        return f"{self.row_id}: {self.reason}"


@dataclass(frozen=True)
class Annotations:
    """What a set of annotation files holds."""

    records: list[Record]
    """The usable rows, in file order."""

    skipped: list[BadRow]
    """The rows that were skipped, in file order."""

    repaired_rows: list[str] = field(default_factory=list)
    """One message for each usable row whose texts had commas without quotes, with its file and
    line and what was read."""

    @property
    def bad_rows(self) -> list[str]:
        """One message for each row that was skipped, with its file and line."""
        return [row.message for row in self.skipped]


def read_annotations(
    data_root: Path,
    ann_paths: Sequence[Path] | None,
    on_bad_rows: Literal["error", "skip"],
    group_column: str | None = None,
    tasks: Sequence[str] | None = None,
    need_answers: bool = True,
    likely_group_column: str | None = None,
) -> Annotations:
    """Read annotation files and find the image and the mask of every row.

    Images are not decoded here; that both files exist is checked.

    Args:
        data_root: folder that the paths in the files are relative to; none may lead out of it.
        ann_paths: files to read; None reads every ``data_root/annotations/*.csv``, or if there is
            none every ``data_root/csv/*.csv``, sorted.
        on_bad_rows: ``error`` raises for the first bad row, ``skip`` collects their messages.
        group_column: column that names the patient or study of a row; None takes the first of
            :data:`prs_med.data.groups.GROUP_COLUMNS` that has a value.
        tasks: tasks to read; the rows of others are passed over unseen. None reads all.
        need_answers: whether a row without an answer is bad.
        likely_group_column: column that is tried before :data:`GROUP_COLUMNS`, and need not be
            there; without effect beside ``group_column``.

    Raises:
        DataError: no annotation file, a file that is not a CSV file with the columns needed, two
            files of one name, a group column or a task that no file has, two columns that name
            the patient and differ, a bad row under ``error``, or no usable row at all.
    """
    root = data_root.resolve()
    files = [_file(path, need_answers) for path in _paths(root, ann_paths)]
    names = ", ".join(file.table.name for file in files)
    group_columns = _group_columns(files, group_column, names)
    likely = None
    if group_column is None and likely_group_column:
        likely = plain_name(likely_group_column)
        group_columns = [likely, *group_columns]
    for file in files:
        # Where it is there, others may say what they will, as if it had been named.
        file.check_one_group([likely] if likely in file.columns else group_columns)
    records: list[Record] = []
    skipped: list[BadRow] = []
    repaired_rows: list[str] = []
    seen_tasks: set[str] = set()
    for file in files:
        for row in file.table.rows:
            row_id = f"{file.table.name}:{row.line}"
            values: dict[str, str] = {}
            try:
                values, repaired = file.values(root, row)
                task = _task(root, file, values)
                seen_tasks.add(task)
                if tasks is not None and task not in tasks:
                    continue
                records.append(
                    _record(root, row_id, file, values, task, group_columns, need_answers)
                )
            except DataError as error:
                bad_row = _bad_row(root, row_id, file, values, group_columns, str(error))
                if on_bad_rows == "error":
                    raise DataError(bad_row.message) from None
                skipped.append(bad_row)
            else:
                if repaired:
                    repaired_rows.append(f"{row_id}: {repaired}")
    check_tasks(tasks, seen_tasks, f"no row of {names} has it; they have")
    if not records:
        all_bad = f"all {len(skipped)} rows are bad, the first: "
        reason = all_bad + skipped[0].message if skipped else ""
        raise DataError(f"no usable row in {names}: {reason or 'the files have no row'}")
    return Annotations(records, skipped, repaired_rows)


def check_tasks(tasks: Sequence[str] | None, there: Set[str], problem: str) -> None:
    """Refuse the first of the tasks that is not there.

    Args:
        tasks: those that ``--tasks`` names; None for all.
        there: the tasks that rows have; an empty name stands for none.
        problem: what is wrong, to be followed by the names that are there.

    Raises:
        DataError: for a task that is not there.
    """
    for task in tasks or ():
        if task not in there:
            raise DataError(
                f"--tasks {task}: {problem} {', '.join(sorted(there - {''})) or 'none'}"
            )


@dataclass(frozen=True)
class _File:
    """An annotation file."""

    table: Table
    columns: list[str]
    split: str
    """The split that its name tells; empty if it does not, or if its rows name theirs."""
    tight: bool

    def check_one_group(self, group_columns: Sequence[str]) -> None:
        """See :func:`prs_med.data.groups.check_one_group`."""
        header = self.table.header.fields
        whole = (row for row in self.table.rows if len(row.fields) == len(header))
        try:
            rows = ((row.line, row.fields) for row in whole)
            check_one_group(header, self.columns, rows, group_columns)
        except DataError as error:
            raise DataError(f"{self.table.name}:{error}") from None

    def values(self, root: Path, row: Row) -> tuple[dict[str, str], str]:
        """The values of a row by column, and if it was repaired what was read instead."""
        extra = len(row.fields) - len(self.columns)
        if extra == 0:
            fields = (value.strip() for value in row.fields)
            return dict(zip(self.columns, fields, strict=True)), ""
        found = repair(row.text, self.columns, _recognised(root), self.tight)
        amount = f"{abs(extra)} field{'s' if abs(extra) > 1 else ''} too"
        if found is None:
            raise DataError(
                f"{amount} {'many' if extra > 0 else 'few'} for the header; "
                "quote a text that contains commas"
            )
        values = dict(zip(self.columns, found, strict=True))
        read = (f"{column} {value!r}" for column, value in values.items() if "," in value)
        return values, f"{amount} many for the header, read as {' and '.join(read)}"


def _paths(root: Path, ann_paths: Sequence[Path] | None) -> list[Path]:
    if ann_paths is not None:
        paths = list(ann_paths)
    else:
        paths = sorted((root / "annotations").glob("*.csv")) or sorted((root / "csv").glob("*.csv"))
    if not paths:
        raise DataError(
            f"no annotation file in {root / 'annotations'}: put the CSV files there or name them"
        )
    names = [path.name for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two annotation files are named {name}: rename one, rows go by it")
    return paths


def _file(path: Path, need_answers: bool) -> _File:
    table = read_table(path)
    file_split = path.stem.lower() if path.stem.lower() in SPLITS else ""
    try:
        columns = named_columns(table.header.fields)
        check_columns(columns, file_split, need_answers)
    except DataError as error:
        raise DataError(f"{table.name}:{table.header.line}: {error}") from None
    return _File(table, columns, "" if has_split(columns) else file_split, table.tight())


def _group_columns(files: Sequence[_File], named: str | None, names: str) -> Sequence[str]:
    if named is None:
        return GROUP_COLUMNS
    column = plain_name(named)
    if not any(column in file.columns for file in files):
        columns = dict.fromkeys(name for file in files for name in file.columns if name)
        raise DataError(
            f"--group_column {named}: no such column in {names}; "
            f"the columns found are {', '.join(columns)}"
        )
    return [column]


def _recognised(root: Path) -> dict[str, Callable[[str], bool]]:
    """The columns whose values show that they are theirs; every correct row satisfies them."""
    return {
        "image_path": partial(names_a_file, root),
        "mask_path": lambda text: not text or names_a_file(root, text),
        "split": lambda text: text.lower() in SPLITS,
    }


def _task(root: Path, file: _File, row: dict[str, str]) -> str:
    """The task of a row: its column, else the first folder of its path, else the file's name."""
    if row.get("task"):
        return row["task"]
    task = task_of(relative(root, row["image_path"], "image_path")) if "image_path" in row else ""
    stem = Path(file.table.name).stem
    return task or (stem if stem in TASKS else "")


def _record(
    root: Path,
    row_id: str,
    file: _File,
    row: dict[str, str],
    task: str,
    group_columns: Sequence[str],
    need_answers: bool,
) -> Record:
    """Make a record of a row; what is wrong with it is raised without file and line."""
    for column in ("question", "answer") if need_answers else ("question",):
        if not row[column]:
            raise DataError(f"the {column} is empty")
    split = split_of(row) or file.split
    named, mask = _named(root, row, split)
    image_path, mask_path = image_and_mask(root, named, mask)
    folder_split = split_of_folder(named)
    if file.split and folder_split not in ("", file.split):
        raise DataError(
            f"the folder of {str(named)!r} is of split {folder_split!r}, but the file is named "
            f"{file.table.name}; add a split column"
        )
    return Record(
        row_id=row_id,
        image_path=image_path,
        mask_path=mask_path,
        question=row["question"],
        answer=row.get("answer", ""),
        position=row.get("position", ""),
        modality=row.get("modality") or task or None,
        split=split or folder_split,
        group=same_name(group_of_columns(row, group_columns))
        or group_of_name(task, PurePosixPath(image_path.name)),
        task=task,
        root=root,
    )


def _named(
    root: Path, row: dict[str, str], split: str
) -> tuple[PurePosixPath, PurePosixPath | None]:
    """What a row names as its image, and its mask if it names that too."""
    if "image_path" in row:
        named = relative(root, row["image_path"], "image_path")
    else:
        name = relative(root, row.get("image_name", ""), "image_name")
        named = relative(root, row.get("task", ""), "task") / f"{split}_images" / name
    mask = relative(root, row["mask_path"], "mask_path") if row.get("mask_path") else None
    return named, mask


def _bad_row(
    root: Path,
    row_id: str,
    file: _File,
    row: dict[str, str],
    group_columns: Sequence[str],
    reason: str,
) -> BadRow:
    """What can be told of a row that is no record; ``row`` is empty if not even its fields were
    read."""
    split = task = image = ""
    with suppress(DataError):
        task = _task(root, file, row)
        split = split_of(row) or file.split
        if not split and row.get("image_path"):
            split = split_of_folder(relative(root, row["image_path"], "image_path"))
    with suppress(ValueError):
        named = _named(root, row, split)
        image = image_name(root / image_named(*named), root)
        image = image_name(image_of(root, *named), root)
    return BadRow(
        row_id,
        reason,
        split,
        row.get("modality") or task,
        row.get("question", ""),
        row.get("answer", ""),
        group=same_name(group_of_columns(row, group_columns))
        or group_of_name(task, PurePosixPath(image)),
        task=task,
        answer_lost=not row and "answer" in file.columns,
        image=image,
    )
