"""Batches by image: encoders see each image once, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prs_med.batch import Batch
from prs_med.config import LossSettings
from prs_med.data.augment import Target
from prs_med.data.images import load_image, load_mask
from prs_med.data.samples import Sample
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import Outputs, forward
from tests.unit.assembled import Assembled, assemble

LOSS = LossSettings()


@pytest.fixture(scope="module")
def model(small) -> Assembled:
    return assemble(small)


def samples_of_an_image(model: Assembled, number: int, questions: int) -> list[Sample]:
    record = model.records[number]
    image, mask = load_image(record.image_path), load_mask(record.mask_path)
    targets = [
        Target(mask, f"{record.question} {'Really? ' * n}", record.answer) for n in range(questions)
    ]
    rows = [f"{record.row_id}/{n}" for n in range(questions)]
    return model.preparation.samples(image, targets, rows, record.modality, 1.0, None)


@pytest.fixture(scope="module")
def batch(model: Assembled) -> Batch:
    """Three images with one, three and two questions."""
    samples = [
        sample
        for number, questions in ((0, 1), (5, 3), (9, 2))
        for sample in samples_of_an_image(model, number, questions)
    ]
    return model.collator(samples)


def apart(batch: Batch) -> Batch:
    """The same samples, each with an image of its own."""
    return replace(
        batch,
        image_vlm=batch.image_vlm[batch.image_index],
        image_seg=batch.image_seg[batch.image_index],
        image_index=None,
    )


def run(model: Assembled, batch: Batch) -> Outputs:
    return forward(model.mllm, model.segmentation, batch)


def test_images_are_shared_in_the_batch(batch: Batch) -> None:
    assert (len(batch.image_vlm), len(batch.image_seg), len(batch)) == (3, 3, 6)
    assert batch.image_index.tolist() == [0, 1, 1, 1, 2, 2]
    assert batch.weight.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2])


@torch.no_grad()
def test_outputs_are_those_of_samples_apart(model: Assembled, batch: Batch) -> None:
    together, separate = run(model, batch), run(model, apart(batch))
    for name in ("mask_logits", "text_logits", "modality_logits"):
        torch.testing.assert_close(
            getattr(together, name), getattr(separate, name), rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
def test_encoders_run_once_per_image(model: Assembled, batch: Batch) -> None:
    seen: dict[str, int] = {}

    def note(name: str):
        def hook(module, inputs, kwargs, output) -> None:
            pixels = inputs[0] if inputs else kwargs["pixel_values"]
            seen[name] = seen.get(name, 0) + len(pixels)

        return hook

    parts = {
        "encoder": model.segmentation.image_encoder,
        "clip": model.mllm.llava.model.vision_tower,
    }
    handles = [p.register_forward_hook(note(n), with_kwargs=True) for n, p in parts.items()]
    run(model, batch)
    for handle in handles:
        handle.remove()
    assert seen == {"encoder": 3, "clip": 3}


def test_the_loss_is_a_mean_over_images_and_so_is_its_gradient(
    model: Assembled, batch: Batch
) -> None:
    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        parameters = [
            p for m in (model.mllm, model.segmentation) for p in m.parameters() if p.requires_grad
        ]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [g for g in found if g is not None]

    together = loss_terms(run(model, batch), batch, LOSS).total(LOSS, 0, batch)
    separate = apart(batch)
    terms = loss_terms(run(model, separate), separate, LOSS)
    each = (
        LOSS.lambda_seg * terms.segmentation
        + LOSS.lambda_txt * terms.text
        + LOSS.cls_loss_weight * terms.modality
    )
    by_hand = (each[0] + each[1:4].mean() + each[4:6].mean()) / 3
    torch.testing.assert_close(together, by_hand, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(together), gradients(by_hand), strict=True):
        scale = other.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(one / scale, other / scale, rtol=1e-2, atol=2e-3)
