"""Losses and mask scores on the validation split, every sample counted exactly once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import torch

from prs_med.batch import Batch
from prs_med.config import LossSettings
from prs_med.data.position import position_of
from prs_med.evaluate.mask_metrics import mask_scores
from prs_med.model.objective import loss_terms
from prs_med.train.engines import Engines
from prs_med.train.means import Means

LOSSES = ("val_loss_seg", "val_loss_txt", "val_loss_cls")
MASKS = (
    *("val_dice", "val_iou", "val_precision", "val_recall"),
    *("val_hd95", "val_surface_distance", "val_mask_zone_accuracy"),
)


@torch.no_grad()
def validate(
    engines: Engines, batches: Iterable[Batch], settings: LossSettings
) -> dict[str, float]:
    """Means over all validation samples, equal on all ranks and at any number of ranks.

    Masks are computed from image and question alone. Their scores are those of an evaluation, at
    probability 0.5 and at training resolution, which is the unit of the distances.
    ``val_samples`` is how many samples counted, ``val_distance_samples`` how many of them have
    distances. A mean over no sample is left out.
    """
    engines.train(False)
    means = Means((*LOSSES, *MASKS))
    for cpu_batch in batches:
        batch = cpu_batch.to(engines.device)
        outputs = engines.forward(batch)
        terms = loss_terms(outputs, batch, settings)
        losses = torch.stack([terms.segmentation, terms.text, terms.modality], 1).tolist()
        predicted = (outputs.mask_logits[:, 0] > 0).cpu().numpy()
        truth = cpu_batch.mask[:, 0].numpy() > 0
        for row, weight in enumerate(cpu_batch.weight.tolist()):
            # A sample without weight is filling.
            if weight > 0:
                of_losses = dict(zip(LOSSES, losses[row], strict=True))
                means.add({**of_losses, **_scores_of_mask(predicted[row], truth[row])})
    engines.train(True)
    found, counts = means.read(engines.device)
    return {
        **found,
        "val_samples": counts["val_dice"],
        "val_distance_samples": counts["val_hd95"],
    }


def _scores_of_mask(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """The scores of one mask by their names in the metrics; None where one is undefined.

    Args:
        predicted: (S, S) bool.
        truth: (S, S) bool.
    """
    scores = {f"val_{name}": value for name, value in asdict(mask_scores(predicted, truth)).items()}
    return {**scores, "val_mask_zone_accuracy": _zone_is_right(predicted, truth)}


def _zone_is_right(predicted: np.ndarray, truth: np.ndarray) -> bool | None:
    """Whether both masks lie in the same zone; None where there is no true one."""
    if not truth.any():
        return None
    return bool(predicted.any()) and position_of(predicted).zone == position_of(truth).zone
