"""A gradient that is not finite, on one rank and one side, is everybody's bad step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launcher import Job, launch, run_jobs

pytestmark = pytest.mark.distributed

CASES = [
    (config, side)
    for config in ("zero2", "zero3", "zero2_offload", "zero3_offload")
    for side in ("mllm", "segmentation")
]


def arguments(small, config: str, steps: int) -> list[str]:
    return [
        *small.arguments(),
        *("--deepspeed", f"ds_configs/{config}.json", "--precision", "fp32"),
        *("--batch_size", "1", "--gradient_accumulation_steps", "2", "--image_size", "64"),
        *("--max_steps", str(steps), "--log_every", "1", "--num_workers", "0"),
        *("--lora_dropout", "0", "--decoder_dropout", "0"),
    ]


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad_steps")
    jobs = [
        # The only step is spoilt in its first micro-batch: nothing may change.
        Job(
            root / f"{config}_{side}",
            arguments(small, config, 1),
            {"side": side, "micro_batch": 0, "rank": 1},
        )
        for config, side in CASES
    ]
    jobs += [
        Job(
            root / f"later_{config}",
            arguments(small, config, 3),
            {"side": "segmentation", "micro_batch": 3, "rank": 0},
        )
        for config in ("zero2", "zero3")
    ]
    run_jobs(jobs, 2, root)
    return root


def rows(save_dir: Path) -> list[dict[str, float]]:
    lines = (save_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.parametrize(("config", "side"), CASES)
def test_neither_side_is_changed(runs: Path, small, config: str, side: str) -> None:
    save_dir = runs / f"{config}_{side}"
    assert rows(save_dir)[0]["skipped_steps"] == 1
    adapter = load_file(save_dir / "final" / "adapter" / "adapter_model.safetensors")
    untouched = [value for name, value in adapter.items() if "lora_B" in name]
    assert untouched
    assert all(torch.count_nonzero(value) == 0 for value in untouched)
    trained = load_file(save_dir / "final" / "segmentation.safetensors")
    original = torch.load(small.tinysam, weights_only=True)
    for name, value in trained.items():
        if name.startswith("image_encoder."):
            assert torch.equal(value, original[name]), name


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_training_goes_on_afterwards(runs: Path, config: str) -> None:
    found = rows(runs / f"later_{config}")
    assert [row["skipped_steps"] for row in found] == [0, 1, 1]
    assert [row["grad_norm"] is None for row in found] == [False, True, False]
    assert all(row["loss"] is not None for row in found)
    trained = load_file(runs / f"later_{config}" / "final" / "segmentation.safetensors")
    assert all(value.isfinite().all() for value in trained.values())


def test_too_many_bad_steps_stop_the_run(small, tmp_path: Path) -> None:
    done = launch(
        [
            *("launch/train.py", *arguments(small, "zero2", 8)),
            # bf16 overflows at once with such a rate.
            *("--learning_rate", "1e30", "--max_grad_norm", "0", "--warmup_ratio", "0"),
            *("--max_bad_steps", "2", "--save_dir", str(tmp_path / "run")),
        ],
        processes=2,
    )
    assert done.returncode == 3
    assert "2 steps in a row were not finite (--max_bad_steps)" in done.stderr
    assert "phantom_" in done.stderr  # the samples are named
    assert not (tmp_path / "run" / "final").exists()
