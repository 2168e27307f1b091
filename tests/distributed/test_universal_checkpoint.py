"""DeepSpeed's own universal checkpoint, made of the same engines, holds what ours holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from tests.distributed.launcher import Job, run_jobs
from tests.programs import launchers
from tests.run_folder import newest_checkpoint
from tests.short_training import short

pytestmark = pytest.mark.distributed

STAGES = (2, 3)
KINDS = {"master": "fp32", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
"""Our names, and those of DeepSpeed's files."""


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("universal")
    jobs = [
        Job(
            root / str(stage),
            short(small.arguments(), "--max_steps", "3", config=stage),
            save_by_deepspeed=True,
        )
        for stage in STAGES
    ]
    run_jobs(jobs, 2, root)
    return root


@pytest.mark.parametrize("group", ["mllm", "segmentation"])
@pytest.mark.parametrize("stage", STAGES)
def test_it_holds_the_same_numbers(runs: Path, tmp_path: Path, stage: int, group: str) -> None:
    run = runs / str(stage)
    subprocess.run(
        [
            *(launchers() / "python", "-m", "deepspeed.checkpoint.ds_to_universal"),
            *("--input_folder", str(run / "deepspeed" / group / "last")),
            *("--output_folder", str(tmp_path), "--inject_missing_state"),
        ],
        check=True,
        capture_output=True,
    )
    reader = newest_checkpoint(run)
    assert reader.manifest.groups[group].optimizer_steps == 3
    for kind, file in KINDS.items():
        ours = reader.whole(group, kind)
        assert ours
        for name, value in ours.items():
            theirs = torch.load(tmp_path / "zero" / name / f"{file}.pt", weights_only=True)
            theirs = theirs["param"] if isinstance(theirs, dict) else theirs
            assert torch.equal(theirs.reshape(value.shape), torch.from_numpy(value)), (name, kind)
