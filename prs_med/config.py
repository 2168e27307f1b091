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


@dataclass(kw_only=True)
class DataSettings(CheckedSettings):
    """Data: where images, masks, questions and answers are read"""

    data_root: str = _setting("", "Folder that all paths in the CSV files are relative to")
    ann_paths: str | None = _setting(
        None, "Comma-separated CSV files (default: every CSV in DATA_ROOT/annotations)"
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
    sam_ckpt: str = _setting(
        "", "Weights of the segmentation encoder, for example tinysam_42.3.pth"
    )
    encoder_type: Literal["tinysam"] = _setting("tinysam", "Family of the segmentation encoder")
    image_size: int = _setting(
        1024,
        "Side in pixels of the segmentation encoder's input and of the training masks",
        lambda v: v >= 64 and v % 16 == 0,
        "a multiple of 16, at least 64",
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
    compile_model: bool = _setting(False, "torch.compile the segmentation encoder and mask decoder")


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
        1e-4, "Peak learning rate of AdamW", _positive, "a positive number"
    )
    segmentation_learning_rate: float | None = _setting(
        None,
        "Peak learning rate of the segmentation side (default: LEARNING_RATE)",
        lambda v: v is None or v > 0,
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
        if not [name for name in self.lora_targets.split(",") if name.strip()]:
            raise SettingError("--lora_targets is empty: name at least one layer, such as q_proj")


@dataclass(kw_only=True)
class EvaluationSettings(CheckedSettings):
    """Evaluation: which model answers which questions"""

    checkpoint: str = _setting("", "Folder with trained weights, such as runs/prs-med/best")
    data_root: str = _setting("", "Folder that all paths in the CSV files are relative to")
    ann_paths: str | None = _setting(
        None, "Comma-separated CSV files (default: every CSV in DATA_ROOT/annotations)"
    )
    split: Literal["train", "val", "test"] = _setting("test", "Rows to evaluate")
    vlm_path: str | None = _setting(
        None, "Base model, if it has moved since training (default: where it was then)"
    )
    output_dir: str = _setting(
        "runs/evaluation", "Folder for metrics, per-sample results, pictures"
    )
    batch_size: int = _setting(8, "Questions answered at once", _positive, "a positive number")
    max_new_tokens: int = _setting(64, "Longest answer in tokens", _positive, "a positive number")
    pictures: int = _setting(12, "Samples shown on the picture sheet", _not_negative, "0 or more")


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
