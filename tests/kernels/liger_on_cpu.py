"""What Liger's kernels compute, run by ``test_liger.py`` where Triton interprets them on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.liger import liger_kernels
from tests.distributed.launcher import Job, run_jobs
from tests.distributed.test_equality import STEPS, arguments, metrics
from tests.unit.assembled import assemble
from tests.unit.test_compiled import trained


def of_liger(language_model: nn.Module) -> list[nn.Module]:
    return [each for each in language_model.modules() if "Liger" in each._get_name()]


@pytest.mark.parametrize(
    "changes",
    [{}, {"finetune": "full"}, {"gradient_checkpointing": True}, {"load_4bit": True}],
    ids=lambda changes: "-".join(changes) or "lora",
)
def test_gradients_are_as_before(small, changes: dict[str, Any]) -> None:
    model = assemble(small, **changes)
    batch = model.batch(model.records[:3])
    expected = trained(model, batch)
    language_model = model.mllm.llava.model.language_model
    with liger_kernels(model.mllm):
        assert len(of_liger(language_model)) == 1 + 3 * len(language_model.layers)
        found = trained(model, batch)
    assert of_liger(language_model) == []
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_training_is_as_before_under_both_stages(small, tmp_path: Path) -> None:
    # Without the mask's loss, which the test above has: in its decoder's ReLUs rounding of 1e-7 may
    # change a gradient by 1e-3. Like this, all three steps agreed to 1.3e-7.
    text_alone = ("--lambda_seg", "0", "--cls_loss_weight", "0")
    jobs = [
        Job(
            tmp_path / f"zero{stage}{name}",
            arguments(small, stage, 2, 1, "--gradient_checkpointing", *text_alone, *more),
        )
        # Liger stays in the process: the runs without it come first.
        for name, more in (("", ()), ("_liger", ("--use_liger_kernel",)))
        for stage in (2, 3)
    ]
    run_jobs(jobs, 2, tmp_path)
    for stage in (2, 3):
        for name in ("loss", "loss_txt", "grad_norm_mllm"):
            expected = metrics(tmp_path / f"zero{stage}", name)
            assert len(expected) == STEPS
            assert metrics(tmp_path / f"zero{stage}_liger", name) == pytest.approx(
                expected, rel=1e-5
            )
