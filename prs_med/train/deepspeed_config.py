"""The DeepSpeed configurations of both engines, from the one that the user writes.

The user's file configures the language model's engine. ``"auto"`` values are filled from the
settings (DeepSpeed itself does not understand them); a value that contradicts a setting, or with
which training would be another one, is an error. The segmentation side's configuration is derived:
fp32, ZeRO-1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prs_med.config import SettingError, Settings

_MONITORS = ("tensorboard", "wandb", "comet", "csv_monitor")
_BLOCKS = ("zero_optimization", "bf16", "data_types", *_MONITORS)
"""Keys that hold objects; the others that do are refused, or checked by DeepSpeed alone."""

_SWITCHED_ELSEWHERE = {
    "fp16": "use --precision bf16 or fp32",
    "amp": "use --precision bf16 or fp32",
    "torch_autocast": "use --precision bf16",
    "scheduler": "the schedule is set by --warmup_ratio and --min_lr_ratio",
    "zero_allow_untested_optimizer": "the optimizer is AdamW",
    "elasticity": "use --global_batch_size, which is the same on any number of processes",
    "curriculum_learning": "the order of samples is a function of --seed",
    "data_efficiency": "the order of samples is a function of --seed",
    "autotuning": "launch/plan.py finds a configuration",
    "hybrid_engine": "it is for another kind of training",
    "pipeline": "layers are not divided among processes",
    "tensor_parallel": "layers are not divided among processes",
    "expert_parallel": "the model has no experts",
    "activation_checkpointing": "use --gradient_checkpointing and --encoder_checkpointing",
    "compile": "use --compile_model",
}
"""What to do instead; allowed as far as they say nothing, as ``{"enabled": false}`` does."""

_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "managed_gradient_accumulation": ((True,), "both engines end their accumulation together"),
    "gradient_allreduce_op": (("mean",), "losses are means over the global batch"),
    "sequence_parallel_size": ((1,), "sequences are not divided among processes"),
    "bf16.check_grad_overflow": ((True,), "steps that are not finite must be skipped"),
    "bf16.bf16_master_weights_and_grads": ((False,), "masters are kept and saved in fp32"),
    "bf16.bf16_optimizer_states": ((False,), "moments are kept and saved in fp32"),
    "data_types.param_dtype": ((None,), "use --precision"),
    "data_types.buffer_dtype": ((None,), "use --precision"),
    "zero_optimization.compute_grad_norm": ((True,), "both engines share a gradient norm"),
    "zero_optimization.legacy_stage1": ((False,), "DeepSpeed no longer has it"),
    "zero_optimization.stage3_module_granularity_threshold": (
        (0,), "a training with it failed where it was tried, in DeepSpeed 0.19",
    ),
    "zero_optimization.zenflow": ((None,), "it takes steps with parts of the gradients"),
    "zero_optimization.zero_quantized_weights": (
        (False,), "the model would compute with weights that are rounded to 8 bits; "
        "use --load_8bit or --load_4bit",
    ),
    "zero_optimization.zero_quantized_nontrainable_weights": (
        (False,), "use --load_8bit or --load_4bit",
    ),
    "zero_optimization.zero_quantized_gradients": ((False,), "gradients would be rounded"),
    "zero_optimization.offload_optimizer.device": (
        ("none", "cpu"), "what lies on NVMe can be neither averaged nor saved",
    ),
    "zero_optimization.offload_optimizer.super_offload": (
        (False,), "masters would not be where they are saved from",
    ),
    "zero_optimization.offload_param.device": (
        ("none", "cpu"), "what lies on NVMe can be neither averaged nor saved",
    ),
}  # fmt: skip
"""Values without which training would be another one, or could not be saved; and why."""

_FILLED = {
    "reduce_bucket_size": 30_000_000,
    "allgather_bucket_size": 30_000_000,
    "stage3_prefetch_bucket_size": 30_000_000,
    "stage3_param_persistence_threshold": 100_000,
}
"""What "auto" becomes in zero_optimization: as in the files of ``ds_configs``."""


def load_deepspeed_config(
    path: Path,
    settings: Settings,
    world_size: int,
    further: Callable[[dict[str, Any]], list[str]] = lambda config: [],
) -> dict[str, Any]:
    """Configuration of the language model's engine, with every ``"auto"`` resolved.

    Args:
        further: gives more conflicts of a configuration that is resolved as far as it can be, such
            as :func:`prs_med.train.deepspeed_own_check.conflicts`.

    Raises:
        SettingError: if the file cannot be read, or values contradict settings or cannot work: one
            line for each, naming file, key and value.
    """
    config = _read(path)
    conflicts = [
        *_of_form(config),
        *_of_options(config),
        *_of_settings(config, settings, world_size),
    ]
    # Otherwise DeepSpeed insists on its own CPU optimizer, which is compiled at run time.
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    conflicts += [*_of_auto(config, ""), *further(config)]
    if conflicts:
        raise SettingError("\n".join(f"{path}: {conflict}" for conflict in conflicts))
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
        config = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once_each)
    except OSError as error:
        raise SettingError(f"--deepspeed {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingError(f"--deepspeed {path}: is not in UTF-8") from None
    except ValueError as error:
        raise SettingError(f"--deepspeed {path}: is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise SettingError(f"--deepspeed {path}: expected a JSON object")
    return config


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return found


def _of_form(config: dict[str, Any]) -> Iterator[str]:
    """Values where objects are expected; the objects that stand for them are empty afterwards."""
    if "bfloat16" in config:  # as DeepSpeed also calls it
        config.setdefault("bf16", config.pop("bfloat16"))
    for key in _BLOCKS:
        if key in config and not isinstance(config[key], dict):
            yield f"{key} is {config[key]!r}; expected an object in braces"
            config[key] = {"stage": 2} if key == "zero_optimization" else {}


def _of_options(config: dict[str, Any]) -> Iterator[str]:
    """Options that something else takes care of, or that may have other values only."""
    for key, instead in _SWITCHED_ELSEWHERE.items():
        # Also those that say nothing are removed: DeepSpeed refuses some names altogether.
        if _says_something(config.pop(key, None)):
            yield f"remove {key!r}; {instead}"
    for name, (allowed, reason) in _FIXED.items():
        block, last = _block(config, name)
        value = block.get(last, allowed[0])
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            yield f"{name} is {value!r}; allowed is {' or '.join(map(repr, allowed))}: {reason}"
            del block[last]
    stage = config.setdefault("zero_optimization", {}).get("stage")
    if stage not in (1, 2, 3) or isinstance(stage, bool):
        yield f"zero_optimization.stage is {stage!r}; allowed are 1, 2 and 3"
        config["zero_optimization"]["stage"] = 2


def _says_something(value: Any) -> bool:
    if isinstance(value, dict):
        if "enabled" in value:
            return _says_something(value["enabled"])
        return any(map(_says_something, value.values()))
    return value not in (None, False, "auto", 0, 0.0)


def _block(config: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The object in which the last of dotted names stands, empty if there is none."""
    *parents, last = name.split(".")
    for key in parents:
        config = config.get(key) or {}
        if not isinstance(config, dict):
            return {}, last
    return config, last


def _of_settings(config: dict[str, Any], settings: Settings, world_size: int) -> Iterator[str]:
    """Values that contradict settings."""
    zero = config["zero_optimization"]
    for key, value in _FILLED.items():
        if zero.get(key) == "auto":
            zero[key] = value
    accumulation = settings.gradient_accumulation_steps
    expected: dict[str, tuple[str, Any]] = {
        "train_micro_batch_size_per_gpu": ("--batch_size", settings.batch_size),
        "gradient_accumulation_steps": ("--gradient_accumulation_steps", accumulation),
        "train_batch_size": (
            f"--batch_size x --gradient_accumulation_steps x {world_size} processes",
            settings.batch_size * accumulation * world_size,
        ),
        "gradient_clipping": ("--max_grad_norm", settings.max_grad_norm),
        "bf16.enabled": ("--precision", settings.precision == "bf16"),
    }
    for name, (setting, value) in expected.items():
        yield from _resolve(config, name, setting, value)
    if config.get("steps_per_print", "auto") in ("auto", None):
        config["steps_per_print"] = 2**31  # training has a progress bar of its own
    accumulated = config.get("data_types", {}).get("grad_accum_dtype")
    allowed = ("fp32", "bf16") if settings.precision == "bf16" else ("fp32",)
    if accumulated is not None and accumulated not in allowed:
        yield (
            f"data_types.grad_accum_dtype is {accumulated!r}; allowed with --precision "
            f"{settings.precision} is {' or '.join(allowed)}"
        )
    yield from _of_optimizer(config.pop("optimizer", None), settings)
    if settings.load_8bit and zero["stage"] == 3:
        yield (
            "ZeRO-3 cannot partition the int8 weights of --load_8bit; use a ZeRO-2 configuration "
            "or --load_4bit"
        )


def _resolve(config: dict[str, Any], name: str, setting: str, value: Any) -> Iterator[str]:
    *parents, last = name.split(".")
    for key in parents:
        config = config.setdefault(key, {})
    found = config.get(last, "auto")
    if found not in ("auto", value):
        yield (
            f'{name} is {found!r}, but {setting} gives {value!r}; make them equal or write "auto"'
        )
    config[last] = value


def _of_optimizer(optimizer: Any, settings: Settings) -> Iterator[str]:
    if optimizer is None:
        return
    if not isinstance(optimizer, dict) or optimizer.get("type") != "AdamW":
        kind = optimizer.get("type") if isinstance(optimizer, dict) else optimizer
        yield f"optimizer.type is {kind!r}; only 'AdamW' is supported"
        return
    known = {
        "lr": ("--learning_rate", settings.learning_rate),
        "weight_decay": ("--weight_decay", settings.weight_decay),
        "betas": ("(fixed)", [0.9, 0.999]),
        "eps": ("(fixed)", 1e-8),
        "torch_adam": ("(fixed)", True),
        "adam_w_mode": ("(fixed)", True),
    }
    for key, found in (optimizer.get("params") or {}).items():
        if key not in known:
            yield f"optimizer.params.{key} is not supported; remove it"
            continue
        setting, value = known[key]
        if found not in ("auto", value):
            yield (
                f"optimizer.params.{key} is {found!r}, but {setting} gives {value!r}; "
                'make them equal or write "auto"'
            )


def _of_auto(value: Any, name: str) -> Iterator[str]:
    if value == "auto":
        yield f'{name} is "auto", which no setting fills; write a value'
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _of_auto(inner, f"{name}.{key}" if name else key)
