"""How well one predicted mask covers the true one: overlap, and distances between the outlines.

MONAI computes overlaps and distances, so that they mean what they mean in other work on medical
images. The published system reports other numbers under similar names; they are in
:mod:`prs_med.evaluate.published_protocol`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import (
    compute_confusion_matrix_metric,
    get_confusion_matrix,
    get_surface_distance,
)

HAUSDORFF_QUANTILE = 0.95


@dataclass(frozen=True)
class MaskScores:
    """Scores of one mask against the true one.

    ===================  ==================  ======================  =============
    \\                    both have pixels    one of them is empty    both are empty
    ===================  ==================  ======================  =============
    overlap (first 4)    as defined          0                       1
    distances            as defined          undefined: None         0
    ===================  ==================  ======================  =============

    Summaries leave undefined distances out of the mean and show how many there were, so a model
    cannot better its distances unseen by predicting nothing where it is unsure.
    """

    dice: float
    iou: float
    precision: float
    """Share of the predicted pixels that are true."""
    recall: float
    """Share of the true pixels that are predicted."""
    hd95: float | None
    """95th percentile of the distances from each outline pixel to the other outline, in pixels of
    the masks; the larger of the two directions."""
    surface_distance: float | None
    """Mean of those distances over the outline pixels of both masks, in pixels."""


def mask_scores(predicted: np.ndarray, truth: np.ndarray) -> MaskScores:
    """Score a mask.

    The outline of a mask are its pixels with a neighbour (of four) outside it; what lies beyond the
    border of the image is outside.

    Args:
        predicted: (H, W) bool, in the size of the source image.
        truth: (H, W) bool.

    Raises:
        ValueError: the shapes differ, are not two-dimensional, or the masks are not bool.
    """
    if predicted.shape != truth.shape or predicted.ndim != 2:
        raise ValueError(
            f"masks must be of one shape (H, W), got {predicted.shape} and {truth.shape}"
        )
    if predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"masks must be bool, got {predicted.dtype} and {truth.dtype}")
    some_predicted, some_true = bool(predicted.any()), bool(truth.any())
    if not (some_predicted and some_true):
        if some_predicted or some_true:
            return MaskScores(0.0, 0.0, 0.0, 0.0, None, None)
        return MaskScores(1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    box = _box(predicted | truth)
    pair = predicted[box], truth[box]
    # (1, 1, h, w): MONAI's batch and class. Bool would overflow where it adds pixels up.
    confusion = get_confusion_matrix(
        *(torch.from_numpy(mask.astype(np.float32))[None, None] for mask in pair)
    )
    dice, iou, precision, recall = (
        # Dice is the F1 of the pixels, IoU their threat score.
        float(compute_confusion_matrix_metric(name, confusion))
        for name in ("f1 score", "threat score", "precision", "recall")
    )
    there, back = _distances(_outline(pair[0]), _outline(pair[1]))
    hd95 = max(np.quantile(there, HAUSDORFF_QUANTILE), np.quantile(back, HAUSDORFF_QUANTILE))
    surface_distance = np.concatenate([there, back]).mean()
    return MaskScores(dice, iou, precision, recall, float(hd95), float(surface_distance))


def _distances(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances from each outline pixel to the other outline, both ways.

    MONAI's functions for the two measures would each find both outlines and all distances again.
    """
    return get_surface_distance(one, other), get_surface_distance(other, one)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of the mask that have a neighbour outside it, (H, W) bool."""
    # SciPy's erosion, which MONAI takes, finds the same in twenty times the time.
    wider = np.pad(mask, 1)
    inside = wider[:-2, 1:-1] & wider[2:, 1:-1] & wider[1:-1, :-2] & wider[1:-1, 2:]
    return mask & ~inside


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest part of the image that holds the mask; nothing outside changes a score."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
