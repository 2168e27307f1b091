"""What it saves to compute an image once for all its questions (--share_image_prefix).

    python benchmarks/image_prefix.py

Questions of 676 tokens, 576 of them the image's, all of one length. First the FLOPs of a training
step of the published model (LLaVA-Med v1.5 with LoRA, TinySAM), counted on the real modules without
weights. Then a small model of the same structure, in which the language model has 90 % of the
FLOPs: questions/s on one CPU core at three questions about each image, medians of rounds in which
both ways take turns on the same batch. That both give the same loss is checked.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step_model import PUBLISHED_SIDE, SMALL_SIDE, random_batch, small_model
from prs_med.batch import Batch
from prs_med.config import Settings
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import forward
from prs_med.plan.meta_model import MetaModel, meta_model
from prs_med.plan.op_trace import Part
from prs_med.plan.step_trace import trace_step

IMAGES, ROUNDS = 2, 9
COUNTED, MEASURED = (1, 2, 3, 5), 3
"""Questions about each image."""
COMMON = {"data": "none", "batch_by_image": True, "lora_dropout": 0.0, "decoder_dropout": 0.0}


def main() -> None:
    """Print all."""
    torch.set_num_threads(1)
    print(
        "| model | questions of an image | language model's share | TFLOPs of a question, apart "
        "| sharing | ratio |\n|---|---|---|---|---|---|"
    )
    published = meta_model(Settings(**COMMON, image_size=PUBLISHED_SIDE), None)
    for questions in COUNTED:
        print_flops("published", published, questions, PUBLISHED_SIDE)
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder), **COMMON)
    print_flops("small", model, MEASURED, SMALL_SIDE)
    check_against_pytorch(model)
    measure(model)


def print_flops(name: str, model: MetaModel, questions: int, side: int) -> None:
    """One row."""
    (apart, part), (sharing, _) = (
        counted(model, random_batch(IMAGES, questions, side, share)) for share in (False, True)
    )
    each = IMAGES * questions * 1e12
    print(
        f"| {name} | {questions} | {100 * part:.0f} % | {apart / each:.4f} | {sharing / each:.4f} "
        f"| {apart / sharing:.2f} |"
    )


def counted(model: MetaModel, inputs: Batch) -> tuple[float, float]:
    """FLOPs of forward and backward pass, and the language model's share of them."""
    # The fused attention of CPUs is not among the operations that are counted.
    with sdpa_kernel(SDPBackend.MATH):
        device = next(model.mllm.parameters()).device
        trace = trace_step(model, inputs.to(device), on_gpu=False)
    total = float(trace.flops.sum())
    return total, float(trace.flops[trace.part == Part.LANGUAGE_MODEL].sum()) / total


def check_against_pytorch(model: MetaModel) -> None:
    """Print what PyTorch's own counter finds: a little more, because it takes the gradients of
    depthwise convolutions, of which TinyViT has some, for those of whole ones."""
    totals = []
    for share in (False, True):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            train(model, random_batch(IMAGES, MEASURED, SMALL_SIDE, share))
        totals.append(counter.get_total_flops())
    apart, sharing = (total / IMAGES / MEASURED / 1e12 for total in totals)
    print(
        f"\nsmall, by PyTorch's FlopCounterMode: {apart:.4f} and {sharing:.4f}, "
        f"ratio {apart / sharing:.2f}"
    )


def measure(model: MetaModel) -> None:
    """Print questions/s of both ways."""
    batches = [random_batch(IMAGES, MEASURED, SMALL_SIDE, share) for share in (False, True)]
    losses = [train(model, each) for each in batches]
    assert np.isclose(*losses, rtol=1e-5, atol=0), losses
    seconds = np.array([[timed(model, each) for each in batches] for _ in range(ROUNDS)])
    rates = IMAGES * MEASURED / seconds
    print("\n| small | tokens of a step | questions/s, median | range |\n|---|---|---|---|")
    for name, each, column in zip(("apart", "sharing"), batches, rates.T, strict=True):
        print(
            f"| {name} | {each.input_ids.numel()} | {np.median(column):.2f} "
            f"| {column.min():.2f} to {column.max():.2f} |"
        )
    ratios = rates[:, 1] / rates[:, 0]
    print(
        f"\nsharing / apart in the same round: median {np.median(ratios):.2f}, "
        f"{ratios.min():.2f} to {ratios.max():.2f} in {ROUNDS} rounds"
    )


def timed(model: MetaModel, inputs: Batch) -> float:
    """Seconds of forward and backward pass."""
    begun = time.perf_counter()
    train(model, inputs)
    return time.perf_counter() - begun


def train(model: MetaModel, inputs: Batch) -> float:
    """Forward and backward pass; the loss."""
    terms = loss_terms(forward(model.mllm, model.segmentation, inputs), inputs, model.settings)
    loss = terms.total(model.settings, 0, inputs)
    loss.backward()
    for module in (model.mllm, model.segmentation):
        module.zero_grad(set_to_none=True)
    return loss.item()


if __name__ == "__main__":
    main()
