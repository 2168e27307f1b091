"""What is minimised: the terms' weights, when the modality counts, and the mean over images."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from prs_med.config import LossSettings
from prs_med.model.losses import bce_dice_loss, modality_loss, structure_loss, text_loss
from prs_med.model.objective import LossTerms, loss_terms, weighted_mean
from prs_med.model.prs_med import Outputs

SETTINGS = LossSettings(lambda_seg=2.0, lambda_txt=0.5, cls_loss_weight=3.0, cls_loss_epochs=4)
TERMS = LossTerms(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 30.0]), torch.tensor([0.5, 1.5]))


def batch(*weights: float, images: int) -> SimpleNamespace:
    """What of a batch a mean looks at."""
    return SimpleNamespace(weight=torch.tensor(weights), image_seg=torch.zeros(images, 3, 2, 2))


@pytest.mark.parametrize(
    ("epoch", "modality"), [(0.0, 3.0), (3.99, 3.0), (4.0, 0.0), (4.01, 0.0), (9.0, 0.0)]
)
def test_each_term_has_its_weight_and_the_modality_counts_in_the_first_epochs(
    epoch: float, modality: float
) -> None:
    first, second = 2 * 1 + 0.5 * 10 + modality * 0.5, 2 * 2 + 0.5 * 30 + modality * 1.5
    total = TERMS.total(SETTINGS, epoch, batch(1, 1, images=2))
    assert float(total) == pytest.approx((first + second) / 2)


def test_no_epochs_of_the_modality_are_none() -> None:
    settings = LossSettings(cls_loss_epochs=0, lambda_seg=0.0, lambda_txt=0.0)
    assert float(TERMS.total(settings, 0.0, batch(1, 1, images=2))) == 0


def test_the_mean_is_one_over_images_of_the_mean_over_each_images_samples() -> None:
    values = torch.tensor([7.0, 1.0, 2.0, 6.0])
    mean = weighted_mean(values, batch(1, 1 / 3, 1 / 3, 1 / 3, images=2))
    assert float(mean) == pytest.approx((7 + 3) / 2)


def test_filling_counts_for_nothing() -> None:
    mean = weighted_mean(torch.tensor([7.0, 100.0]), batch(1, 0, images=2))
    assert float(mean) == pytest.approx(7 / 2)


class Supervised(SimpleNamespace):
    """What of a batch the losses look at."""

    def __len__(self) -> int:
        return len(self.mask)


@pytest.mark.parametrize(
    ("name", "mask_loss"), [("structure", structure_loss), ("bce_dice", bce_dice_loss)]
)
def test_each_term_is_its_loss_of_its_output(name: str, mask_loss: object) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = Outputs(
        mask_logits=torch.randn(3, 1, 6, 5, generator=generator),
        text_logits=torch.randn(4, 7, generator=generator),
        modality_logits=torch.randn(3, 5, generator=generator),
    )
    truth = Supervised(
        mask=(torch.rand(3, 1, 6, 5, generator=generator) > 0.5).to(torch.uint8),
        labels=torch.tensor([1, 0, 6, 3]),
        label_sample=torch.tensor([0, 2, 0, 2]),
        modality=torch.tensor([4, -1, 0]),
    )
    terms = loss_terms(outputs, truth, LossSettings(segmentation_loss=name))
    assert torch.equal(terms.segmentation, mask_loss(outputs.mask_logits, truth.mask.float()))
    assert torch.equal(
        terms.text, text_loss(outputs.text_logits, truth.labels, truth.label_sample, 3)
    )
    assert torch.equal(terms.modality, modality_loss(outputs.modality_logits, truth.modality))
    assert terms.text[1] == terms.modality[1] == 0
    assert terms.text.shape == terms.segmentation.shape == terms.modality.shape == (3,)
