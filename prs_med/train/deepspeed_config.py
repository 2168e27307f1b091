"""The DeepSpeed configurations of both engines, from the one that the user writes.

The user's file configures the language model's engine. ``"auto"`` values are filled from the
settings (DeepSpeed itself does not understand them); a value that contradicts a setting is an
error. The segmentation side's configuration is derived: fp32, ZeRO-1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prs_med.config import SettingError, Settings

_MONITORS = ("tensorboard", "wandb", "comet", "csv_monitor")
_MANAGED_ELSEWHERE = {
    "scheduler": "the schedule is set by --warmup_ratio and --min_lr_ratio",
    "fp16": "use --precision bf16 or fp32",
    "amp": "use --precision bf16 or fp32",
    "zero_allow_untested_optimizer": "the optimizer is AdamW",
}


def load_deepspeed_config(path: Path, settings: Settings, world_size: int) -> dict[str, Any]:
    """Configuration of the language model's engine, with every ``"auto"`` resolved.

    Raises:
        SettingError: naming file, key and value, if the file cannot be read or a value
            contradicts a setting or cannot work.
    """
    config = _read(path)
    for key, instead in _MANAGED_ELSEWHERE.items():
        if config.get(key):
            raise SettingError(f"{path}: remove {key!r}; {instead}")
    for name, (setting, value) in _expected(settings, world_size).items():
        _resolve(path, config, name.split("."), setting, value)
    _check_optimizer(path, config.pop("optimizer", None), settings)
    zero = config.get("zero_optimization", {})
    if zero.get("stage") not in (1, 2, 3):
        raise SettingError(
            f"{path}: zero_optimization.stage is {zero.get('stage')!r}; allowed are 1, 2 and 3"
        )
    if settings.load_8bit and zero["stage"] == 3:
        raise SettingError(
            f"{path}: ZeRO-3 cannot partition the int8 weights of --load_8bit; "
            "use a ZeRO-2 configuration or --load_4bit"
        )
    # Otherwise DeepSpeed insists on its own CPU optimizer, which is compiled at run time.
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    _refuse_auto(path, config, "")
    return config


def segmentation_config(config: dict[str, Any], monitors: bool) -> dict[str, Any]:
    """Configuration of the segmentation side's engine, from the language model's.

    ``monitors``: whether this engine carries the monitors, because the other is not trained.

    Stage 1, because stage 0 refuses a backward pass that starts in another engine's output and
    a few million fp32 parameters gain nothing from more partitioning.
    """
    zero = config["zero_optimization"]
    buckets = {
        key: zero[key] for key in ("reduce_bucket_size", "allgather_bucket_size") if key in zero
    }
    return {
        "train_batch_size": config["train_batch_size"],
        "train_micro_batch_size_per_gpu": config["train_micro_batch_size_per_gpu"],
        "gradient_accumulation_steps": config["gradient_accumulation_steps"],
        "gradient_clipping": config["gradient_clipping"],
        "steps_per_print": config["steps_per_print"],
        "zero_optimization": {"stage": 1, **buckets},
        **({key: config[key] for key in _MONITORS if key in config} if monitors else {}),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise SettingError(f"--deepspeed {path}: {error}") from None
    if not isinstance(config, dict):
        raise SettingError(f"--deepspeed {path}: expected a JSON object")
    return config


def _expected(settings: Settings, world_size: int) -> dict[str, tuple[str, Any]]:
    accumulation = settings.gradient_accumulation_steps
    return {
        "train_micro_batch_size_per_gpu": ("--batch_size", settings.batch_size),
        "gradient_accumulation_steps": ("--gradient_accumulation_steps", accumulation),
        "train_batch_size": (
            f"--batch_size x --gradient_accumulation_steps x {world_size} processes",
            settings.batch_size * accumulation * world_size,
        ),
        "gradient_clipping": ("--max_grad_norm", settings.max_grad_norm),
        "bf16.enabled": ("--precision", settings.precision == "bf16"),
        "steps_per_print": ("(own progress output)", 2**31),
    }


def _resolve(path: Path, config: dict[str, Any], keys: list[str], setting: str, value: Any) -> None:
    *parents, last = keys
    for key in parents:
        config = config.setdefault(key, {})
    found = config.get(last, "auto")
    if found not in ("auto", value):
        raise SettingError(
            f"{path}: {'.'.join(keys)} is {found!r}, but {setting} gives {value!r}; "
            'make them equal or write "auto"'
        )
    config[last] = value


def _check_optimizer(path: Path, optimizer: dict[str, Any] | None, settings: Settings) -> None:
    if optimizer is None:
        return
    if optimizer.get("type") != "AdamW":
        raise SettingError(
            f"{path}: optimizer.type is {optimizer.get('type')!r}; only 'AdamW' is supported"
        )
    known = {
        "lr": ("--learning_rate", settings.learning_rate),
        "weight_decay": ("--weight_decay", settings.weight_decay),
        "betas": ("(fixed)", [0.9, 0.999]),
        "eps": ("(fixed)", 1e-8),
    }
    for key, found in optimizer.get("params", {}).items():
        if key not in known:
            raise SettingError(f"{path}: optimizer.params.{key} is not supported; remove it")
        setting, value = known[key]
        if found not in ("auto", value):
            raise SettingError(
                f"{path}: optimizer.params.{key} is {found!r}, but {setting} gives {value!r}; "
                'make them equal or write "auto"'
            )


def _refuse_auto(path: Path, value: Any, name: str) -> None:
    if value == "auto":
        raise SettingError(f'{path}: {name} is "auto", which no setting fills; write a value')
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_auto(path, inner, f"{name}.{key}" if name else key)
