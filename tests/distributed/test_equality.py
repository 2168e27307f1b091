"""The same training, however it is split over processes, ZeRO stages and micro-batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launcher import Job, run_jobs

pytestmark = pytest.mark.distributed

STEPS = 3
GLOBAL_BATCH = 4


def arguments(small, stage: int, batch_size: int, accumulation: int, *more: str) -> list[str]:
    return [
        *small.arguments(),
        *("--deepspeed", f"ds_configs/zero{stage}.json", "--precision", "fp32"),
        *("--batch_size", str(batch_size), "--gradient_accumulation_steps", str(accumulation)),
        *("--max_steps", str(STEPS), "--log_every", "1", "--image_size", "64"),
        *("--num_workers", "0", "--lora_dropout", "0", "--decoder_dropout", "0"),
        *("--learning_rate", "1e-3", "--max_grad_norm", "0.5", "--train_projector"),
        *more,
    ]


def weights(save_dir: Path) -> dict[str, torch.Tensor]:
    final = save_dir / "final"
    return {
        **load_file(final / "adapter" / "adapter_model.safetensors"),
        **load_file(final / "segmentation.safetensors"),
    }


def metrics(save_dir: Path, name: str) -> list[float]:
    lines = (save_dir / "metrics.jsonl").read_text().splitlines()
    return [row[name] for row in map(json.loads, lines) if name in row]


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant, trained once; a folder each."""
    root = tmp_path_factory.mktemp("equality")
    one = [
        Job(root / "1proc_4x1", arguments(small, 2, 4, 1)),
        Job(root / "1proc_2x2", arguments(small, 2, 2, 2)),
        Job(root / "1proc_1x4", arguments(small, 2, 1, 4)),
        Job(root / "1proc_zero3", arguments(small, 3, 4, 1)),
        Job(root / "other_seed", arguments(small, 2, 4, 1, "--seed", "1")),
    ]
    two = [
        Job(root / "2proc_zero2", arguments(small, 2, 2, 1)),
        Job(root / "2proc_zero2_again", arguments(small, 2, 2, 1)),
        Job(root / "2proc_zero2_1x2", arguments(small, 2, 1, 2)),
        Job(root / "2proc_zero3", arguments(small, 3, 2, 1)),
        Job(root / "2proc_zero3_1x2", arguments(small, 3, 1, 2)),
    ]
    run_jobs(one, 1, root)
    run_jobs(two, 2, root)
    return root


@pytest.mark.parametrize(
    "variant",
    [
        "1proc_2x2",
        "1proc_1x4",
        "1proc_zero3",
        "2proc_zero2",
        "2proc_zero2_1x2",
        "2proc_zero3",
        "2proc_zero3_1x2",
    ],
)
def test_parameters_after_three_steps_are_equal(runs: Path, variant: str) -> None:
    reference, other = weights(runs / "1proc_4x1"), weights(runs / variant)
    assert reference.keys() == other.keys()
    # Adam divides by the gradient's own size, so rounding in a gradient near zero moves a weight
    # by up to the learning rate (1e-3) per step; a wrong factor on a gradient moves them all.
    for name in reference:
        torch.testing.assert_close(
            other[name], reference[name], rtol=0, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    for name in ("loss", "grad_norm", "val_dice", "val_loss_seg", "val_loss_txt"):
        expected = metrics(runs / "1proc_4x1", name)
        assert metrics(runs / variant, name) == pytest.approx(expected, rel=2e-3, abs=1e-5), name


def test_training_moved_both_sides(runs: Path) -> None:
    moved = weights(runs / "1proc_4x1")
    other = weights(runs / "other_seed")
    for side in ("lora_B", "mask_decoder", "image_encoder", "multi_modal_projector"):
        changed = [n for n in moved if side in n and not torch.equal(moved[n], other[n])]
        assert changed, side


def test_same_seed_same_losses_bit_for_bit(runs: Path) -> None:
    for name in ("loss", "grad_norm", "val_dice"):
        first = metrics(runs / "2proc_zero2", name)
        assert first == metrics(runs / "2proc_zero2_again", name)
    first, again = weights(runs / "2proc_zero2"), weights(runs / "2proc_zero2_again")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_every_validation_sample_counts_once(runs: Path) -> None:
    # 7 samples are no multiple of 4, 2x2 or 2x1.
    for folder in runs.iterdir():
        if (folder / "metrics.jsonl").exists():
            assert set(metrics(folder, "val_samples")) == {7.0}
