"""Scores of masks against sets of pixels and distances between all pairs of outline pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import binary_erosion, distance_transform_edt

from prs_med.evaluate.mask_metrics import MaskScores, mask_scores


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    masks = arrays.arrays(np.bool_, shape)
    return draw(masks), draw(masks)


def outline(mask: np.ndarray) -> np.ndarray:
    """(N, 2): pixels of the mask of whose four neighbours one lies outside it."""
    pixels = {tuple(place) for place in np.argwhere(mask)}
    return np.array(
        [
            (y, x)
            for y, x in sorted(pixels)
            if not {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} <= pixels
        ]
    )


def distances(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = outline(predicted), outline(truth)
    table = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return table.min(axis=1), table.min(axis=0)


@settings(max_examples=150)
@given(pairs())
def test_scores_are_their_definitions(pair: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, truth = pair
    scores = mask_scores(predicted, truth)
    a, b = ({tuple(place) for place in np.argwhere(mask)} for mask in pair)
    if not a and not b:
        assert scores == MaskScores(1, 1, 1, 1, 0, 0)
    elif not a or not b:
        assert scores == MaskScores(0, 0, 0, 0, None, None)
    else:
        there, back = distances(predicted, truth)
        expected = (
            2 * len(a & b) / (len(a) + len(b)),
            len(a & b) / len(a | b),
            len(a & b) / len(a),
            len(a & b) / len(b),
            max(np.quantile(there, 0.95), np.quantile(back, 0.95)),
            np.concatenate([there, back]).mean(),
        )
        found = (scores.dice, scores.iou, scores.precision, scores.recall)
        assert (*found, scores.hd95, scores.surface_distance) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=40)
@given(pairs(), st.integers(0, 5), st.integers(0, 5))
def test_background_around_the_masks_changes_nothing(
    pair: tuple[np.ndarray, np.ndarray], before: int, after: int
) -> None:
    wider = [np.pad(mask, ((before, after), (after, before))) for mask in pair]
    assert mask_scores(*wider) == mask_scores(*pair)


def squares() -> tuple[np.ndarray, np.ndarray]:
    """Two squares with sides of 10 pixels, one 3 pixels to the right of the other."""
    masks = np.zeros((2, 40, 30), bool)
    masks[0, 5:15, 5:15] = True
    masks[1, 5:15, 8:18] = True
    return masks[0], masks[1]


def test_shifted_squares_by_hand() -> None:
    scores = mask_scores(*squares())
    assert scores.dice == pytest.approx(0.7)
    assert scores.iou == pytest.approx(70 / 130)
    assert scores.precision == scores.recall == pytest.approx(0.7)
    assert scores.hd95 == 3
    # Of 36 outline pixels: the far column 10 x 3, two rows 2 + 1 each, and within the other square
    # a column whose pixels are 1, 2, 3, 3, 3, 3, 2 and 1 from its outline.
    assert scores.surface_distance == pytest.approx((30 + 6 + 18) / 36)


def test_precision_and_recall_are_not_mixed_up() -> None:
    whole, part = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    part[:2] = True
    larger, smaller = mask_scores(whole, part), mask_scores(part, whole)
    assert (larger.precision, larger.recall) == (0.5, 1.0)
    assert (smaller.precision, smaller.recall) == (1.0, 0.5)


def test_a_large_image_against_distance_transforms() -> None:
    y, x = np.mgrid[:1024, :1024]
    predicted = ((y - 500) / 300) ** 2 + ((x - 520) / 200) ** 2 < 1
    truth = ((y - 480) / 280) ** 2 + ((x - 500) / 240) ** 2 < 1
    edges = [mask & ~binary_erosion(mask) for mask in (predicted, truth)]
    there = distance_transform_edt(~edges[1])[edges[0]]
    back = distance_transform_edt(~edges[0])[edges[1]]
    scores = mask_scores(predicted, truth)
    assert scores.hd95 == pytest.approx(max(np.quantile(there, 0.95), np.quantile(back, 0.95)))
    assert scores.surface_distance == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
    both = np.count_nonzero(predicted & truth)
    assert scores.dice == pytest.approx(2 * both / (predicted.sum() + truth.sum()), rel=1e-6)


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (np.zeros((2, 3), bool), np.zeros((3, 2), bool), "one shape"),
        (np.zeros((1, 2, 3), bool), np.zeros((1, 2, 3), bool), "one shape"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), "bool"),
        (np.zeros((2, 3), bool), np.zeros((2, 3), np.uint8), "bool"),
    ],
)
def test_other_arrays_are_refused(predicted: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_scores(predicted, truth)
