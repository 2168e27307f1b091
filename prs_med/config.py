"""Every setting of training, defined once: its name, type, default, help text and limits.

The command line, YAML files, ``--help`` and the copy saved with each run are all derived from the
dataclasses below, by :mod:`prs_med.settings_io`.
"""

from __future__ import annotations

import dataclasses
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
    share,
)


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


_OF_STREAMS = ("batch_by_image", "shuffle_window", "stream_memory_mb", "cache_dir", "cache_gb")


def names_in(text: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def fold_in(text: str) -> tuple[int, int]:
    """The numbers of ``2/5``, the second of five parts.

    Raises:
        ValueError: it is not of this form, or there is no such part.
    """
    number, parts = (int(part) for part in text.split("/"))
    if not 1 <= number <= parts or parts < 2:
        raise ValueError(text)
    return number, parts


def _is_fold(text: str) -> bool:
    try:
        fold_in(text)
    except ValueError:
        return False
    return True


@dataclass(kw_only=True)
class RowSettings(CheckedSettings):
    """Rows: which rows of which CSV files, and how they are divided"""

    data_root: str = setting(
        "",
        "Folder with images, masks and CSV files; all paths in the files are relative to it",
        required=True,
        instead=("data",),
        path="local",
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
        "Column that names the patient or study; images of one are held out together "
        "(default: a column such as patient_id, else the file names of known datasets)",
    )
    on_bad_rows: Literal["error", "skip"] = setting(
        "error", "A row that cannot be used: stop with file and line, or skip, count and list it"
    )
    val_fraction: float = setting(
        0.1,
        "Share of training images held out for validation, patients as a whole, when no row is "
        "labelled val",
        fraction,
        "0 <= value < 1",
    )
    test_fraction: float = setting(
        0.0,
        "Share of training images held out for the test, patients as a whole, when no row is "
        "labelled test",
        fraction,
        "0 <= value < 1",
    )
    fold: str | None = setting(
        None,
        "Instead of VAL_FRACTION: hold out one of several equal parts, patients as a whole, such "
        "as 2/5, the second of five; the parts of one SEED do not overlap",
        _is_fold,
        "NUMBER/PARTS from 1/PARTS to PARTS/PARTS, such as 2/5",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold and self.val_fraction != type(self).val_fraction:
            raise SettingError("--fold and --val_fraction exclude each other: give one of them")


@dataclass(kw_only=True)
class DataSettings(RowSettings):
    """Data: where images, masks, questions and answers are read"""

    data: str | None = setting(
        None,
        "Dataset made by 'launch/data.py build', streamed while training: a folder or "
        "s3://bucket/folder (instead of DATA_ROOT)",
        common=("plan",),
        path="any",
    )
    verify_files: bool = setting(
        True,
        "Decode every image and mask and tokenise every text before training, so that a bad row "
        "shows now and not after hours",
    )
    prompt_template: Literal["released", "llava_med"] = setting(
        "released",
        "Text around the question: that of the released PRS-Med models, or LLaVA-Med's "
        "own [INST] form",
    )
    max_length: int = setting(
        2048,
        "Longest allowed sequence in tokens, image included; a longer sample is an error",
        positive,
        "a positive number",
        most=1_000_000,
    )
    num_workers: int = setting(
        2,
        "Loader processes per rank, or with DATA threads (0: load in the training process)",
        not_negative,
        "0 or more",
        common=("train",),
        most=1_024,
    )
    augment_intensity: float = setting(
        0.0,
        "Strength of random brightness, contrast and gamma changes of training images (0: none)",
        share,
        "0 <= value <= 1",
    )
    augment_flip: float = setting(
        0.0,
        "Probability of flipping a training image, horizontally and vertically each; mask and "
        "words of place are flipped along, and what cannot be flipped consistently is left",
        share,
        "0 <= value <= 1",
    )
    batch_by_image: bool = setting(
        False,
        "With DATA: BATCH_SIZE counts images, each with all its questions, and encoders run once "
        "per image; every image weighs the same in the loss",
    )
    shuffle_window: int = setting(
        128,
        "With DATA: row groups (some megabytes each) whose samples are mixed at a time",
        positive,
        "a positive number",
    )
    stream_memory_mb: int = setting(
        1024,
        "With DATA: memory per process for row groups that are read ahead, in MiB",
        positive,
        "a positive number",
    )
    cache_dir: str | None = setting(
        None,
        "With DATA: folder on local disk that keeps what was read, for all processes of a node and "
        "for later runs (default: no cache)",
        path="local",
    )
    cache_gb: float = setting(
        50.0, "Most that CACHE_DIR may hold, in GiB", positive, "a positive number"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data and self.data_root:
            raise SettingError("--data and --data_root exclude each other: give one of them")
        changed = [
            spec.name
            for spec in dataclasses.fields(DataSettings)
            if getattr(self, spec.name) != spec.default
        ]
        of_rows = {spec.name for spec in dataclasses.fields(RowSettings)}
        for name in changed:
            if self.data and (name in of_rows or name == "verify_files"):
                raise SettingError(
                    f"--{name} belongs to --data_root: the dataset in --data was built already, "
                    "by 'launch/data.py build', and its rows were chosen and checked there"
                )
            if self.data_root and name in _OF_STREAMS:
                raise SettingError(
                    f"--{name} belongs to --data: make a dataset with 'launch/data.py build', "
                    "or drop it"
                )
        if "cache_gb" in changed and not self.cache_dir:
            raise SettingError("--cache_gb has no effect without --cache_dir: add it")


@dataclass(kw_only=True)
class ModelSettings(CheckedSettings):
    """Model: which weights, and which of them are trained"""

    vlm_path: str = setting(
        "",
        "LLaVA-Med weights: a folder or hub id, original (llava_mistral) or transformers layout",
        required=True,
        common=("plan",),
        path="local",
    )
    vision_tower: str | None = setting(
        None,
        "CLIP tower from a folder or hub id, such as openai/clip-vit-large-patch14-336 "
        "(default: the one among VLM_PATH's weights)",
        path="local",
    )
    sam_ckpt: str = setting(
        "",
        "Weights of the segmentation encoder, for example tinysam_42.3.pth",
        required=True,
        common=("plan",),
        instead=("init_from",),
        path="local",
    )
    init_from: str | None = setting(
        None,
        "Folder with trained weights to go on from, such as an imported released checkpoint: "
        "adapter, segmentation side and modalities are taken from it, SAM_CKPT is not needed",
        path="any",
    )
    encoder_type: str = setting(
        "tinysam",
        f"Family of the segmentation encoder: {', '.join(ENCODERS)}",
        lambda v: v in ENCODERS,
        ", ".join(ENCODERS),
        common=("train", "plan"),
    )
    image_size: int = setting(
        0,
        "Side in pixels of the segmentation encoder's input and of the training masks "
        "(0: what the encoder was trained at, 1024, or 256 for sam_med2d)",
        not_negative,
        "0, or at least 64",
        common=("train", "plan"),
        most=16_384,
    )
    image_fit: Literal["stretch", "pad"] = setting(
        "stretch",
        "How an image becomes square for the segmentation encoder: stretched, as the released "
        "models were trained, or scaled as a whole and padded",
    )
    load_4bit: bool = setting(
        False,
        "Keep the frozen language model in 4 bits (nf4, double quant)",
        common=("train", "plan"),
    )
    load_8bit: bool = setting(False, "Keep the frozen language model in 8 bits (LLM.int8)")
    precision: Literal["bf16", "fp32"] = setting("bf16", "Arithmetic of the language model")
    segmentation_precision: Literal["fp32", "tf32", "bf16"] = setting(
        "fp32",
        "Arithmetic of the segmentation side, whose weights and losses are always fp32. tf32 "
        "rounds what enters matrix products in fp32, on GPUs that have it, in the whole model; "
        "bf16 computes in autocast",
    )
    attention: Literal["auto", "flash", "sdpa"] = setting(
        "auto",
        "Attention kernels of the language model: flash-attn where usable, else PyTorch's; "
        "flash is an error where it cannot run",
    )
    finetune: Literal["lora", "full"] = setting(
        "lora", "Train LoRA adapters, or all weights of the language model"
    )
    lora_rank: int = setting(
        16,
        "Rank of the LoRA matrices",
        positive,
        "a positive number",
        common=("train",),
        most=8_192,
    )
    lora_alpha: float = setting(
        16, "LoRA scale: updates are multiplied by alpha / rank", positive, "a positive number"
    )
    lora_dropout: float = setting(
        0.1, "Dropout in front of the LoRA matrices", fraction, "0 <= value < 1"
    )
    lora_targets: str = setting(
        "q_proj,k_proj,v_proj,o_proj",
        "Comma-separated linear layers of the language model that get LoRA",
    )
    train_projector: bool = setting(False, "Also train the projector from CLIP to language model")
    freeze_encoder: bool = setting(False, "Do not train the segmentation encoder")
    freeze_decoder: bool = setting(False, "Do not train the mask decoder")
    freeze_mllm: bool = setting(
        False, "Do not train the language model or its LoRA: the segmentation side alone learns"
    )
    decoder_dropout: float = setting(
        0.1, "Dropout in the mask decoder's transformer layer", fraction, "0 <= value < 1"
    )
    prompt_tokens: Literal["question", "all"] = setting(
        "question",
        "Hidden states that the mask decoder sees: image and question, or also the "
        "answer (only to continue a checkpoint that was trained so)",
    )
    gradient_checkpointing: bool = setting(
        False, "Recompute the language model's activations in the backward pass to save memory"
    )
    encoder_checkpointing: bool = setting(
        False, "Recompute the segmentation encoder's activations, block by block, to save memory"
    )
    share_image_prefix: bool = setting(
        False,
        "With BATCH_BY_IMAGE, in training: the language model computes an image once for all its "
        "questions, which follow it in one sequence and do not see each other",
    )
    use_liger_kernel: bool = setting(
        False,
        "Fuse norms, rotary embeddings and SwiGLU of the language model (Liger; needs a GPU): "
        "faster, and less memory",
    )
    compile_model: bool = setting(False, "Compile COMPILE_REGIONS with torch.compile")
    compile_regions: str = setting(
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
        if self.share_image_prefix and self.attention == "flash":
            raise SettingError(
                "--share_image_prefix needs a mask that flash-attn does not know: use --attention "
                "auto or sdpa"
            )
        if self.encoder_checkpointing and self.freeze_encoder:
            raise SettingError(
                "--encoder_checkpointing has no effect with --freeze_encoder, whose encoder has no "
                "backward pass: drop it"
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
        compiled = names_in(self.compile_regions) if self.compile_model else []
        if self.use_liger_kernel and "language_model" in compiled:
            raise SettingError(
                "--use_liger_kernel and --compile_regions language_model fuse the same operations: "
                "use one of them"
            )


@dataclass(kw_only=True)
class LossSettings(CheckedSettings):
    """Loss: what is minimised; every term is a mean over the samples of the global batch"""

    segmentation_loss: Literal["structure", "bce_dice"] = setting(
        "structure", "Mask loss: boundary-weighted BCE + IoU, or BCE + Dice"
    )
    lambda_seg: float = setting(1.0, "Weight of the mask loss", not_negative, "0 or more")
    lambda_txt: float = setting(
        1.0, "Weight of the text loss (answer and end token)", not_negative, "0 or more"
    )
    cls_loss_weight: float = setting(0.5, "Weight of the modality loss", not_negative, "0 or more")
    cls_loss_epochs: int = setting(
        5, "Epochs during which the modality loss is used", not_negative, "0 or more"
    )


@dataclass(kw_only=True)
class OptimSettings(CheckedSettings):
    """Optimisation: steps, batches and the learning rate"""

    epochs: float = setting(
        20,
        "Passes over the training data (a fraction is allowed)",
        positive,
        "a positive number",
        common=("train", "plan"),
    )
    batch_size: int = setting(
        4,
        "Samples per process and forward pass",
        positive,
        "a positive number",
        common=("train", "plan"),
        most=65_536,
    )
    gradient_accumulation_steps: int = setting(
        1,
        "Forward passes per optimizer step; the global batch is batch_size x this x processes",
        positive,
        "a positive number",
        common=("train",),
        most=65_536,
    )
    global_batch_size: int | None = setting(
        None,
        "Instead of GRADIENT_ACCUMULATION_STEPS: samples per optimizer step, on any number of "
        "processes that together with BATCH_SIZE divides it",
        positive,
        "a positive number",
    )
    learning_rate: float = setting(
        1e-4,
        "Peak learning rate of AdamW: of LoRA, and of what has no rate of its own below",
        positive,
        "a positive number",
        common=("train",),
    )
    encoder_learning_rate: float | None = setting(
        None,
        "Peak learning rate of the segmentation encoder (default: LEARNING_RATE)",
        positive,
        "a positive number",
    )
    decoder_learning_rate: float | None = setting(
        None,
        "Peak learning rate of mask decoder and modality head (default: LEARNING_RATE)",
        positive,
        "a positive number",
    )
    weight_decay: float = setting(
        1e-5, "AdamW's decoupled weight decay (matrices only)", not_negative, "0 or more"
    )
    warmup_ratio: float = setting(
        0.03, "Share of all steps with a linearly rising learning rate", fraction, "0 <= value < 1"
    )
    min_lr_ratio: float = setting(
        0.01, "Where the cosine ends, as a share of the peak", fraction, "0 <= value < 1"
    )
    max_grad_norm: float = setting(
        1.0,
        "Clip the norm of all gradients, both engines together (0: never)",
        not_negative,
        "0 or more",
    )
    ema_decay: float = setting(
        0.0,
        "Validate and keep a moving average of the trained weights, of which each step keeps this "
        "share, such as 0.999 (0: the weights themselves)",
        fraction,
        "0 <= value < 1",
    )
    loss_spike: float = setting(
        0.0,
        "Also call a step bad whose loss is so many times the median of the last 50, such as 5; "
        "costs one number per step from the device (0: only what is not finite)",
        lambda v: v == 0 or v > 1,
        "0, or above 1",
    )
    on_bad_step: Literal["skip", "rollback", "stop"] = setting(
        "skip",
        "A step whose loss or gradient is not finite, or jumps: skip it; or go back to the last "
        "checkpoint and on without its batch; or stop. Its samples are in events.jsonl",
    )
    max_bad_steps: int = setting(
        10, "Stop after this many bad steps without a good one", positive, "a positive number"
    )
    seed: int = seed_setting("Seed of weights, dropout, data order and of the images held out")


@dataclass(kw_only=True)
class RunSettings(CheckedSettings):
    """Run: where results go, what is saved and when"""

    save_dir: str = setting(
        "runs/prs-med",
        "Folder for metrics, settings, checkpoints and trained weights",
        common=("train",),
        path="local",
    )
    checkpoint_uri: str | None = setting(
        None,
        "Also keep the checkpoints on S3: s3://bucket/folder, copied in the background",
        common=("train",),
        path="any",
    )
    resume: str | None = setting(
        None,
        "auto: go on from the newest checkpoint of SAVE_DIR or CHECKPOINT_URI, or start if there "
        "is none; or one checkpoint, such as runs/a/checkpoints/step-00000500-01, to go on from",
        common=("train",),
        path="any",
    )
    save_every_steps: int = setting(
        0, "Save a checkpoint after so many steps (0: not by steps)", not_negative, "0 or more"
    )
    save_every_minutes: float = setting(
        10.0, "... and so many minutes after the last one (0: not by time)",
        not_negative, "0 or more",
    )  # fmt: skip
    save_every_epochs: float = setting(
        1.0, "... and after so many epochs (0: not by epochs)", not_negative, "0 or more"
    )
    keep_last: int = setting(
        2, "Checkpoints to keep besides the best one", positive, "a positive number"
    )
    deepspeed: str = setting(
        "",
        "DeepSpeed configuration, for example ds_configs/zero2.json",
        required=True,
        common=("plan",),
        path="local",
    )
    log_every: int = setting(
        10, "Steps between two lines of metrics.jsonl", positive, "a positive number"
    )
    hang_timeout: float = setting(
        600.0,
        "Seconds that a process may stand at one point of a step, a batch of validation or saving; "
        "then the run says which one it is and where, and ends (0: wait for ever)",
        lambda v: 0 <= v <= 365 * 24 * 3600,
        "0 to 31536000, a year",
    )
    stop_seconds: float = setting(
        100.0,
        "Seconds in which a run that is asked to end has saved and ended; Slurm's script gives it "
        "120, containers and clouds as many (0: as long as it takes)",
        lambda v: 0 <= v <= 365 * 24 * 3600,
        "0 to 31536000, a year",
    )
    max_steps: int = setting(
        0, "Stop after this many optimizer steps (0: after EPOCHS)", not_negative, "0 or more"
    )


_LOWER_IS_BETTER = ("val_loss", "val_hd95", "val_surface_distance")
_OF_ANSWERS = (
    *("val_zone_accuracy", "val_near_center_accuracy", "val_answer_agrees_with_mask"),
    "val_rouge_l",
)


@dataclass(kw_only=True)
class ValidationSettings(CheckedSettings):
    """Validation: what is measured after each epoch, and by what a checkpoint is the best"""

    validation_answers: int = setting(
        32,
        "Questions, spread evenly over the validation samples, that are answered in words at each "
        "validation (0: none)",
        not_negative,
        "0 or more",
    )
    validation_answer_tokens: int = setting(
        64,
        "Longest of these answers in tokens",
        positive,
        "a positive number",
        most=1_000_000,
    )
    validation_pictures: int = setting(
        6,
        "Of these questions, so many are kept with their pictures in SAVE_DIR/validation (0: none)",
        not_negative,
        "0 or more",
    )
    position_words: str | None = setting(
        None,
        "Words for places in other languages than English, for the scores of these answers: de, "
        "es, fr, zh, or YAML files, separated by commas (default: English alone)",
        path="local",
    )
    best_metric: Literal[
        "val_dice",
        "val_iou",
        "val_precision",
        "val_recall",
        "val_hd95",
        "val_surface_distance",
        "val_mask_zone_accuracy",
        "val_zone_accuracy",
        "val_near_center_accuracy",
        "val_answer_agrees_with_mask",
        "val_rouge_l",
        "val_loss_seg",
        "val_loss_txt",
        "val_loss_cls",
    ] = setting("val_dice", "Validation score by which a checkpoint is the best")

    @property
    def higher_is_better(self) -> bool:
        """Whether the best of two checkpoints is the one with the higher ``best_metric``."""
        return not self.best_metric.startswith(_LOWER_IS_BETTER)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_answers:
            return
        if self.best_metric in _OF_ANSWERS:
            raise SettingError(
                f"--best_metric {self.best_metric} is a score of answers: set --validation_answers "
                "to more than 0"
            )
        for spec in dataclasses.fields(ValidationSettings):
            value = getattr(self, spec.name)
            if spec.name.startswith("validation_") and value not in (0, spec.default):
                raise SettingError(
                    f"--{spec.name} has no effect with --validation_answers 0: drop one of them"
                )


@dataclass(kw_only=True)
class Settings(
    DataSettings, ModelSettings, LossSettings, OptimSettings, RunSettings, ValidationSettings
):
    """All settings of one training run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint_uri and not self.checkpoint_uri.startswith("s3://"):
            raise SettingError(
                f"--checkpoint_uri {self.checkpoint_uri}: allowed is s3://bucket/folder; a folder "
                "is SAVE_DIR"
            )
        if self.global_batch_size is not None and self.gradient_accumulation_steps != 1:
            raise SettingError(
                "--global_batch_size and --gradient_accumulation_steps exclude each other: give "
                "one of them"
            )
        if self.share_image_prefix and not self.batch_by_image:
            raise SettingError(
                "--share_image_prefix needs --batch_by_image (and so --data): only there do the "
                "questions of an image come together; add it"
            )
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

    def for_processes(self, count: int) -> Settings:
        """The same with the accumulation that the global batch takes on so many processes.

        Raises:
            SettingError: they cannot divide it evenly.
        """
        if self.global_batch_size is None:
            return self
        in_a_pass = self.batch_size * count
        if self.global_batch_size % in_a_pass:
            raise SettingError(
                f"--global_batch_size {self.global_batch_size}: is no multiple of the {in_a_pass} "
                f"samples that {count} processes with --batch_size {self.batch_size} see in one "
                "forward pass"
            )
        accumulation = self.global_batch_size // in_a_pass
        return dataclasses.replace(
            self, global_batch_size=None, gradient_accumulation_steps=accumulation
        )


STRUCTURE = (
    *("vlm_path", "vision_tower", "encoder_type", "image_size", "image_fit"),
    *("finetune", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "train_projector"),
    *("prompt_template", "prompt_tokens"),
)
"""Settings that belong to trained weights: with ``--init_from`` they start from its values."""


_TRAINING_CHECKPOINT = (
    "Training checkpoint, such as runs/a/checkpoints/step-00000500-01 or "
    "s3://bucket/a/manifests/step-00000500-01.json; or a run, such as runs/a or s3://bucket/a, for "
    "its newest one"
)
TRAINED_WEIGHTS = (
    "Folder with trained weights, such as runs/a/best; or a training checkpoint, such as "
    "runs/a/checkpoints/step-00000500-01 or s3://bucket/a/manifests/step-00000500-01.json; or a "
    "run, such as runs/a or s3://bucket/a, for its newest one"
)


@dataclass(kw_only=True)
class ImportSettings(CheckedSettings):
    """Import: a released PRS-Med checkpoint becomes a folder with trained weights"""

    released: str = setting(
        "",
        "Folder with lora_adapter/, tokenizer/, image_encoder.pth, mask_decoder.pth and cls.pth",
        required=True,
        positional=True,
        path="local",
    )
    vlm_path: str = setting(
        "",
        "LLaVA-Med weights that it was trained on: a folder or hub id",
        required=True,
        path="local",
    )
    vision_tower: str | None = setting(
        None,
        "CLIP tower from a folder or hub id (default: the one among VLM_PATH's weights)",
        path="local",
    )
    output_dir: str = setting("", "New folder for the trained weights", required=True, path="local")
    modalities: str | None = setting(
        None,
        "Comma-separated names of the modality head's classes in order (default: the six of the "
        "released training code)",
    )


@dataclass(kw_only=True)
class InspectSettings(CheckedSettings):
    """Inspect: what a training checkpoint holds and how it came about"""

    checkpoint: str = setting("", _TRAINING_CHECKPOINT, required=True, positional=True, path="any")
    json: bool = setting(False, "Print the manifest's content as JSON")


@dataclass(kw_only=True)
class VerifySettings(CheckedSettings):
    """Verify: every byte of a training checkpoint against its checksums"""

    checkpoint: str = setting("", _TRAINING_CHECKPOINT, required=True, positional=True, path="any")
    all: bool = setting(False, "Verify all checkpoints of the run, not the newest alone")


@dataclass(kw_only=True)
class _UsedCheckpointSettings(CheckedSettings):
    checkpoint: str = setting("", TRAINED_WEIGHTS, required=True, positional=True, path="any")
    output_dir: str = setting("", "New folder for what is made of it", required=True, path="local")
    vlm_path: str | None = setting(
        None,
        "Base model, if it has moved since training (default: where it was then)",
        path="local",
    )
    vision_tower: str | None = setting(
        None, "Its CLIP tower, if training took one from elsewhere and that has moved", path="local"
    )


@dataclass(kw_only=True)
class TrainedExportSettings(_UsedCheckpointSettings):
    """Trained: a training checkpoint becomes a folder with trained weights"""

    checkpoint: str = setting("", _TRAINING_CHECKPOINT, required=True, positional=True, path="any")
    sam_ckpt: str | None = setting(
        None,
        "Weights of the segmentation encoder, if they have moved; needed only if training froze it",
        path="local",
    )


@dataclass(kw_only=True)
class MergedExportSettings(_UsedCheckpointSettings):
    """Merged: trained weights become one transformers LLaVA model and segmentation.safetensors"""

    dtype: Literal["bf16", "fp32"] = setting(
        "bf16", "Type of the language model's weights, rounded after merging in fp32"
    )


@dataclass(kw_only=True)
class ExportSettings(_UsedCheckpointSettings):
    """Export: trained weights become a released PRS-Med checkpoint"""

    sam_ckpt: str | None = setting(
        None,
        "Published file of the segmentation encoder, whose unused parts the released layout holds "
        "too (default: the one trained from)",
        path="local",
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
