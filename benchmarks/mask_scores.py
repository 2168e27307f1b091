"""What scoring one mask costs, against MONAI's functions for the same numbers.

    python benchmarks/mask_scores.py

Masks of 1024 x 1024 pixels, on one core: medians of rounds in which both score the same pair. Both
give the same numbers within rounding, which is checked.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

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
from scipy.ndimage import distance_transform_edt, gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prs_med.evaluate.mask_metrics import mask_scores

SIDE, ROUNDS = 1024, 9
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    print("| true mask | pixels | ours, ms | MONAI's functions, ms |\n|---|---|---|---|")
    small, middle, large = ellipse(400, 60, 60), ellipse(500, 150, 110), ellipse(500, 300, 260)
    lungs = ellipse(280, 170, 330) | ellipse(740, 170, 330)
    for name, truth in (("small tumour", small), ("polyp", middle), ("lesion", large),
                        ("both lungs", lungs)):  # fmt: skip
        compare(name, perturbed(truth), truth)
    compare("noise, 64 x 64 enlarged", noise(1), noise(2))


def ellipse(column: int, width: int, height: int) -> np.ndarray:
    """(SIDE, SIDE) bool."""
    inside = ((COLUMNS - column) / width) ** 2 + ((ROWS - 512) / height) ** 2 < 1
    return np.asarray(inside)


def perturbed(mask: np.ndarray) -> np.ndarray:
    """The mask with a wavy outline, as a model might draw it."""
    waves = gaussian_filter(np.random.default_rng(0).standard_normal(mask.shape), 8)
    depth = distance_transform_edt(mask) - distance_transform_edt(~mask)
    return np.asarray(depth + 8 * waves / waves.std() > 0)


def noise(seed: int) -> np.ndarray:
    """What a decoder that has learnt nothing draws at worst."""
    coarse = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 1, 64, 64)))
    logits = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
    return logits[0, 0].numpy() > 0


def by_monai(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """The six scores in the order of ours, each by its function, within the box of both masks."""
    either = predicted | truth
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pair = [torch.from_numpy(mask[box].astype(np.float32))[None, None]
            for mask in (predicted, truth)]  # fmt: skip
    confusion = get_confusion_matrix(*pair)
    return (
        float(compute_dice(*pair, ignore_empty=False)),
        float(compute_iou(*pair, ignore_empty=False)),
        float(compute_confusion_matrix_metric("precision", confusion)),
        float(compute_confusion_matrix_metric("recall", confusion)),
        float(compute_hausdorff_distance(*pair, include_background=True, percentile=95)),
        float(compute_average_surface_distance(*pair, include_background=True, symmetric=True)),
    )


def compare(name: str, predicted: np.ndarray, truth: np.ndarray) -> None:
    """Print one row."""
    ours = astuple(mask_scores(predicted, truth))
    assert np.allclose(ours, by_monai(predicted, truth), rtol=1e-4)
    times = np.array([[seconds(function, predicted, truth) for function in (mask_scores, by_monai)]
                      for _ in range(ROUNDS)])  # fmt: skip
    own, theirs = np.median(times, axis=0) * 1e3
    print(f"| {name} | {truth.sum()} | {own:.1f} | {theirs:.1f} |")


def seconds(function: Callable[..., object], *masks: np.ndarray) -> float:
    """How long one call takes."""
    begun = time.perf_counter()
    function(*masks)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
