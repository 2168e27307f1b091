"""Settings of the programs that use trained weights: evaluation, comparison and inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prs_med.checked_settings import (
    CheckedSettings,
    SettingError,
    not_negative,
    positive,
    seed_setting,
    setting,
)
from prs_med.config import TRAINED_WEIGHTS


@dataclass(kw_only=True)
class UsedModelSettings(CheckedSettings):
    """Model: which trained weights, and how they answer"""

    checkpoint: str = setting("", TRAINED_WEIGHTS, required=True, path="any")
    vlm_path: str | None = setting(
        None,
        "Base model, if it has moved since training (default: where it was then)",
        path="local",
    )
    vision_tower: str | None = setting(
        None, "Its CLIP tower, if training took one from elsewhere and that has moved", path="local"
    )
    sam_ckpt: str | None = setting(
        None,
        "Encoder weights, if a training checkpoint with a frozen encoder needs them and they have "
        "moved; a folder with trained weights holds its encoder",
        path="local",
    )
    load_4bit: bool | None = setting(
        None,
        "true: the language model in 4 bits, which needs a quarter of the memory; false: in the "
        "precision of training (default: as in training)",
    )
    batch_size: int = setting(
        8, "Questions answered at once", positive, "a positive number", most=65_536
    )
    max_new_tokens: int = setting(
        64, "Longest answer in tokens", positive, "a positive number", most=1_000_000
    )
    temperature: float = setting(
        0.0,
        "0: always the likeliest token; else tokens are drawn, the higher the more varied",
        not_negative,
        "0 or more",
    )
    top_p: float = setting(
        1.0,
        "Draw only from the likeliest tokens that together have this probability",
        lambda v: 0 < v <= 1,
        "0 < value <= 1",
    )
    seed: int = seed_setting("Seed of drawn tokens and of drawn samples")
    fill_holes: bool = setting(False, "Change masks: fill what a mask surrounds")
    largest_component: bool = setting(False, "Change masks: keep only the largest part of each")
    minimum_area: int = setting(
        0, "Change masks: remove parts of fewer pixels of the image", not_negative, "0 or more"
    )
    num_workers: int = setting(
        4,
        "Threads that read, score and draw while the model answers",
        positive,
        "1 or more",
        most=1_024,
    )


_OF_ROWS = ("ann_paths", "tasks", "group_column")


@dataclass(kw_only=True)
class AskedSettings(UsedModelSettings):
    """Evaluation: which model answers which questions"""

    data: str | None = setting(
        None,
        "Dataset made by 'launch/data.py build': a folder or s3://bucket/dataset",
        required=True,
        instead=("data_root", "csv", "image", "images"),
        path="any",
    )
    data_root: str | None = setting(
        None, "Instead of it: folder that all paths in the CSV files are relative to", path="local"
    )
    ann_paths: str | None = setting(
        None,
        "Comma-separated CSV files (default: all in annotations/ or csv/ of DATA_ROOT)",
        path="local",
    )
    tasks: str | None = setting(
        None, "Comma-separated tasks to use, such as lung_CT,prostate (default: all in the files)"
    )
    group_column: str | None = setting(
        None,
        "Column that names the patient or study, by which intervals draw (default: that of "
        "training, a column such as patient_id, else the file names of known datasets)",
    )
    split: Literal["train", "val", "test"] = setting("test", "Questions to answer, by their split")
    position_words: str | None = setting(
        None,
        "Words for places in other languages than English: de, es, fr, zh, or YAML files, "
        "separated by commas (default: English alone)",
        path="local",
    )
    strict: bool = setting(
        False, "Stop at the first row or image that cannot be used; else it is counted and listed"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _OF_ROWS:
            if self.data and getattr(self, name):
                raise SettingError(f"--{name} belongs to --data_root: drop it, or --data")


@dataclass(kw_only=True)
class EvaluationSettings(AskedSettings):
    """Evaluation: which model answers which questions"""

    output_dir: str = setting(
        "runs/evaluation", "Folder for metrics, report, per-sample results and masks", path="local"
    )
    overwrite: bool = setting(False, "Replace what another command made in OUTPUT_DIR")
    pictures: int = setting(
        6, "Best, median and worst cases shown in the report, of each", not_negative, "0 or more"
    )
    judges: str | None = setting(
        None,
        "Comma-separated chat models that judge the answers, each a folder or hub id "
        "(default: none)",
        path="local",
    )
    judge_batch_size: int = setting(
        8, "Answers judged at once", positive, "a positive number", most=65_536
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data and self.data_root:
            raise SettingError("give either --data or --data_root")


@dataclass(kw_only=True)
class InferenceSettings(AskedSettings):
    """Inference: which questions about which images"""

    image: str | None = setting(None, "One image file; needs --question", path="local")
    images: str | None = setting(
        None, "Folder of image files, also below it; needs --question", path="local"
    )
    question: str | None = setting(None, "The question about --image, or about each of --images")
    csv: str | None = setting(
        None,
        "CSV file with the columns image_path and question, and if you like mask_path, answer "
        "and modality; its paths are relative to --data_root, or to the file's folder",
        path="local",
    )
    num_samples: int = setting(
        0, "Answer this many of the questions, drawn by SEED (0: all)", not_negative, "0 or more"
    )
    output_dir: str = setting(
        "runs/inference", "New folder for masks, pictures and results.csv", path="local"
    )
    probability_maps: bool = setting(
        False, "Also write how likely each pixel belongs to the mask, as 16-bit PNG (65535 = 1)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = [name for name in ("image", "images", "csv", "data") if getattr(self, name)]
        if not sources and self.data_root:
            sources = ["data_root"]
        if len(sources) != 1:
            raise SettingError(
                "give one of --image, --images, --csv, --data and --data_root, "
                f"not {' and '.join(f'--{name}' for name in sources) or 'none'}"
            )
        (source,) = sources
        if source in ("image", "images") and not self.question:
            raise SettingError(f"--question is required: what is asked about --{source}")
        if source not in ("image", "images") and self.question:
            raise SettingError(f"--question belongs to --image: --{source} has its own questions")
        for name in _OF_ROWS:
            if source != "data_root" and getattr(self, name):
                raise SettingError(f"--{name} belongs to --data_root: drop it, or --{source}")
        if self.data_root and source not in ("csv", "data_root"):
            raise SettingError(f"--data_root does not go with --{source}: drop one of them")


@dataclass(kw_only=True)
class ComparisonSettings(CheckedSettings):
    """Comparison: of evaluations, each with the first"""

    output_dir: str = setting("runs/comparison", "Folder for the comparison", path="local")
    overwrite: bool = setting(False, "Replace what another command made in OUTPUT_DIR")
    pictures: int = setting(
        6, "Cases shown that changed most, for better and for worse", not_negative, "0 or more"
    )
    data: str | None = setting(
        None,
        "Where the dataset lies now, for the pictures (default: where it was evaluated)",
        path="any",
    )
    data_root: str | None = setting(None, "The same for CSV files and images", path="local")
