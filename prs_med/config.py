"""Every setting of training, defined once: its name, type, default, help text and limits.

The command line, YAML files, ``--help`` and the copy saved with each run are all derived from the
dataclasses below, by :mod:`prs_med.settings_io`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal


class SettingError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is allowed."""


def _setting(
    default: Any, help_text: str, check: Callable[[Any], bool] | None = None, allowed: str = ""
) -> Any:
    return field(default=default, metadata={"help": help_text, "check": check, "allowed": allowed})


def _positive(value: float) -> bool:
    return value > 0


def _not_negative(value: float) -> bool:
    return value >= 0


def _fraction(value: float) -> bool:
    return 0 <= value < 1


def without_none(hint: Any) -> Any:
    """``T`` from ``T | None``."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    return hint


def _check_value(spec: dataclasses.Field[Any], hint: Any, value: Any) -> None:
    plain = without_none(hint)
    optional = hint is not plain
    if value is None and optional:
        return
    if typing.get_origin(plain) is Literal:
        if value not in typing.get_args(plain):
            raise SettingError(
                f"--{spec.name} {value}: allowed are {', '.join(typing.get_args(plain))}"
            )
        return
    accepted = (int, float) if plain is float else plain
    if not isinstance(value, accepted) or (isinstance(value, bool) and plain is not bool):
        raise SettingError(f"--{spec.name} {value!r}: expected {plain.__name__}")
    check = spec.metadata["check"]
    if check is not None and not check(value):
        raise SettingError(f"--{spec.name} {value}: allowed is {spec.metadata['allowed']}")


@dataclass(kw_only=True)
class CheckedSettings:
    """Settings whose values are checked against their types and limits when they are made."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for spec in dataclasses.fields(self):
            _check_value(spec, hints[spec.name], getattr(self, spec.name))

    def require(self, *names: str) -> None:
        """Raise :class:`SettingError` for the first of ``names`` that was left empty."""
        for name in names:
            if not getattr(self, name):
                spec = next(f for f in dataclasses.fields(self) if f.name == name)
                raise SettingError(f"--{name} is required: {spec.metadata['help']}")


@dataclass(frozen=True)
class EncoderInput:
    """Which input sizes a family of segmentation encoders takes, in pixels."""

    native: int
    """Side that the published weights were trained at."""
    multiple: int
    """Every side is a multiple of it."""


ENCODERS = {
    "tinysam": EncoderInput(native=1024, multiple=16),
    "sam": EncoderInput(native=1024, multiple=16),
    "sam_med2d": EncoderInput(native=256, multiple=32),
    "sam2": EncoderInput(native=1024, multiple=32),
}
"""Families of segmentation encoders; each is a module of ``prs_med.model.encoders``."""

COMPILED_REGIONS = ("encoder", "decoder", "language_model")
COMPILED_BY_DEFAULT = "encoder,decoder"


def names_in(text: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


@dataclass(kw_only=True)
class DataSettings(CheckedSettings):
    """Data: where images, masks, questions and answers are read"""

    data_root: str = _setting("", "Folder that all paths in the CSV files are relative to")
    ann_paths: str | None = _setting(
        None,
        "Comma-separated CSV files (default: all in annotations/ or csv/ of DATA_ROOT)",
    )
    tasks: str | None = _setting(
        None, "Comma-separated tasks to use, such as lung_CT,prostate (default: all in the files)"
    )
    group_column: str | None = _setting(
        None,
        "Column that names the patient or study; images of one are held out together "
        "(default: a column such as patient_id, else the file names of known datasets)",
    )
    on_bad_rows: Literal["error", "skip"] = _setting(
        "error", "A row that cannot be used: stop with file and line, or skip, count and list it"
    )
    verify_files: bool = _setting(
        True,
        "Decode every image and mask and tokenise every text before training, so that a bad row "
        "shows now and not after hours",
    )
    val_fraction: float = _setting(
        0.1,
        "Share of training images held out for validation when no row is labelled val",
        _fraction,
        "0 <= value < 1",
    )
    prompt_template: Literal["released", "llava_med"] = _setting(
        "released",
        "Text around the question: that of the released PRS-Med models, or LLaVA-Med's "
        "own [INST] form",
    )
    max_length: int = _setting(
        2048,
        "Longest allowed sequence in tokens, image included; a longer sample is an error",
        _positive,
        "a positive number",
    )
    num_workers: int = _setting(
        2, "Loader processes per rank (0: load in the training process)", _not_negative, "0 or more"
    )


@dataclass(kw_only=True)
class ModelSettings(CheckedSettings):
    """Model: which weights, and which of them are trained"""

    vlm_path: str = _setting(
        "", "LLaVA-Med weights: a folder or hub id, original (llava_mistral) or transformers layout"
    )
    vision_tower: str | None = _setting(
        None,
        "CLIP tower from a folder or hub id, such as openai/clip-vit-large-patch14-336 "
        "(default: the one among VLM_PATH's weights)",
    )
    sam_ckpt: str = _setting(
        "", "Weights of the segmentation encoder, for example tinysam_42.3.pth"
    )
    init_from: str | None = _setting(
        None,
        "Folder with trained weights to go on from, such as an imported released checkpoint: "
        "adapter, segmentation side and modalities are taken from it, SAM_CKPT is not needed",
    )
    encoder_type: str = _setting(
        "tinysam",
        f"Family of the segmentation encoder: {', '.join(ENCODERS)}",
        lambda v: v in ENCODERS,
        ", ".join(ENCODERS),
    )
    image_size: int = _setting(
        0,
        "Side in pixels of the segmentation encoder's input and of the training masks "
        "(0: what the encoder was trained at, 1024, or 256 for sam_med2d)",
        _not_negative,
        "0, or at least 64",
    )
    image_fit: Literal["stretch", "pad"] = _setting(
        "stretch",
        "How an image becomes square for the segmentation encoder: stretched, as the released "
        "models were trained, or scaled as a whole and padded",
    )
    load_4bit: bool = _setting(
        False, "Keep the frozen language model in 4 bits (nf4, double quant)"
    )
    load_8bit: bool = _setting(False, "Keep the frozen language model in 8 bits (LLM.int8)")
    precision: Literal["bf16", "fp32"] = _setting(
        "bf16", "Arithmetic of the language model (the segmentation side is always fp32)"
    )
    attention: Literal["auto", "flash", "sdpa"] = _setting(
        "auto",
        "Attention kernels of the language model: flash-attn where usable, else PyTorch's; "
        "flash is an error where it cannot run",
    )
    finetune: Literal["lora", "full"] = _setting(
        "lora", "Train LoRA adapters, or all weights of the language model"
    )
    lora_rank: int = _setting(16, "Rank of the LoRA matrices", _positive, "a positive number")
    lora_alpha: float = _setting(
        16, "LoRA scale: updates are multiplied by alpha / rank", _positive, "a positive number"
    )
    lora_dropout: float = _setting(
        0.1, "Dropout in front of the LoRA matrices", _fraction, "0 <= value < 1"
    )
    lora_targets: str = _setting(
        "q_proj,k_proj,v_proj,o_proj",
        "Comma-separated linear layers of the language model that get LoRA",
    )
    train_projector: bool = _setting(False, "Also train the projector from CLIP to language model")
    freeze_encoder: bool = _setting(False, "Do not train the segmentation encoder")
    freeze_decoder: bool = _setting(False, "Do not train the mask decoder")
    freeze_mllm: bool = _setting(
        False, "Do not train the language model or its LoRA: the segmentation side alone learns"
    )
    decoder_dropout: float = _setting(
        0.1, "Dropout in the mask decoder's transformer layer", _fraction, "0 <= value < 1"
    )
    prompt_tokens: Literal["question", "all"] = _setting(
        "question",
        "Hidden states that the mask decoder sees: image and question, or also the "
        "answer (only to continue a checkpoint that was trained so)",
    )
    gradient_checkpointing: bool = _setting(
        False, "Recompute the language model's activations in the backward pass to save memory"
    )
    compile_model: bool = _setting(False, "Compile COMPILE_REGIONS with torch.compile")
    compile_regions: str = _setting(
        COMPILED_BY_DEFAULT,
        f"Comma-separated parts that --compile_model compiles: {', '.join(COMPILED_REGIONS)} "
        "(the last one layer by layer)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image_size = self.image_size or ENCODERS[self.encoder_type].native
        multiple = ENCODERS[self.encoder_type].multiple
        if self.image_size < 64 or self.image_size % multiple:
            raise SettingError(
                f"--image_size {self.image_size}: --encoder_type {self.encoder_type} takes "
                f"multiples of {multiple}, at least 64"
            )
        if not names_in(self.lora_targets):
            raise SettingError("--lora_targets is empty: name at least one layer, such as q_proj")
        for region in names_in(self.compile_regions):
            if region not in COMPILED_REGIONS:
                raise SettingError(
                    f"--compile_regions {region}: allowed are {', '.join(COMPILED_REGIONS)}"
                )
        if self.compile_regions != COMPILED_BY_DEFAULT and not self.compile_model:
            raise SettingError("--compile_regions has no effect without --compile_model: add it")


@dataclass(kw_only=True)
class LossSettings(CheckedSettings):
    """Loss: what is minimised; every term is a mean over the samples of the global batch"""

    segmentation_loss: Literal["structure", "bce_dice"] = _setting(
        "structure", "Mask loss: boundary-weighted BCE + IoU, or BCE + Dice"
    )
    lambda_seg: float = _setting(1.0, "Weight of the mask loss", _not_negative, "0 or more")
    lambda_txt: float = _setting(
        1.0, "Weight of the text loss (answer and end token)", _not_negative, "0 or more"
    )
    cls_loss_weight: float = _setting(
        0.5, "Weight of the modality loss", _not_negative, "0 or more"
    )
    cls_loss_epochs: int = _setting(
        5, "Epochs during which the modality loss is used", _not_negative, "0 or more"
    )


@dataclass(kw_only=True)
class OptimSettings(CheckedSettings):
    """Optimisation: steps, batches and the learning rate"""

    epochs: float = _setting(
        20, "Passes over the training data (a fraction is allowed)", _positive, "a positive number"
    )
    batch_size: int = _setting(
        4, "Samples per process and forward pass", _positive, "a positive number"
    )
    gradient_accumulation_steps: int = _setting(
        1,
        "Forward passes per optimizer step; the global batch is batch_size x this x processes",
        _positive,
        "a positive number",
    )
    learning_rate: float = _setting(
        1e-4,
        "Peak learning rate of AdamW: of LoRA, and of what has no rate of its own below",
        _positive,
        "a positive number",
    )
    encoder_learning_rate: float | None = _setting(
        None,
        "Peak learning rate of the segmentation encoder (default: LEARNING_RATE)",
        _positive,
        "a positive number",
    )
    decoder_learning_rate: float | None = _setting(
        None,
        "Peak learning rate of mask decoder and modality head (default: LEARNING_RATE)",
        _positive,
        "a positive number",
    )
    weight_decay: float = _setting(
        1e-5, "AdamW's decoupled weight decay (matrices only)", _not_negative, "0 or more"
    )
    warmup_ratio: float = _setting(
        0.03, "Share of all steps with a linearly rising learning rate", _fraction, "0 <= value < 1"
    )
    min_lr_ratio: float = _setting(
        0.01, "Where the cosine ends, as a share of the peak", _fraction, "0 <= value < 1"
    )
    max_grad_norm: float = _setting(
        1.0,
        "Clip the norm of all gradients, both engines together (0: never)",
        _not_negative,
        "0 or more",
    )
    ema_decay: float = _setting(
        0.0,
        "Validate and keep a moving average of the trained weights, of which each step keeps this "
        "share, such as 0.999 (0: the weights themselves)",
        _fraction,
        "0 <= value < 1",
    )
    max_bad_steps: int = _setting(
        10,
        "Stop after this many consecutive steps whose loss or gradient is not finite",
        _positive,
        "a positive number",
    )
    seed: int = _setting(0, "Seed of weights, dropout and data order", _not_negative, "0 or more")


@dataclass(kw_only=True)
class RunSettings(CheckedSettings):
    """Run: where results go"""

    save_dir: str = _setting("runs/prs-med", "Folder for metrics, settings and trained weights")
    deepspeed: str = _setting("", "DeepSpeed configuration, for example ds_configs/zero2.json")
    log_every: int = _setting(
        10, "Steps between two lines of metrics.jsonl", _positive, "a positive number"
    )
    max_steps: int = _setting(
        0, "Stop after this many optimizer steps (0: after EPOCHS)", _not_negative, "0 or more"
    )


@dataclass(kw_only=True)
class Settings(DataSettings, ModelSettings, LossSettings, OptimSettings, RunSettings):
    """All settings of one training run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load_4bit and self.load_8bit:
            raise SettingError("--load_4bit and --load_8bit exclude each other: give one of them")
        if self.finetune == "full" and (self.load_4bit or self.load_8bit):
            raise SettingError(
                "--finetune full cannot train quantised weights: "
                "drop --load_4bit/--load_8bit, or use --finetune lora"
            )
        if self.freeze_encoder and self.encoder_learning_rate is not None:
            raise SettingError(
                "--encoder_learning_rate contradicts --freeze_encoder: drop one of them"
            )
        if self.freeze_mllm and (self.finetune == "full" or self.train_projector):
            raise SettingError(
                "--freeze_mllm contradicts --finetune full and --train_projector: drop one of them"
            )


STRUCTURE = (
    *("vlm_path", "vision_tower", "encoder_type", "image_size", "image_fit"),
    *("finetune", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "train_projector"),
    *("prompt_template", "prompt_tokens"),
)
"""Settings that belong to trained weights: with ``--init_from`` they start from its values."""


@dataclass(kw_only=True)
class UsedModelSettings(CheckedSettings):
    """Model: which trained weights, and how they answer"""

    checkpoint: str = _setting("", "Folder with trained weights, such as runs/prs-med/best")
    vlm_path: str | None = _setting(
        None, "Base model, if it has moved since training (default: where it was then)"
    )
    vision_tower: str | None = _setting(
        None, "Its CLIP tower, if training took one from elsewhere and that has moved"
    )
    batch_size: int = _setting(8, "Questions answered at once", _positive, "a positive number")
    max_new_tokens: int = _setting(64, "Longest answer in tokens", _positive, "a positive number")
    temperature: float = _setting(
        0.0,
        "0: always the likeliest token; else tokens are drawn, the higher the more varied",
        _not_negative,
        "0 or more",
    )
    top_p: float = _setting(
        1.0,
        "Draw only from the likeliest tokens that together have this probability",
        lambda v: 0 < v <= 1,
        "0 < value <= 1",
    )
    seed: int = _setting(0, "Seed of drawn tokens and of drawn samples", _not_negative, "0 or more")


@dataclass(kw_only=True)
class EvaluationSettings(UsedModelSettings):
    """Evaluation: which model answers which questions"""

    data_root: str = _setting("", "Folder that all paths in the CSV files are relative to")
    ann_paths: str | None = _setting(
        None,
        "Comma-separated CSV files (default: all in annotations/ or csv/ of DATA_ROOT)",
    )
    tasks: str | None = _setting(
        None, "Comma-separated tasks to use, such as lung_CT,prostate (default: all in the files)"
    )
    split: Literal["train", "val", "test"] = _setting("test", "Rows to evaluate")
    output_dir: str = _setting(
        "runs/evaluation", "Folder for metrics, per-sample results, pictures"
    )
    pictures: int = _setting(12, "Samples shown on the picture sheet", _not_negative, "0 or more")


@dataclass(kw_only=True)
class InferenceSettings(UsedModelSettings):
    """Inference: which questions about which images"""

    image: str | None = _setting(None, "One image file; needs --question")
    question: str | None = _setting(None, "The question about --image")
    data_root: str | None = _setting(
        None, "Instead of one image: folder that all paths in the CSV files are relative to"
    )
    ann_paths: str | None = _setting(
        None,
        "Comma-separated CSV files (default: all in annotations/ or csv/ of DATA_ROOT)",
    )
    tasks: str | None = _setting(
        None, "Comma-separated tasks to use, such as lung_CT,prostate (default: all in the files)"
    )
    split: Literal["train", "val", "test"] = _setting("test", "Rows to answer, by their split")
    num_samples: int = _setting(
        0, "Answer this many rows, drawn by SEED (0: all)", _not_negative, "0 or more"
    )
    output_dir: str = _setting(
        "runs/inference", "New folder for masks, triplets of pictures and results.csv"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.image) == bool(self.data_root):
            raise SettingError("give either --image with --question, or --data_root")
        if self.image and not self.question:
            raise SettingError("--question is required: what is asked about --image")
        if self.data_root and self.question:
            raise SettingError("--question belongs to --image: rows of --data_root have their own")
        for name in ("ann_paths", "tasks", "num_samples"):
            if self.image and getattr(self, name):
                raise SettingError(f"--{name} belongs to --data_root: drop it, or --image")


@dataclass(kw_only=True)
class ImportSettings(CheckedSettings):
    """Import: a released PRS-Med checkpoint becomes a folder with trained weights"""

    released: str = _setting(
        "", "Folder with lora_adapter/, tokenizer/, image_encoder.pth, mask_decoder.pth and cls.pth"
    )
    vlm_path: str = _setting("", "LLaVA-Med weights that it was trained on: a folder or hub id")
    vision_tower: str | None = _setting(
        None, "CLIP tower from a folder or hub id (default: the one among VLM_PATH's weights)"
    )
    output_dir: str = _setting("", "New folder for the trained weights")
    modalities: str | None = _setting(
        None,
        "Comma-separated names of the modality head's classes in order (default: the six of the "
        "released training code)",
    )


@dataclass(kw_only=True)
class ExportSettings(CheckedSettings):
    """Export: a folder with trained weights becomes a released PRS-Med checkpoint"""

    checkpoint: str = _setting("", "Folder with trained weights, such as runs/prs-med/best")
    output_dir: str = _setting("", "New folder for the released layout")
    sam_ckpt: str | None = _setting(
        None,
        "Published file of the segmentation encoder, whose unused parts the released layout holds "
        "too (default: the one trained from)",
    )


PRESETS: dict[str, dict[str, Any]] = {
    "released": {},
    "paper": {
        "segmentation_loss": "bce_dice",
        "lambda_seg": 1.0,
        "lambda_txt": 0.5,
        "cls_loss_weight": 0.0,
        "cls_loss_epochs": 0,
    },
}
"""Loss recipes by name. ``released``: the released training code (structure loss, modality loss of
weight 0.5 in the first 5 epochs). ``paper``: BCE + Dice and 0.5 x text (arXiv 2505.11872)."""
