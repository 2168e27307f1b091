"""What becomes of the user's DeepSpeed configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prs_med.config import SettingError, Settings
from prs_med.train.deepspeed_config import load_deepspeed_config, segmentation_config

ZERO2 = {"zero_optimization": {"stage": 2}}


def load(tmp_path: Path, config: dict[str, Any], world_size: int = 2, **settings: Any):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(config))
    return load_deepspeed_config(file, Settings(**settings), world_size)


def test_auto_is_filled_from_the_settings(tmp_path: Path) -> None:
    config = {
        **ZERO2,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
    }
    loaded = load(tmp_path, config, batch_size=3, gradient_accumulation_steps=5, max_grad_norm=0.7)
    assert loaded["train_micro_batch_size_per_gpu"] == 3
    assert loaded["gradient_accumulation_steps"] == 5
    assert loaded["train_batch_size"] == 3 * 5 * 2
    assert loaded["gradient_clipping"] == 0.7
    assert loaded["bf16"] == {"enabled": True}
    assert "optimizer" not in loaded
    assert "auto" not in json.dumps(loaded)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**ZERO2, "train_micro_batch_size_per_gpu": 8}, "is 8, but --batch_size gives 4"),
        ({**ZERO2, "train_batch_size": 9}, "train_batch_size is 9, but --batch_size x"),
        ({**ZERO2, "bf16": {"enabled": False}}, "bf16.enabled is False, but --precision"),
        ({**ZERO2, "gradient_clipping": 5.0}, "gradient_clipping is 5.0, but --max_grad_norm"),
        ({**ZERO2, "fp16": {"enabled": True}}, "remove 'fp16'"),
        ({**ZERO2, "scheduler": {"type": "WarmupLR"}}, "remove 'scheduler'"),
        ({**ZERO2, "optimizer": {"type": "Lamb"}}, "only 'AdamW'"),
        (
            {**ZERO2, "optimizer": {"type": "AdamW", "params": {"lr": 1.0}}},
            "optimizer.params.lr is 1.0, but --learning_rate gives 0.0001",
        ),
        ({"zero_optimization": {"stage": 0}}, "stage is 0; allowed are 1, 2 and 3"),
        ({}, "stage is None"),
        (
            {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}},
            'zero_optimization.reduce_bucket_size is "auto"',
        ),
    ],
)
def test_conflicts_are_errors(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        load(tmp_path, config)
    assert "ds.json" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--deepspeed .*none\.json"):
        load_deepspeed_config(tmp_path / "none.json", Settings(), 1)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SettingError, match=r"bad\.json"):
        load_deepspeed_config(tmp_path / "bad.json", Settings(), 1)


def test_8bit_under_zero3_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--load_8bit"):
        load(tmp_path, {"zero_optimization": {"stage": 3}}, load_8bit=True)


def test_segmentation_engine_is_fp32_zero1_with_the_same_batches(tmp_path: Path) -> None:
    config = load(tmp_path, {**ZERO2, "tensorboard": {"enabled": True}})
    derived = segmentation_config(config, monitors=False)
    assert derived["zero_optimization"]["stage"] == 1
    assert "bf16" not in derived
    assert "tensorboard" not in derived
    for key in ("train_batch_size", "gradient_accumulation_steps", "gradient_clipping"):
        assert derived[key] == config[key]


def test_monitors_follow_the_engine_that_is_trained(tmp_path: Path) -> None:
    monitor = {"enabled": True, "output_path": str(tmp_path)}
    config = load(tmp_path, {**ZERO2, "tensorboard": monitor})
    assert segmentation_config(config, monitors=True)["tensorboard"] == monitor
    assert "tensorboard" not in segmentation_config(config, monitors=False)
