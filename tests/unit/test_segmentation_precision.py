"""The segmentation side in other arithmetic than fp32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prs_med.config import Settings
from prs_med.plan.hardware import CARDS
from prs_med.plan.meta_model import meta_model
from prs_med.plan.op_trace import Part, Unit
from prs_med.plan.ranges import BEST, WORST
from prs_med.plan.step_time import kernel_seconds, units_of
from prs_med.plan.step_trace import Lengths, step_costs
from prs_med.train.run import set_matrix_products
from tests.unit.test_encoder_checkpointing import WRITERS, branch, step
from tests.unit.test_encoder_checkpointing import settings as settings  # a fixture


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - other).norm() / other.norm()).detach())


@pytest.mark.parametrize("family", WRITERS)
def test_bf16_is_coarse_but_what_it_gives_is_fp32(
    settings: dict[str, Settings], family: str
) -> None:
    exact, exact_gradients = step(branch(settings[family]).train())
    told = replace(settings[family], segmentation_precision="bf16")
    model = branch(told).train()
    masks, gradients = step(model)
    assert masks.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    assert 1e-4 < relative(masks, exact) < 0.05
    assert gradients.keys() == exact_gradients.keys()
    one, other = (
        torch.cat([g.flatten() for _, g in sorted(of.items())])
        for of in (gradients, exact_gradients)
    )
    assert 1e-4 < relative(one, other) < 0.2

    again = branch(replace(told, encoder_checkpointing=True)).train()
    recomputed, recomputed_gradients = step(again)
    assert torch.equal(masks, recomputed)
    assert all(torch.equal(gradients[name], g) for name, g in recomputed_gradients.items())


def test_tf32_is_for_all_matrix_products(settings: dict[str, Settings]) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        for precision, expected in (("fp32", before), ("bf16", before), ("tf32", "high")):
            set_matrix_products(replace(settings["tinysam"], segmentation_precision=precision))
            assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_plans_take_the_faster_units_for_it() -> None:
    model = meta_model(Settings(data="none", image_size=256), None)
    costs = step_costs(model, Lengths(image=576, prompt_text=60, answer=40))
    of = {
        name: units_of(costs.first.unit, costs.first.part, name)
        for name in ("fp32", "tf32", "bf16")
    }
    in_branch = (costs.first.part == Part.ENCODER) | (costs.first.part == Part.DECODER)
    assert (of["fp32"] == costs.first.unit).all()
    assert not (of["tf32"] == Unit.FP32).any()
    assert (of["bf16"][in_branch] == Unit.BF16).all()
    assert (of["bf16"][~in_branch] == costs.first.unit[~in_branch]).all()
    card = CARDS["h200"]
    fp32, tf32, bf16 = (kernel_seconds(costs, 2, card, BEST, of[name]) for name in of)
    assert bf16 < tf32 < fp32


@pytest.mark.parametrize(("precision", "seconds"), [("fp32", 0.1590), ("bf16", 0.0630)])
def test_what_an_h200_measured_lies_between_best_and_worst(precision: str, seconds: float) -> None:
    """Encoder, decoder, losses and their backward pass at batch 8: docs/performance.md."""
    costs = step_costs(
        meta_model(Settings(data="none"), None), Lengths(image=576, prompt_text=60, answer=40)
    )
    units = units_of(costs.first.unit, costs.first.part, precision)
    parts = (Part.ENCODER, Part.DECODER, Part.LOSSES)
    best, worst = (
        sum(kernel_seconds(costs, 8, CARDS["h200"], of, units, part) for part in parts)
        for of in (BEST, WORST)
    )
    assert best < seconds < worst
    assert worst < 3 * best
