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
            {"zero_optimization": {"stage": 2, "sub_group_size": "auto"}},
            'zero_optimization.sub_group_size is "auto"',
        ),
    ],
)
def test_conflicts_are_errors(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        load(tmp_path, config)
    assert "ds.json" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--deepspeed .*none\.json: No such file"):
        load_deepspeed_config(tmp_path / "none.json", Settings(), 1)
    file = tmp_path / "bad.json"
    for content, message in {
        b"": "is not JSON",
        b"{": "is not JSON",
        b"[1]": "expected a JSON object",
        b"version https://git-lfs.github.com/spec/v1": "is not JSON",
        json.dumps(ZERO2).encode("utf-16"): "is not in UTF-8",
        b'{"zero_optimization": {"stage": 2, "stage": 3}}': "'stage' stands there twice",
    }.items():
        file.write_bytes(content)
        with pytest.raises(SettingError, match=rf"--deepspeed .*bad\.json: .*{message}"):
            load_deepspeed_config(file, Settings(), 1)


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_bytes(json.dumps(ZERO2).encode("utf-8-sig"))
    assert load_deepspeed_config(file, Settings(), 1)["zero_optimization"] == {"stage": 2}


def test_all_conflicts_are_told_at_once_a_line_each(tmp_path: Path) -> None:
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "bf16": True,
        "torch_autocast": {"enabled": True, "dtype": "bf16"},
        "scheduler": {"type": "WarmupLR", "params": {}},
        "zero_optimization": {"stage": "2", "zenflow": {}, "compute_grad_norm": False},
        "optimizer": {"type": "AdamW", "params": {"lr": 1.0, "fused": True}},
    }
    with pytest.raises(SettingError) as caught:
        load(tmp_path, config)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{tmp_path / 'ds.json'}: ") for line in lines)
    for name in (
        *("train_micro_batch_size_per_gpu", "bf16 is True", "torch_autocast", "scheduler"),
        *("stage is '2'", "zenflow", "compute_grad_norm", "params.lr", "params.fused"),
    ):
        assert sum(name in line for line in lines) == 1, name
    assert len(lines) == 9


@pytest.mark.parametrize(
    "silent",
    [
        {"fp16": {"enabled": False}},
        {"fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16}},
        {"amp": {"enabled": False, "opt_level": "auto"}},
        {"torch_autocast": {"enabled": False}},
        {"elasticity": {"enabled": False}},
        {"activation_checkpointing": {"partition_activations": False}},
        {"scheduler": None},
    ],
)
def test_what_says_nothing_is_accepted(tmp_path: Path, silent: dict[str, Any]) -> None:
    assert load(tmp_path, {**ZERO2, **silent}) == load(tmp_path, ZERO2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("managed_gradient_accumulation", False),
        ("gradient_allreduce_op", "sum"),
        ("bf16.check_grad_overflow", False),
        ("bf16.bf16_master_weights_and_grads", True),
        ("data_types.param_dtype", "fp32"),
        ("data_types.grad_accum_dtype", "fp16"),
        ("zero_optimization.stage3_module_granularity_threshold", 1_000_000),
        ("zero_optimization.zenflow", {"topk_ratio": 0.1}),
        ("zero_optimization.zero_quantized_weights", True),
        ("zero_optimization.zero_quantized_nontrainable_weights", True),
        ("zero_optimization.zero_quantized_gradients", True),
        ("zero_optimization.offload_optimizer.device", "nvme"),
        ("zero_optimization.offload_optimizer.super_offload", True),
        ("zero_optimization.offload_param.device", "nvme"),
        ("torch_autocast", {"enabled": True}),
        ("activation_checkpointing", {"partition_activations": True}),
    ],
)
def test_options_with_which_training_would_be_another_are_refused(
    tmp_path: Path, name: str, value: Any
) -> None:
    config: dict[str, Any] = {"zero_optimization": {"stage": 3}}
    *parents, last = name.split(".")
    block = config
    for key in parents:
        block = block.setdefault(key, {})
    block[last] = value
    with pytest.raises(SettingError) as caught:
        load(tmp_path, config)
    (line,) = str(caught.value).splitlines()
    assert name in line


def test_autocast_is_refused_in_both_precisions(tmp_path: Path) -> None:
    config = {**ZERO2, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    for precision in ("fp32", "bf16"):
        with pytest.raises(SettingError, match="remove 'torch_autocast'; use --precision"):
            load(tmp_path, config, precision=precision)


def test_buckets_may_be_left_to_us_as_in_files_for_hugging_face(tmp_path: Path) -> None:
    zero = {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto"}
    loaded = load(tmp_path, {"zero_optimization": zero})["zero_optimization"]
    assert loaded["reduce_bucket_size"] == loaded["stage3_prefetch_bucket_size"] == 30_000_000


def test_how_often_deepspeed_prints_is_the_users_affair(tmp_path: Path) -> None:
    assert load(tmp_path, {**ZERO2, "steps_per_print": 1e5})["steps_per_print"] == 1e5
    assert load(tmp_path, ZERO2)["steps_per_print"] == 2**31


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
