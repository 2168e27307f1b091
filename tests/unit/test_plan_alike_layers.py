"""The trace of a few layers that are alike gives that of all, operation by operation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prs_med.config import Settings
from prs_med.model.initial_weights import new_segmentation
from prs_med.plan.alike_layers import Stack
from prs_med.plan.meta_model import MetaModel, meta_mllm
from prs_med.plan.published import described, published_encoder, published_layout
from prs_med.plan.step_trace import Lengths, meta_batch, step_costs, trace_step


def model_of_eight_layers(settings: Settings) -> MetaModel:
    config = published_layout().config
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 8
    mllm = meta_mllm(described(config), settings)
    with torch.device("meta"):
        encoder = published_encoder("tinysam", None)
        segmentation = new_segmentation(encoder, settings, mllm.hidden_size, ("",))
    return MetaModel(mllm, segmentation, settings)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"gradient_checkpointing": True, "encoder_checkpointing": True},
        {"freeze_mllm": True},
        {"finetune": "full", "precision": "fp32"},
        {"batch_by_image": True, "data": "somewhere", "share_image_prefix": True},
        {"train_projector": True, "prompt_tokens": "all"},
    ],
)
def test_few_layers_give_the_trace_of_all(more: dict[str, object]) -> None:
    model = model_of_eight_layers(Settings(image_size=64, **more))
    lengths = Lengths(model.image_tokens, prompt_text=9, answer=7, questions_per_image=2)
    batch = meta_batch(model, lengths, 2, torch.device("meta"))
    # Statistics of pixels are kept once for all steps: they are made in the first one of a process.
    trace_step(model, batch)
    found, wanted = step_costs(model, lengths).first, trace_step(model, batch)
    assert wanted.same_operations(found)
    for cost in ("flops", "moved", "live"):
        assert np.array_equal(getattr(found, cost), getattr(wanted, cost)), cost


def layers(*widths: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(4, width, device="meta") for width in widths)


def test_all_layers_run_where_they_are_few_or_differ() -> None:
    assert Stack.of(layers(*[4] * 5)) is None
    assert Stack.of(layers(4, 4, 4, 3, 4, 4, 4)) is None
    different = layers(*[4] * 7)
    different[3].weight.requires_grad_(False)
    assert Stack.of(different) is None


def test_the_first_four_layers_and_the_last_run() -> None:
    every = layers(*[4] * 7)
    stack = Stack.of(every)
    assert stack is not None
    assert [*stack.run] == [*every[:4], every[6]]
    assert [*stack.skipped] == [*every[4:6]]
