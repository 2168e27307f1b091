"""One number to minimise from the terms of one batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prs_med.batch import Batch
from prs_med.config import LossSettings
from prs_med.model.losses import bce_dice_loss, modality_loss, structure_loss, text_loss
from prs_med.model.prs_med import Outputs


@dataclass(frozen=True)
class LossTerms:
    """Loss of each sample of a batch, (B,) float32 each."""

    segmentation: Tensor
    text: Tensor
    modality: Tensor

    def total(self, settings: LossSettings, epoch: float, batch: Batch) -> Tensor:
        """Mean over the batch, a scalar; ``epoch`` counts passes over the data.

        It is a mean over samples. In batches by image it is a mean over images of the mean over
        each image's samples. Either are equally many on every rank and in every micro-batch, so the
        mean of these means is the mean over the global batch, however it is split.
        """
        modality_weight = settings.cls_loss_weight if epoch < settings.cls_loss_epochs else 0.0
        each = (
            settings.lambda_seg * self.segmentation
            + settings.lambda_txt * self.text
            + modality_weight * self.modality
        )
        return weighted_mean(each, batch)


def weighted_mean(values: Tensor, batch: Batch) -> Tensor:
    """Mean of one value per sample, (B,), by the samples' weights, which add up to the number of
    images of the batch."""
    return (values * batch.weight).sum() / len(batch.image_seg)


def loss_terms(outputs: Outputs, batch: Batch, settings: LossSettings) -> LossTerms:
    """Each sample's losses. A term whose weight is 0 is still computed: every rank must run the
    same modules on every step, or ZeRO's collectives wait for each other for ever."""
    mask_loss = {"structure": structure_loss, "bce_dice": bce_dice_loss}[settings.segmentation_loss]
    return LossTerms(
        segmentation=mask_loss(outputs.mask_logits, batch.mask.float()),
        text=text_loss(outputs.text_logits, batch.labels, batch.label_sample, len(batch)),
        modality=modality_loss(outputs.modality_logits, batch.modality),
    )
