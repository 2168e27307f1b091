"""The settings of ``launch/data.py``, defined once; see :mod:`prs_med.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prs_med.checked_settings import (
    CheckedSettings,
    SettingError,
    fraction,
    not_negative,
    positive,
    seed_setting,
    setting,
)
from prs_med.config import RowSettings
from prs_med.mask_classes import ALLOWED as CLASSES_ALLOWED
from prs_med.mask_classes import are_classes

_POSITION_WORDS = (
    "Words for places in other languages than English: de, es, fr, zh, or YAML files, separated by "
    "commas (default: English alone)"
)
_WORKERS = "Threads that read and decode"


def _classes_setting(what: str) -> Any:
    """The setting of the classes of masks; ``what`` the command makes of them."""
    return setting(
        None,
        f"Numbers and names of classes in masks that show several, such as 1:tumor,2:cyst: {what}",
        are_classes,
        CLASSES_ALLOWED,
    )


@dataclass(kw_only=True)
class BuildSettings(RowSettings):
    """Build: from CSV files, images and masks to a dataset that is streamed while training"""

    output: str = setting(
        "",
        "Where the dataset goes: a folder, or s3://bucket/folder (new, or an unfinished build)",
        required=True,
        path="any",
    )
    allow_duplicates: bool = setting(
        False,
        "Accept and list images or masks whose bytes are in several splits, rather than stop",
    )
    classes: str | None = _classes_setting("each row's mask is the class that its question names")
    shuffle: bool = setting(
        True, "Store training images in an order drawn by SEED, so that each read is a mixture"
    )
    seed: int = seed_setting("Seed of the order and of the images held out")
    row_group_mb: float = setting(
        4.0, "Size in MiB of a row group: what one read fetches", positive, "a positive number"
    )
    shard_mb: float = setting(128.0, "Size in MiB of a shard", positive, "a positive number")
    num_workers: int = setting(4, _WORKERS, positive, "a positive number", most=1024)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.row_group_mb > self.shard_mb:
            raise SettingError(
                f"--row_group_mb {self.row_group_mb}: a row group is part of a shard of "
                f"--shard_mb {self.shard_mb}"
            )


@dataclass(kw_only=True)
class CheckSettings(CheckedSettings):
    """Check: every byte, image, mask, zone and answer of a dataset"""

    data: str = setting(
        "",
        "The dataset: a folder or s3://bucket/folder",
        required=True,
        positional=True,
        path="any",
    )
    num_workers: int = setting(4, _WORKERS, positive, "a positive number", most=1024)
    output: str | None = setting(
        None,
        "File for the complete list of findings, one JSON object a line (default: none)",
        path="local",
    )
    position_words: str | None = setting(None, _POSITION_WORDS, path="local")


@dataclass(kw_only=True)
class StatsSettings(CheckedSettings):
    """Stats: what a dataset holds, as tables and a picture sheet"""

    data: str = setting(
        "",
        "The dataset: a folder or s3://bucket/folder",
        required=True,
        positional=True,
        path="any",
    )
    output_dir: str = setting("runs/stats", "Folder for stats.json and samples.png", path="local")
    overwrite: bool = setting(False, "Replace what another command made in OUTPUT_DIR")
    pictures: int = setting(
        24, "Images on the picture sheet, of each modality alike", not_negative, "0 or more"
    )
    position_words: str | None = setting(None, _POSITION_WORDS, path="local")


@dataclass(kw_only=True)
class SynthesizeSettings(CheckedSettings):
    """Synthesize: phantom images with masks, questions and answers, as a data root"""

    output: str = setting(
        "",
        "New folder for images, masks and CSV files",
        required=True,
        positional=True,
        path="local",
    )
    train: int = setting(960, "Training images", not_negative, "0 or more")
    val: int = setting(60, "Validation images", not_negative, "0 or more")
    test: int = setting(100, "Test images", not_negative, "0 or more")
    size: int = setting(
        128, "Side of the images in pixels", lambda v: v >= 32, "at least 32", most=8192
    )
    seed: int = seed_setting("Another seed draws other images")


@dataclass(kw_only=True)
class AnnotateSettings(CheckedSettings):
    """Annotate: questions and answers from images and masks"""

    data_root: str = setting(
        "",
        "Folder with images and masks, in PosMed's folders",
        required=True,
        positional=True,
        path="local",
    )
    pairs: str | None = setting(
        None,
        "CSV file that names images and masks (image_path, mask_path; task, modality, split, "
        "patient_id if known) (default: the folders are searched)",
        path="local",
    )
    output: str | None = setting(
        None, "CSV file to write (default: annotations/annotated.csv in DATA_ROOT)", path="local"
    )
    structure: str | None = setting(
        None, "What the masks show, such as tumor (default: by task, else finding)"
    )
    classes: str | None = _classes_setting("each is asked about")
    questions_per_target: int = setting(
        1, "Differently worded questions about each structure", positive, "a positive number"
    )
    min_component: float = setting(
        0.0005,
        "Smallest separate piece of a mask that counts, as a share of the image",
        fraction,
        "0 <= value < 1",
    )
    seed: int = seed_setting("Another seed chooses other words")
    num_workers: int = setting(4, _WORKERS, positive, "a positive number", most=1024)


@dataclass(kw_only=True)
class SlicesSettings(CheckedSettings):
    """Slices: from DICOM and NIfTI scans to images and masks for 'annotate'"""

    scans: str = setting(
        "",
        "Folder with a NIfTI file, a DICOM file or a folder of them per case",
        required=True,
        path="local",
    )
    masks: str | None = setting(
        None,
        "Folder with the cases' masks under the same names (NIfTI, DICOM or DICOM SEG)",
        path="local",
    )
    output: str = setting(
        "",
        "Folder for the images and masks: the data root of 'annotate'",
        required=True,
        path="local",
    )
    task: str = setting("", "Name of the task, such as lung_CT", required=True)
    modality: str | None = setting(None, "Name of the modality (default: the task)")
    split: Literal["train", "val", "test"] = setting("train", "Split that these cases belong to")
    window: str = setting(
        "auto",
        "Grey values shown: auto, lung, soft_tissue, brain, bone, mediastinum, or CENTER,WIDTH",
    )
    plane: Literal["axial", "coronal", "sagittal"] = setting(
        "axial", "Plane of the slices (NIfTI; DICOM slices are taken as they are)"
    )
    label: int | None = setting(
        None, "Mask value that counts (default: all above 0)", positive, "a positive number"
    )
    classes: str | None = _classes_setting("each has masks of its own")
    every: int = setting(1, "Take every n-th slice", positive, "a positive number")
    keep_empty: bool = setting(False, "Also write slices whose mask is empty")
    num_workers: int = setting(4, _WORKERS, positive, "a positive number", most=1024)
