"""Loss and overlap on the validation split, every sample counted exactly once."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from prs_med.batch import Batch
from prs_med.config import LossSettings
from prs_med.model.objective import loss_terms
from prs_med.train.distributed import sum_over_ranks
from prs_med.train.engines import Engines

NAMES = ("val_loss_seg", "val_loss_txt", "val_loss_cls", "val_dice", "val_iou")


@torch.no_grad()
def validate(
    engines: Engines, batches: Iterable[Batch], settings: LossSettings
) -> dict[str, float]:
    """Means over all validation samples, equal on all ranks and at any number of ranks.

    Masks are computed from image and question alone; Dice and IoU are those of each mask at
    probability 0.5, at training resolution. ``val_samples`` is how many samples counted.
    """
    engines.train(False)
    sums = torch.zeros(len(NAMES) + 1, dtype=torch.float64, device=engines.device)
    for cpu_batch in batches:
        batch = cpu_batch.to(engines.device)
        outputs = engines.forward(batch)
        terms = loss_terms(outputs, batch, settings)
        dice, iou = overlap(outputs.mask_logits, batch.mask)
        rows = torch.stack(
            [terms.segmentation, terms.text, terms.modality, dice, iou, torch.ones_like(dice)]
        )
        # A sample without weight is filling: selected away, since 0 x inf would be NaN.
        sums += torch.where(batch.weight > 0, rows.double(), 0.0).sum(1)
    engines.train(True)
    *totals, count = sum_over_ranks(sums).tolist()
    means = {name: total / count for name, total in zip(NAMES, totals, strict=True)}
    return {**means, "val_samples": count}


def overlap(mask_logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dice and IoU of each sample at probability 0.5, (B,) float32; 1 if both masks are empty.

    ``mask_logits`` (B, 1, H, W) float, ``target`` (B, 1, H, W) with values 0 and 1.
    """
    predicted = mask_logits.flatten(1) > 0
    truth = target.flatten(1) > 0
    both = (predicted & truth).sum(1).float()
    sizes = predicted.sum(1).float() + truth.sum(1).float()
    dice = torch.where(sizes > 0, 2 * both / sizes, 1.0)
    iou = torch.where(sizes > 0, both / (sizes - both), 1.0)
    return dice, iou
