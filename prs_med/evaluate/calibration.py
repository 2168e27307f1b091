"""Whether pixels that are called likely are indeed that often part of the structure.

The confidence of a pixel is its probability of being foreground, and it is right where the pixel is
foreground: the binary convention (torchmetrics' ``BinaryCalibrationError`` has the same), in which
a structure that is predicted too large and one that is predicted too small show on different sides
of the diagonal. Most pixels of medical images are certain background, which makes the error small;
it compares models on the same images, and the curve shows the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class CalibrationTotals:
    """Sums over pixels, made by each process and then added up."""

    pixels: np.ndarray
    """(15,) int64: pixels whose probability lies in each bin. Bin i holds i/15 <= p < (i + 1)/15,
    the last one 1 as well."""
    confidence: np.ndarray
    """(15,) float64: sum of their probabilities."""
    foreground: np.ndarray
    """(15,) int64: how many of them are foreground in truth."""

    @classmethod
    def none(cls) -> CalibrationTotals:
        """Totals of no pixels."""
        zeros = np.zeros(BINS, dtype=np.int64)
        return cls(zeros, zeros.astype(np.float64), zeros)

    @classmethod
    def of(cls, probability: np.ndarray, truth: np.ndarray) -> CalibrationTotals:
        """Totals of one image.

        Args:
            probability: (H, W) float, from 0 to 1.
            truth: (H, W) bool.

        Raises:
            ValueError: the shapes differ, the truth is not bool, or a probability is not from 0 to
                1.
        """
        if probability.shape != truth.shape or truth.dtype != np.bool_:
            raise ValueError(
                f"map and mask must have one shape and the mask be bool, got {probability.shape} "
                f"and {truth.shape} {truth.dtype}"
            )
        values = probability.astype(np.float64).ravel()
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("a probability is not a number from 0 to 1")
        bins = np.minimum((values * BINS).astype(np.intp), BINS - 1)
        return cls(
            np.bincount(bins, minlength=BINS).astype(np.int64),
            np.bincount(bins, weights=values, minlength=BINS),
            np.bincount(bins[truth.ravel()], minlength=BINS).astype(np.int64),
        )

    def __add__(self, other: CalibrationTotals) -> CalibrationTotals:
        """Totals of both parts."""
        return CalibrationTotals(
            self.pixels + other.pixels,
            self.confidence + other.confidence,
            self.foreground + other.foreground,
        )

    @property
    def expected_calibration_error(self) -> float | None:
        """Mean over all pixels of the distance between the mean probability of their bin and the
        share of foreground in it, from 0 to 1; None where there are no pixels."""
        total = int(self.pixels.sum())
        return float(np.abs(self.confidence - self.foreground).sum()) / total if total else None

    def reliability_curve(self) -> tuple[ReliabilityPoint, ...]:
        """One point for each bin that holds pixels, from low to high."""
        return tuple(
            ReliabilityPoint(
                low=bin_ / BINS,
                high=(bin_ + 1) / BINS,
                pixels=int(count),
                probability=float(self.confidence[bin_]) / int(count),
                foreground=int(self.foreground[bin_]) / int(count),
            )
            for bin_, count in enumerate(self.pixels)
            if count
        )


@dataclass(frozen=True)
class ReliabilityPoint:
    """The pixels of one bin."""

    low: float
    """Where the bin begins."""
    high: float
    """Where it ends."""
    pixels: int
    probability: float
    """Their mean probability."""
    foreground: float
    """The share of them that is foreground; on the diagonal it is the mean probability."""
