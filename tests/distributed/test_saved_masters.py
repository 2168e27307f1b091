"""What is saved are the weights that were trained, in whatever order DeepSpeed keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launcher import Job, run_jobs

pytestmark = pytest.mark.distributed

OPTIONS: dict[str, dict[str, Any]] = {
    "round_robin": {"stage": 2, "round_robin_gradients": True},
    "aligned": {"stage": 2, "parameter_alignment": True},
    "round_robin_offloaded": {
        "stage": 2,
        "round_robin_gradients": True,
        "offload_optimizer": {"device": "cpu"},
    },
    "stage_1": {"stage": 1},
    "sub_groups": {"stage": 3, "sub_group_size": 1000},
}
"""Of zero_optimization; all but the stage move masters elsewhere."""


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("masters")

    def arguments(name: str, zero: dict[str, Any]) -> list[str]:
        config = {"data_types": {"grad_accum_dtype": "fp32"}, "zero_optimization": zero}
        file = root / f"{name}.json"
        file.write_text(json.dumps(config))
        return [
            *small.arguments(),
            *("--deepspeed", str(file), "--batch_size", "1", "--image_size", "64"),
            *("--max_steps", "2", "--log_every", "1", "--num_workers", "0"),
            *("--lora_dropout", "0", "--decoder_dropout", "0"),
        ]

    jobs = [
        Job(root / name, arguments(name, zero))
        for name, zero in {"plain": {"stage": 2}, **OPTIONS}.items()
    ]
    for stage in (1, 2, 3):
        name = f"swapped_{stage}"
        jobs.append(
            Job(
                root / name,
                arguments(name, {"stage": stage}),
                swap_masters=True,
                error_file=root / f"{name}.txt",
            )
        )
    run_jobs(jobs, 2, root)
    return root


@pytest.mark.parametrize("name", OPTIONS)
def test_no_option_changes_what_is_saved(runs: Path, name: str) -> None:
    expected, found = (
        load_file(runs / run / "final" / "adapter" / "adapter_model.safetensors")
        for run in ("plain", name)
    )
    assert expected.keys() == found.keys()
    for tensor, value in found.items():
        # Two steps of AdamW in bf16, whose sums are rounded in another order.
        torch.testing.assert_close(value, expected[tensor], rtol=0, atol=5e-4, msg=tensor)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_masters_in_other_places_end_the_run_before_it_saves(runs: Path, stage: int) -> None:
    said = (runs / f"swapped_{stage}.txt").read_text()
    assert said.startswith(f"SettingError: {runs / f'swapped_{stage}.json'}: DeepSpeed keeps the")
    assert "lora_B" in said
    assert "\n" not in said
    assert not list((runs / f"swapped_{stage}" / "checkpoints").glob("step-*"))
