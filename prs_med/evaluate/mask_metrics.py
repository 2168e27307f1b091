"""How well one predicted mask covers the true one: overlap, and distances between the outlines.

MONAI computes all of them, so that they mean what they mean in other work on medical images. The
published system reports other numbers under similar names; they are in
:mod:`prs_med.evaluate.published_protocol`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_confusion_matrix_metric,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    get_confusion_matrix,
)

HAUSDORFF_PERCENTILE = 95.0


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
    # (1, 1, h, w): MONAI's batch and class. Bool would overflow where it adds pixels up.
    pair = [
        torch.from_numpy(np.ascontiguousarray(mask[box], dtype=np.float32))[None, None]
        for mask in (predicted, truth)
    ]
    confusion = get_confusion_matrix(*pair)
    return MaskScores(
        dice=float(compute_dice(*pair, ignore_empty=False)),
        iou=float(compute_iou(*pair, ignore_empty=False)),
        precision=float(compute_confusion_matrix_metric("precision", confusion)),
        recall=float(compute_confusion_matrix_metric("recall", confusion)),
        hd95=float(
            compute_hausdorff_distance(
                *pair, include_background=True, percentile=HAUSDORFF_PERCENTILE
            )
        ),
        surface_distance=float(
            compute_average_surface_distance(*pair, include_background=True, symmetric=True)
        ),
    )


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest part of the image that holds the mask; nothing outside changes a score."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
