"""Which patient or study an image belongs to.

Slices of one scan look alike, so a network that has seen one knows the next. Rows of one group are
therefore held out together. The group is read from a column, or else from the file name where the
data set that a task is made of names its files by patient or volume. Where neither tells for
certain, there is no group: a wrong guess would be worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

GROUP_COLUMNS = (
    "patient_id",
    "patient",
    "subject_id",
    "subject",
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


def group_of_columns(row: Mapping[str, str], columns: Sequence[str]) -> str:
    """The first of these columns that has a value in the row; empty if none has."""
    return next((row[column] for column in columns if row.get(column)), "")


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
