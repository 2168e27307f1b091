"""Settings of older PRS-Med programs: those that only changed their name, and those that are gone.

From the training, inference and evaluation programs of the PRS-Med repository and of the MMRS
re-implementation; docs/moving.md shows whole commands.
"""

from __future__ import annotations

from collections.abc import Collection

from prs_med.checked_settings import SettingError

RENAMED = {
    "annotation_path": "ann_paths",
    "checkpoint_dir": "save_dir",
    "data_path": "data_root",
    "grad_accum_steps": "gradient_accumulation_steps",
    "grad_clip_norm": "max_grad_norm",
    "lr": "learning_rate",
    "model_path": "vlm_path",
    "num_epochs": "epochs",
    "specific_dataset": "tasks",
    "tinysam_checkpoint": "sam_ckpt",
    "vision_encoder_checkpoint": "sam_ckpt",
    "vision_encoder_type": "encoder_type",
}
"""Old name to new; the value is the same."""

VALUES = {("encoder_type", "sammed2d"): "sam_med2d"}
"""Old values of settings that still exist."""

REPLACED = {
    ("use_amp", "true"): ("precision", "bf16"),
    ("use_amp", "false"): ("precision", "fp32"),
    ("no-use_amp", "true"): ("precision", "fp32"),
}
"""Old name and value to new ones."""

_READ_FROM_CHECKPOINT = "it is read from --checkpoint"
_BOTH_JUDGES = "give launch/eval.py both models, as --judges FIRST,SECOND"
GONE = {
    "cls_num_out": "the modalities in the data, or of --init_from, tell how many classes there are",
    "deterministic": "the same command gives the same result on the same machine anyway",
    "device": "the launcher chooses: deepspeed --num_gpus 1, or --include localhost:0",
    "image_size": _READ_FROM_CHECKPOINT,
    "judge_device": "judges run on the GPUs that evaluation runs on",
    "llama_model_name": _BOTH_JUDGES,
    "load_8bit": _READ_FROM_CHECKPOINT,
    "log_file": "numbers go to SAVE_DIR/metrics.jsonl; for the text, append '2>&1 | tee FILE'",
    "lora_alpha": _READ_FROM_CHECKPOINT,
    "lora_dropout": _READ_FROM_CHECKPOINT,
    "lora_rank": _READ_FROM_CHECKPOINT,
    "qwen_model_name": _BOTH_JUDGES,
    "results_csv": "launch/eval.py answers and scores in one go: give --checkpoint and --data_root",
    "encoder_type": _READ_FROM_CHECKPOINT,
    "sam_model_type": "the file that --sam_ckpt names tells its own sizes (its family is "
    "--encoder_type)",
}
"""What to do instead; only for programs that have no setting of that name."""


def modern(old: str, value: str | None, known: Collection[str]) -> tuple[str, str | None]:
    """A setting and its value, if it has one, in today's spelling.

    Args:
        known: names of the program's settings, without dashes.

    Raises:
        SettingError: for a setting that is gone, saying what replaces it.
    """
    name, given = old, value
    if old not in known:
        renamed = (RENAMED.get(old, old), value)
        name, given = REPLACED.get((old, (value or "true").lower()), renamed)
    if given is not None:
        given = VALUES.get((name, given), given)
    if name in known:
        return name, given
    if name in GONE:
        raise SettingError(f"--{old} is no longer needed: {GONE[name]}; remove it")
    return old, value
