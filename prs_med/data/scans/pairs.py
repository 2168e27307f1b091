"""The CSV file that names images and masks, which ``launch/data.py annotate --pairs`` reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from prs_med.data.columns import SPLITS
from prs_med.data.records import DataError


@dataclass(frozen=True)
class Pair:
    """One row: an image and its mask, paths relative to the data root."""

    image_path: str
    mask_path: str
    """Empty where no mask is known."""
    task: str
    modality: str
    split: str
    patient_id: str
    structure: str = ""
    """What the mask shows, where classes are named."""


COLUMNS = [field.name for field in fields(Pair)]


def other_splits(path: Path, split: str) -> list[Pair]:
    """The rows that an earlier run wrote for other splits; none if there is no file.

    Raises:
        DataError: the file has other columns or values, so another program wrote it.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable ({error}); move it away") from error
    good = all(
        len(row) == len(COLUMNS) and row[COLUMNS.index("split")] in SPLITS for row in rows[1:]
    )
    if not rows or rows[0] != COLUMNS or not good:
        raise DataError(f"{path}: not written by this program; move it away")
    return [pair for pair in (Pair(*row) for row in rows[1:]) if pair.split != split]


def pairs_text(pairs: Sequence[Pair]) -> str:
    """The content of the file: training, validation and test rows, else in the order given."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for split in SPLITS:
        writer.writerows(asdict(pair) for pair in pairs if pair.split == split)
    return text.getvalue()
