"""Which settings a run may go on with: those it had, but for what may change.

Every setting of training is in exactly one of three classes; docs/failures.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prs_med.config import SettingError, Settings, names_in
from prs_med.model.errors import CheckpointError

MUST_BE_EQUAL = (
    # the order of samples, and what they become
    *("seed", "batch_by_image", "shuffle_window"),
    *("prompt_template", "prompt_tokens", "image_size", "image_fit"),
    # the model, and what of it is trained
    *("encoder_type", "finetune", "lora_rank", "lora_alpha", "lora_targets", "train_projector"),
    *("freeze_encoder", "freeze_decoder", "freeze_mllm"),
)
"""With other values the weights would be those of another model, or the data another sequence."""

MAY_CHANGE = (
    *("segmentation_loss", "lambda_seg", "lambda_txt", "cls_loss_weight", "cls_loss_epochs"),
    *("epochs", "max_steps", "batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "encoder_learning_rate", "decoder_learning_rate", "weight_decay"),
    *("warmup_ratio", "min_lr_ratio", "max_grad_norm", "ema_decay"),
    *("loss_spike", "on_bad_step", "max_bad_steps"),
    *("lora_dropout", "decoder_dropout", "augment_intensity", "augment_flip", "position_words"),
    *("precision", "segmentation_precision", "load_4bit", "load_8bit"),
    *("best_metric", "validation_answers", "validation_answer_tokens"),
)
"""Training goes on as another one from here: that is said, a line for each. That the global batch
stays as large is checked with the state of the data."""

DO_NOT_MATTER = (
    # names of what is compared by its content
    *("data", "data_root", "ann_paths", "tasks", "group_column", "on_bad_rows"),
    *("val_fraction", "test_fraction", "fold"),
    *("vlm_path", "vision_tower", "sam_ckpt", "init_from", "global_batch_size"),
    # how the same is computed
    *("deepspeed", "attention", "gradient_checkpointing", "encoder_checkpointing"),
    *("share_image_prefix", "use_liger_kernel", "compile_model", "compile_regions"),
    *("verify_files", "max_length", "num_workers", "stream_memory_mb", "cache_dir", "cache_gb"),
    # what is kept and told
    *("save_dir", "checkpoint_uri", "resume", "save_every_steps", "save_every_minutes"),
    *("save_every_epochs", "keep_last", "log_every", "hang_timeout", "stop_seconds"),
    "validation_pictures",
)
"""What is trained is the same, but for rounding."""

TELL_RUNS_APART = (
    *MUST_BE_EQUAL,
    *("segmentation_loss", "lambda_seg", "lambda_txt", "cls_loss_weight", "cls_loss_epochs"),
    *("learning_rate", "encoder_learning_rate", "decoder_learning_rate", "weight_decay"),
    *("warmup_ratio", "min_lr_ratio", "max_grad_norm", "ema_decay"),
    *("lora_dropout", "decoder_dropout", "augment_intensity", "augment_flip", "position_words"),
)
"""What an experiment is: a start that knows nothing of the run in a place on S3, and has another
value of one of these, is another run."""

_LISTS = ("lora_targets",)
"""Comma-separated names whose order does not matter."""


def changes(stored: Mapping[str, Any], settings: Settings, where: str) -> list[str]:
    """What to say about settings that have changed since a checkpoint was saved.

    Args:
        stored: the settings in the checkpoint.
        where: the checkpoint, for the message.

    Raises:
        CheckpointError: settings differ that must be equal; names all, with both values.
    """
    ours = asdict(settings)
    changed = _changed(stored, ours)
    unequal = [name for name in MUST_BE_EQUAL if name in changed]
    if unequal:
        listed = _listed(unequal, stored, ours)
        raise CheckpointError(
            f"{where}: was trained with {listed}: must be equal to go on; to train its weights "
            "otherwise, export them and start a new run with --init_from"
        )
    return [
        f"--{name} is {_text(ours[name])} from here on; it was {_text(stored[name])}"
        for name in MAY_CHANGE
        if name in changed
    ]


def identity(settings: Settings) -> dict[str, Any]:
    """The settings of a run that tell it apart from others, for its claims."""
    ours = asdict(settings)
    return {name: ours[name] for name in TELL_RUNS_APART}


def check_same_run(claimed: Mapping[str, Any], settings: Settings, uri: str) -> None:
    """Make sure that a place on S3 holds this run, as far as settings tell.

    Args:
        claimed: what :func:`identity` gave to the run that has claimed it.
        uri: the place.

    Raises:
        SettingError: it holds another one; names what differs, with both values.
    """
    ours = identity(settings)
    changed = _changed(claimed, ours)
    if changed:
        listed = _listed([name for name in TELL_RUNS_APART if name in changed], claimed, ours)
        raise SettingError(
            f"--checkpoint_uri {uri}: holds a run with {listed}, and --save_dir "
            f"{settings.save_dir} knows nothing of it: give this run a place of its own; to go on "
            f"with that one, name its checkpoint (--resume {uri}/manifests/step-....json)"
        )


def _changed(stored: Mapping[str, Any], ours: Mapping[str, Any]) -> set[str]:
    return {
        name
        for name in stored.keys() & ours.keys()
        if _comparable(name, stored[name]) != _comparable(name, ours[name])
    }


def _listed(names: Sequence[str], stored: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    return ", ".join(f"--{name} {_text(stored[name])} (here {_text(ours[name])})" for name in names)


def _comparable(name: str, value: Any) -> Any:
    return sorted(names_in(value)) if name in _LISTS and isinstance(value, str) else value


def _text(value: Any) -> str:
    """A value as a command line gives it."""
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")
