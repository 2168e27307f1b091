"""Combinations of settings and DeepSpeed options that can be trained with, drawn by number."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prs_med.config import SettingError
from prs_med.settings_io import parse_training_settings
from prs_med.train import deepspeed_own_check
from prs_med.train.deepspeed_config import load_deepspeed_config
from tests.conftest import Small
from tests.distributed.launcher import ROOT
from tests.short_training import short

SHIPPED = sorted((ROOT / "ds_configs").glob("*.json"))
STEPS = 4


@dataclass(frozen=True)
class Combination:
    """One of them."""

    arguments: list[str]
    """Of ``launch/train.py``."""
    ends_after: int
    """The step after which the disturbed run ends."""
    ends_by: Literal["SIGTERM", "SIGKILL"]
    text: str
    """What was drawn, in words."""


def drawn(number: int, small: Small, dataset: Path, folder: Path, processes: int) -> Combination:
    """The combination of this number.

    Args:
        dataset: streamed where images are drawn with all their questions.
        folder: where its DeepSpeed file goes.
    """
    for attempt in range(1000):
        chance = random.Random(f"{number} {attempt}")
        config, arguments = _options(chance), _settings(chance, small, dataset)
        file = folder / "deepspeed.json"
        file.write_text(json.dumps(config))
        settings = short([], "--deepspeed", str(file), *arguments)
        if not _is_allowed(settings, file, processes):
            continue
        return Combination(
            settings,
            ends_after=chance.randint(1, STEPS - 1),
            ends_by=chance.choice(("SIGTERM", "SIGKILL")),
            text=f"{json.dumps(config)} {' '.join(arguments)}",
        )
    raise AssertionError("of a thousand combinations none is allowed")


def _is_allowed(settings: list[str], file: Path, processes: int) -> bool:
    try:
        parsed = parse_training_settings(settings)
        load_deepspeed_config(file, parsed, processes, deepspeed_own_check.conflicts)
    except SettingError:
        return False
    return True


def _options(chance: random.Random) -> dict[str, Any]:
    """A shipped DeepSpeed file, or one with some options changed."""
    config: dict[str, Any] = json.loads(chance.choice(SHIPPED).read_text(encoding="utf-8"))
    zero = config["zero_optimization"]
    if chance.random() < 0.2:
        return config
    if zero["stage"] == 2 and chance.random() < 0.3:
        zero["stage"] = 1
    changes: dict[str, tuple[Any, ...]] = {
        "overlap_comm": (True, False),
        "contiguous_gradients": (True, False),
        "reduce_bucket_size": (1000, 30_000_000),
    }
    if zero["stage"] == 3:
        changes |= {
            "stage3_param_persistence_threshold": (0, 1000, 100_000),
            "stage3_max_live_parameters": (0, 10_000, 1_000_000_000),
            "stage3_prefetch_bucket_size": (0, 1000, 30_000_000),
            "sub_group_size": (1000, 1_000_000_000),
        }
    else:
        changes |= {
            "round_robin_gradients": (True, False),
            "allgather_bucket_size": (1000, 30_000_000),
            "allgather_partitions": (True, False),
            "reduce_scatter": (True, False),
        }
    for name, values in changes.items():
        if chance.random() < 0.5:
            zero[name] = chance.choice(values)
    kind = chance.choice((None, "fp32", "bf16"))
    config["data_types"] = {} if kind is None else {"grad_accum_dtype": kind}
    return config


def _settings(chance: random.Random, small: Small, dataset: Path) -> list[str]:
    by_image = chance.random() < 0.3
    sources = small.streaming(dataset) if by_image else small.arguments()
    choices: list[tuple[str, ...]] = [
        ("", "--batch_by_image" if by_image else ""),
        ("", "--share_image_prefix" if by_image else ""),
        ("--precision bf16", "--precision fp32"),
        ("", "--segmentation_precision bf16"),
        ("", "", "--freeze_encoder", "--freeze_decoder", "--freeze_mllm"),
        ("", "", "--finetune full", "--load_4bit"),
        ("", "--train_projector"),
        ("", "--ema_decay 0.9"),
        ("--batch_size 1", "--batch_size 2"),
        ("", "--gradient_accumulation_steps 2", "--gradient_accumulation_steps 3"),
        ("", "--gradient_checkpointing"),
        ("", "--encoder_checkpointing"),
        ("", "--max_grad_norm 0"),
        ("", "--loss_spike 50"),
        ("", "--num_workers 1"),
    ]
    more = " ".join(chance.choice(choice) for choice in choices).split()
    fixed = ("--max_steps", str(STEPS), "--learning_rate", "1e-3", "--save_every_steps", "1")
    return [*sources, *fixed, "--resume", "auto", *more]
