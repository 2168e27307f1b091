"""Questions in a CSV file of one's own: images, and what is asked about them.

Unlike annotation files, the rows need no answer, no mask and no split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prs_med.data.columns import named_columns
from prs_med.data.paths import relative
from prs_med.data.records import DataError
from prs_med.data.table import Row, read_table


@dataclass(frozen=True)
class ListedQuestion:
    """One row."""

    row_id: str
    """File and line, ``mine.csv:2``."""
    image: PurePosixPath
    """What the row names, relative to the root; :func:`prs_med.data.paths.image_of` finds it."""
    mask: PurePosixPath | None
    question: str
    answer: str
    """Empty where the row has none; so is the modality."""
    modality: str


def read_listed(file: Path, root: Path) -> list[ListedQuestion]:
    """Read the rows of a file with the columns ``image_path`` and ``question``, and possibly
    ``mask_path``, ``answer`` and ``modality``.

    Args:
        file: the CSV file.
        root: what its paths are relative to; none may lead out of it.

    Raises:
        DataError: a column is missing, there is no row, or a row names no image or no question, or
            one outside the root; names the row. Whether the files exist shows when they are read.
    """
    table = read_table(file)
    columns = named_columns(table.header.fields)
    for column in ("image_path", "question"):
        if column not in columns:
            raise DataError(
                f"{table.name}:{table.header.line}: column {column!r} is missing; the columns "
                f"found are {', '.join(columns)}"
            )
    rows = []
    for row in table.rows:
        try:
            rows.append(_question(f"{table.name}:{row.line}", row, columns, root.resolve()))
        except DataError as error:
            raise DataError(f"{table.name}:{row.line}: {error}") from None
    if not rows:
        raise DataError(f"{table.name}: holds no row")
    return rows


def _question(row_id: str, row: Row, columns: list[str], root: Path) -> ListedQuestion:
    if len(row.fields) != len(columns):
        raise DataError(
            f"{len(row.fields)} fields, but {len(columns)} columns; quote a text that contains "
            "commas"
        )
    values = dict(zip(columns, (text.strip() for text in row.fields), strict=True))
    if not values["question"]:
        raise DataError("the question is empty")
    mask = values.get("mask_path", "")
    return ListedQuestion(
        row_id=row_id,
        image=relative(root, values["image_path"], "image_path"),
        mask=relative(root, mask, "mask_path") if mask else None,
        question=values["question"],
        answer=values.get("answer", ""),
        modality=values.get("modality", ""),
    )
