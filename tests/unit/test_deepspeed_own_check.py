"""What DeepSpeed itself refuses is told before anything is built, and all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prs_med.config import SettingError, Settings
from prs_med.train.deepspeed_config import load_deepspeed_config
from prs_med.train.deepspeed_own_check import conflicts

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "ds_configs").glob("*.json"))


def lines(tmp_path: Path, config: dict[str, Any]) -> list[str]:
    """The lines that a user sees, without the file's name."""
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(config))
    try:
        load_deepspeed_config(file, Settings(), 2, conflicts)
    except SettingError as error:
        return [line.removeprefix(f"{file}: ") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_shipped_files_are_accepted(file: Path, precision: str) -> None:
    load_deepspeed_config(file, Settings(precision=precision), 2, conflicts)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"zero_optimization": {"stage": 2, "no_such_key": 1}}, "no zero_optimization.no_such_key"),
        (
            {"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 15099494.4}},
            "zero_optimization.stage3_prefetch_bucket_size is 15099494.4: ",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"devise": "cpu"}}},
            "no zero_optimization.offload_optimizer.devise",
        ),
        ({"zero_optimization": {"stage": 3, "mics_shard_size": 4}}, "mics_shard_size"),
        ({"bf16": {"enabled": "auto", "on": True}}, "no bf16.on; remove it"),
        ({"tensorboard": {"enabled": True, "path": "x"}}, "no tensorboard.path"),
        ({"comet": {"enabled": True}}, "comet.enabled is true, but the package comet_ml is not"),
        ({"communication_data_type": "fp8"}, "Invalid communication_data_type"),
        ({"nebula": {}}, "Nebula checkpointing has been removed"),
        ({"gradient_cliping": 1.0}, "DeepSpeed has no gradient_cliping; remove it"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    (line,) = lines(tmp_path, {"zero_optimization": {"stage": 2}, **more})
    assert message in line


def test_what_both_sides_find_stands_together(tmp_path: Path) -> None:
    config = {
        "zero_optimization": {"stage": 2, "no_such_key": 1, "reduce_bucket_size": 1.5},
        "train_micro_batch_size_per_gpu": 8,
        "wandb": {"enabled": True, "teem": "t"},
    }
    found = "\n".join(lines(tmp_path, config))
    for name in ("no_such_key", "reduce_bucket_size", "per_gpu is 8", "wandb.enabled", "teem"):
        assert name in found


def test_remarks_and_options_that_change_nothing_are_accepted(tmp_path: Path) -> None:
    config = {
        "_comment": "from the cluster",
        "zero_optimization": {"stage": 2, "round_robin_gradients": True},
        "steps_per_print": 1e5,
        "wall_clock_breakdown": False,
        "communication_data_type": "fp32",
        "aio": {"block_size": 262144},
        "checkpoint": {"load_universal": False},
    }
    assert lines(tmp_path, config) == []
