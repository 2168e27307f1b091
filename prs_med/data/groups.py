"""Which patient or study an image belongs to.

Slices of one scan look alike, so a network that has seen one knows the next. Rows of one group are
therefore held out together. The group is read from a column, or else from the file name where the
data set that a task is made of names its files by patient or volume. Where neither tells for
certain, there is no group: a wrong guess would be worse than none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from prs_med.data.records import DataError

PATIENT_COLUMNS = ("patient_id", "patient", "subject_id", "subject")
"""Columns that all name the patient, so that two of them in one file must agree."""
GROUP_COLUMNS = (
    *PATIENT_COLUMNS,
    "study_id",
    "study",
    "case_id",
    "volume_id",
    "volume",
)
"""Columns that name the group, the widest first: all studies of a patient stay together."""

# Each of these is how a published data set names its files; docs/data.md says where from. A task
# that is not here comes from sets whose names are mere numbers.
_NAMES: dict[str, tuple[re.Pattern[str], ...]] = {
    # A volume cut into slices: scan7_channel_00.png to scan7_channel_63.png.
    "head_and_neck": (re.compile(r"(.+)_channel_\d{2,}"),),
    # OSIC: the patient, then the slice: ID00010637202177584971671_25.jpg.
    "lung_CT": (re.compile(r"(ID\d{23})_\d+"),),
    # LGG: institution, patient, date, slice: TCGA_CS_4941_19960909_11.tif.
    "brain_tumors_ct_scan": (re.compile(r"(TCGA_[A-Z0-9]{2}_[A-Z0-9]{4})_\d{8}_\d+"),),
    "lung_Xray": (
        # BIDS, as BIMCV has it: sub-S03047_ses-E07494_run-1_bp-chest_vp-ap_cr.png.
        re.compile(r"(sub-[A-Za-z0-9]+)_.+"),
        # ChestX-ray14: patient, then the number of the visit: 00000013_005.png.
        re.compile(r"(\d{8})_\d{3}"),
    ),
}


# How tables say that a value is missing.
_MISSING = {"", "nan", "none", "null", "na", "n/a", "#n/a", "<na>"}
# A table with an empty cell has its whole numbers as 12.0, and Excel drops zeros in front.
_WHOLE_NUMBER = re.compile(r"0*(\d+)(?:[.,]0{0,2})?")


def same_name(text: str) -> str:
    """A patient's or study's name in the one form that all its spellings share.

    Unicode form, case, white space and invisible characters make no difference, and of whole
    numbers neither do zeros in front or ``.0`` behind: ``12``, ``12.0``, `` 012 `` are one patient.
    Two patients taken for one are only held out together; one taken for two would be on both sides.

    Returns:
        Empty if the value says that there is none, such as ``nan``.
    """
    visible = "".join(char for char in text if unicodedata.category(char) != "Cf")
    # Twice: compatibility forms may fold to letters that have other forms themselves.
    for _ in range(2):
        visible = unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", visible).casefold())
    name = " ".join(visible.split())
    if name in _MISSING:
        return ""
    number = _WHOLE_NUMBER.fullmatch(name)
    return number[1] if number else name


def group_of_columns(row: Mapping[str, str], columns: Sequence[str]) -> str:
    """The first of these columns that has a value in the row, as written; empty if none has."""
    return next((row[column] for column in columns if same_name(row.get(column, ""))), "")


def check_one_group(
    header: Sequence[str],
    columns: Sequence[str],
    rows: Iterator[tuple[int, Sequence[str]]],
    read: Sequence[str],
) -> None:
    """Refuse a file with two columns that name the patient, or one group, and that disagree.

    Args:
        header: the columns as the file has them, for the message.
        columns: the same by the names that this package uses.
        rows: the line and the values of each row, as many as there are columns.
        read: the columns that groups are read from.

    Raises:
        DataError: they differ in a row; the message starts with its line.
    """
    kinds: list[tuple[str, ...]] = [PATIENT_COLUMNS] if len(read) > 1 else []
    kinds += [(column,) for column in read if column not in PATIENT_COLUMNS or len(read) == 1]
    rivals = [
        places
        for kind in kinds
        if len(places := [n for n, column in enumerate(columns) if column in kind]) > 1
    ]
    if not rivals:
        return
    for line, values in rows:
        for first, *others in rivals:
            for other in others:
                if same_name(values[first]) != same_name(values[other]):
                    raise DataError(
                        f"{line}: columns {header[first]!r} and {header[other]!r} mean the same, "
                        f"but hold {values[first]!r} and {values[other]!r} here; remove or rename "
                        "one of them, or name the right one (--group_column)"
                    )


def group_of_name(task: str, image: PurePosixPath) -> str:
    """The patient or volume that the file name tells, with the task before it.

    Args:
        task: the task folder or task column of the row, such as ``lung_CT``.
        image: path of the image; only its name counts.

    Returns:
        ``lung_CT/ID00010637202177584971671``; empty where the name does not tell.
    """
    for pattern in _NAMES.get(task, ()):
        if match := pattern.fullmatch(image.stem):
            return f"{task}/{match[1]}"
    return ""
