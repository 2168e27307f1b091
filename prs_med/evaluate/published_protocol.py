"""The scores under which PRS-Med was published. They are not Dice and IoU at 0.5.

Each probability map is stretched so that its smallest value becomes 0 and its largest 1, rounded to
256 levels, and cut at 256 thresholds; meanDic and meanIoU average over all 256 masks, from the one
that covers the whole image to the one that holds only the brightest pixels. So a map that is
right everywhere but not sharp scores low, and a faint one is scored as if it were strong.

The definitions are those of the polyp segmentation toolbox that came with PraNet (Fan et al.,
MICCAI 2020) in its NumPy form, which the published evaluation of PRS-Med uses:

* Dice, IoU, sensitivity and specificity count pixels. Where no true pixel is hit, all four are 0,
  specificity too. The toolbox's F-measure with beta 1 is the same number as Dice and is left out.
* Em is the enhanced-alignment measure (Fan et al., IJCAI 2018), divided by one pixel less than
  there are.
* Sm is the structure measure (Fan et al., ICCV 2017), alpha 0.5, with population standard
  deviations, and with quarters that meet before the pixel of the truth's centre.
* wFm is the weighted F-measure (Margolin et al., CVPR 2014), beta 1, its 7 x 7 Gaussian continuing
  the errors of the outermost pixels beyond the border.
* MAE is taken on the stretched map.

Maximums (maxDic, ...) are those of the curve that is averaged over the data set, not averages of
the images' maximums, so a data set's scores need :class:`ProtocolTotals`.

PySODMetrics is the well-kept library for these measures. It computes the same Dice, IoU,
sensitivity, Em and MAE (tests compare them), but by the original MATLAB code in the rest:
specificity is not 0 without a hit, Sm uses sample deviations and other quarters, wFm takes errors
beyond the border as 0. So it is not used here.

The thresholds are the toolbox's, ``numpy.linspace(1, 0, 256)``, and levels are divided by 255
before they are compared with them, both in floating point. Rounding leaves some levels just below
the threshold of the same name (4/255 is below ``linspace(1, 0, 256)[251]``), so that at a quarter
of the thresholds the pixels of one level are missing. The means are those of the toolbox only if
they are missing here, too.

Where this differs from the published programs: the map is resized to the source image before it is
stretched; cases in which the toolbox divides by zero are defined (see `protocol_scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

LEVELS = 256
CURVES = ("Dic", "IoU", "Em", "Sen", "Spe")
"""What is measured at every threshold, in the order of `ProtocolScores.curves`."""
SCALARS = ("wFm", "Sm", "mae")
"""What is measured once per image, in the order of `ProtocolScores.scalars`."""

# The toolbox adds it to the range of a map. A map of less than about 1e-8 stays dark.
_STRETCH_EPSILON = 1e-8
_EPSILON = float(np.finfo(np.float64).eps)

THRESHOLDS = np.linspace(1, 0, LEVELS)[::-1]
"""(256,) float64, from 0 to 1: where maps are cut, in the order of the columns of the curves."""
# A level reaches a threshold or not whatever the image, so one comparison serves all pixels of it.
_LOWEST_LEVEL = np.searchsorted(np.arange(LEVELS) / (LEVELS - 1), THRESHOLDS)


@dataclass(frozen=True)
class ProtocolScores:
    """The scores of one image."""

    curves: np.ndarray
    """(5, 256) float64, from 0 to 1 (Em to H W / (H W - 1)): a row for each of `CURVES`, a column
    for each of `THRESHOLDS`, from 0 (the whole image) to 1."""
    scalars: np.ndarray
    """(3,) float64: `SCALARS`."""

    def as_dict(self) -> dict[str, float]:
        """Of one image: meanDic, meanIoU, meanEm, meanSen, meanSpe, wFm, Sm and mae. Their averages
        over images are the data set's; maximums are not among them (see the module)."""
        means = {
            f"mean{name}": float(curve.mean())
            for name, curve in zip(CURVES, self.curves, strict=True)
        }
        return {**means, **dict(zip(SCALARS, map(float, self.scalars), strict=True))}


@dataclass(frozen=True)
class ProtocolTotals:
    """Sums over images, made by each process and then added up."""

    samples: int
    curves: np.ndarray
    """(5, 256) float64."""
    scalars: np.ndarray
    """(3,) float64."""

    @classmethod
    def of(cls, scores: Sequence[ProtocolScores]) -> ProtocolTotals:
        """Totals of some images, possibly of none."""
        return cls(
            len(scores),
            sum((score.curves for score in scores), np.zeros((len(CURVES), LEVELS))),
            sum((score.scalars for score in scores), np.zeros(len(SCALARS))),
        )

    def __add__(self, other: ProtocolTotals) -> ProtocolTotals:
        """Totals of both parts."""
        return ProtocolTotals(
            self.samples + other.samples, self.curves + other.curves, self.scalars + other.scalars
        )

    def as_array(self) -> np.ndarray:
        """(1284,) float64, to be sent and added up; `from_array` reads it."""
        return np.concatenate([[self.samples], self.curves.ravel(), self.scalars])

    @classmethod
    def from_array(cls, values: np.ndarray) -> ProtocolTotals:
        """What `as_array` wrote, or a sum of such arrays."""
        curves = values[1 : 1 + len(CURVES) * LEVELS].reshape(len(CURVES), LEVELS)
        return cls(round(float(values[0])), curves, values[1 + len(CURVES) * LEVELS :])

    def scores(self) -> dict[str, float | None]:
        """meanDic, maxDic, meanIoU, maxIoU, meanEm, maxEm, meanSen, maxSen, meanSpe, maxSpe, wFm,
        Sm and mae of the data set, each from 0 to 1; None for all of them where there is no
        image."""
        scores: dict[str, float | None] = {}
        for name, curve in zip(CURVES, self.curves, strict=True):
            scores[f"mean{name}"] = float(curve.mean()) / self.samples if self.samples else None
            scores[f"max{name}"] = float(curve.max()) / self.samples if self.samples else None
        for name, total in zip(SCALARS, self.scalars, strict=True):
            scores[name] = float(total) / self.samples if self.samples else None
        return scores


def protocol_scores(probability: np.ndarray, truth: np.ndarray) -> ProtocolScores:
    """Score the probability map of one image.

    A constant map becomes 0 everywhere, whatever its value: it says nothing about a place. An image
    whose truth is empty scores 0 in Dice, IoU, sensitivity, specificity and wFm (for wFm the
    toolbox has no value, PySODMetrics also takes 0); Em and Sm then tell how dark the map is.

    Args:
        probability: (H, W) float, any finite values.
        truth: (H, W) bool.

    Raises:
        ValueError: the shapes differ, are not two-dimensional or hold a single pixel, the truth is
            not bool, or the map has a value that is not finite.
    """
    if probability.shape != truth.shape or probability.ndim != 2 or truth.size < 2:
        raise ValueError(
            "map and mask must be of one shape (H, W) and have two pixels or more, "
            f"got {probability.shape} and {truth.shape}"
        )
    if truth.dtype != np.bool_:
        raise ValueError(f"the mask must be bool, got {truth.dtype}")
    levels = stretched_levels(probability)
    curves = _curves(levels, truth)
    stretched = levels / (LEVELS - 1)
    scalars = [
        _weighted_f_measure(stretched, truth),
        _structure_measure(stretched, truth),
        float(np.abs(stretched - truth).mean()),
    ]
    return ProtocolScores(curves, np.array(scalars))


def stretched_levels(probability: np.ndarray) -> np.ndarray:
    """A map stretched to the whole range of grey values, (H, W) uint8, as it was saved there.

    Raises:
        ValueError: a value of the map is not finite.
    """
    values = probability.astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError("the map has a value that is not a finite number")
    return np.rint((values - low) / (high - low + _STRETCH_EPSILON) * (LEVELS - 1)).astype(np.uint8)


def _curves(levels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    hit = _at_thresholds(levels[truth])
    covered = _at_thresholds(levels.ravel())
    size, true = truth.size, int(truth.sum())
    any_hit = hit > 0
    negatives = np.maximum(size - true, 1)
    return np.stack(
        [
            2 * hit / np.maximum(true + covered, 1),
            hit / np.maximum(true + covered - hit, 1),
            _enhanced_alignment(hit, covered, true, size),
            hit / max(true, 1),
            np.where(any_hit, (negatives - (covered - hit)) / negatives, 0.0),
        ]
    )


def _at_thresholds(levels: np.ndarray) -> np.ndarray:
    """How many pixels reach each threshold, (256,) float64."""
    at_or_above = np.bincount(levels, minlength=LEVELS)[::-1].cumsum()[::-1]
    return at_or_above[_LOWEST_LEVEL].astype(np.float64)


def _enhanced_alignment(hit: np.ndarray, covered: np.ndarray, true: int, size: int) -> np.ndarray:
    """Em at each threshold.

    It depends on a pixel only by whether it is covered and whether it is true, so that the four
    kinds of pixels need one value each.
    """
    if true == 0:
        return (size - covered) / (size - 1 + _EPSILON)
    if true == size:
        return covered / (size - 1 + _EPSILON)
    mean_covered, mean_true = covered / size, true / size
    counts = {
        (1, 1): hit,
        (1, 0): covered - hit,
        (0, 1): true - hit,
        (0, 0): size - covered - (true - hit),
    }
    total = np.zeros(LEVELS)
    for (is_covered, is_true), count in counts.items():
        a, b = is_covered - mean_covered, is_true - mean_true
        alignment = 2 * a * b / (a * a + b * b + _EPSILON)
        total += count * (alignment + 1) ** 2 / 4
    return total / (size - 1 + _EPSILON)


def _structure_measure(stretched: np.ndarray, truth: np.ndarray) -> float:
    share = float(truth.mean())
    if share == 0:
        return 1 - float(stretched.mean())
    if share == 1:
        return float(stretched.mean())
    object_score = share * _object_score(stretched[truth])
    object_score += (1 - share) * _object_score(1 - stretched[~truth])
    return max(0.0, (object_score + _region_score(stretched, truth)) / 2)


def _object_score(values: np.ndarray) -> float:
    """How bright and even the map is over a set of pixels, where it should be 1."""
    mean, deviation = float(values.mean()), float(values.std())
    return 2 * mean / (mean * mean + 1 + deviation + _EPSILON)


def _region_score(stretched: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity in the four quarters that meet at the centre of the truth, weighted by
    their sizes."""
    rows, columns = np.nonzero(truth)
    row, column = round(float(rows.mean())), round(float(columns.mean()))
    score = 0.0
    for vertical in (slice(None, row), slice(row, None)):
        for horizontal in (slice(None, column), slice(column, None)):
            part = truth[vertical, horizontal]
            # Empty where the centre lies in the first row or column.
            if part.size:
                similarity = _similarity(stretched[vertical, horizontal], part)
                score += part.size / truth.size * similarity
    return score


def _similarity(predicted: np.ndarray, truth: np.ndarray) -> float:
    mean_predicted, mean_true = float(predicted.mean()), float(truth.mean())
    off_predicted, off_true = predicted - mean_predicted, truth - mean_true
    degrees = truth.size - 1 + _EPSILON
    variances = float((off_predicted**2).sum() + (off_true**2).sum()) / degrees
    covariance = float((off_predicted * off_true).sum()) / degrees
    upper = 4 * mean_predicted * mean_true * covariance
    lower = (mean_predicted**2 + mean_true**2) * variances
    if upper == 0:
        return 1.0 if lower == 0 else 0.0
    return upper / (lower + _EPSILON)


def _weighted_f_measure(stretched: np.ndarray, truth: np.ndarray) -> float:
    if not truth.any():
        return 0.0
    error = np.abs(stretched - truth)
    distance, nearest = distance_transform_edt(~truth, return_indices=True)
    # Beyond the structure the error of its nearest pixel is taken, then all are smoothed.
    spread = error[nearest[0], nearest[1]]
    smoothed = gaussian_filter(spread, sigma=5, radius=3, mode="nearest")
    inside = np.minimum(error, smoothed)[truth]
    # An error counts up to twice as much the further it lies from the structure.
    outside = (error * (2 - 0.5 ** (distance / 5)))[~truth]
    hit = inside.size - float(inside.sum())
    recall = 1 - float(inside.mean())
    precision = hit / (hit + float(outside.sum()) + _EPSILON)
    return 2 * recall * precision / (recall + precision + _EPSILON)
