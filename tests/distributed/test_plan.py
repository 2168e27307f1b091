"""A plan's partitions are those that DeepSpeed makes; and its check runs under a launcher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.distributed.launcher import launch

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("stage", [2, 3])
def test_each_process_updates_what_is_predicted(small, tmp_path: Path, stage: int) -> None:
    program = ["--module", "tests.distributed.plan_partitions"]
    settings = [
        *(*small.weights(), "--image_size", "64", "--deepspeed", f"ds_configs/zero{stage}.json"),
        *("--train_projector", "--lora_rank", "5"),
    ]
    done = launch([*program, *settings, str(tmp_path)], processes=2)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        sizes = json.loads((tmp_path / f"{rank}.json").read_text())
        assert sizes["found"] == sizes["predicted"]


def test_processes_reach_each_other(tmp_path: Path) -> None:
    program = ["launch/plan.py", "--check", "--save_dir", str(tmp_path)]
    done = launch(program, processes=2)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "all_reduce" in line]
    assert line.startswith("pass  all_reduce over 2 processes (gloo): right, ")
