"""Runs whose segmentation side computes in bf16, on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Small
from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import metrics
from tests.short_training import short

pytestmark = pytest.mark.distributed

STEPS = 4


@pytest.fixture(scope="module")
def runs(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("precisions")
    jobs = [
        Job(
            root / f"{stage}_{precision}",
            short(
                *(small.arguments(), "--precision", "fp32", "--max_steps", str(STEPS)),
                *("--batch_size", "1", "--gradient_accumulation_steps", "2"),
                *("--segmentation_precision", precision),
                config=stage.removeprefix("zero"),
            ),
        )
        for stage in ("zero2", "zero3")
        for precision in ("fp32", "bf16")
    ]
    run_jobs(jobs, 2, root)
    return root


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_bf16_trains_nearly_as_fp32_does(runs: Path, stage: str) -> None:
    exact, coarse = (metrics(runs / f"{stage}_{name}", "loss") for name in ("fp32", "bf16"))
    assert len(exact) == len(coarse) == STEPS
    assert coarse == pytest.approx(exact, rel=0.02)
    assert coarse != exact


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_weights_stay_in_fp32(runs: Path, stage: str) -> None:
    (file,) = (runs / f"{stage}_bf16" / "final").glob("segmentation*.safetensors")
    assert torch.bfloat16 not in {value.dtype for value in load_file(file).values()}
