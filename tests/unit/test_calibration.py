"""Calibration against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prs_med.evaluate.calibration import BINS, CalibrationTotals


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    width = 32 if dtype is np.float32 else 64
    return (
        draw(arrays.arrays(dtype, shape, elements=st.floats(0, 1, width=width))),
        draw(arrays.arrays(np.bool_, shape)),
    )


def slow_error(pairs: list[tuple[float, bool]]) -> float:
    """Expected calibration error from (probability, truth) of every pixel."""
    error = 0.0
    for number in range(BINS):
        last = number == BINS - 1
        inside = [
            (p, t)
            for p, t in pairs
            if number <= p * BINS and (p * BINS < number + 1 or (last and p == 1))
        ]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            accuracy = sum(t for _, t in inside) / len(inside)
            error += len(inside) / len(pairs) * abs(confidence - accuracy)
    return error


@settings(max_examples=80)
@given(st.lists(images(), min_size=1, max_size=4), st.randoms())
def test_error_is_its_definition_however_the_images_are_dealt_out(several, random) -> None:
    pairs = [
        (float(p), bool(t))
        for probability, truth in several
        for p, t in zip(probability.ravel(), truth.ravel(), strict=True)
    ]
    parts = [CalibrationTotals.of(*image) for image in several] + [CalibrationTotals.none()]
    random.shuffle(parts)
    totals = sum(parts[1:], parts[0])
    assert totals.expected_calibration_error == pytest.approx(slow_error(pairs), abs=1e-9)
    assert totals.pixels.sum() == len(pairs)
    curve = totals.reliability_curve()
    assert sum(point.pixels for point in curve) == len(pairs)
    for point in curve:
        assert point.low - 1e-9 <= point.probability <= point.high + 1e-9
    recomputed = sum(p.pixels * abs(p.probability - p.foreground) for p in curve) / len(pairs)
    assert recomputed == pytest.approx(slow_error(pairs), abs=1e-9)


def test_two_bins_by_hand() -> None:
    probability = np.array([[0.9, 0.9, 0.9, 0.9, 0.1, 0.1]])
    truth = np.array([[1, 1, 1, 0, 0, 1]], bool)
    totals = CalibrationTotals.of(probability, truth)
    assert totals.expected_calibration_error == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.4)
    low, high = totals.reliability_curve()
    assert (low.pixels, low.probability, low.foreground) == pytest.approx((2, 0.1, 0.5))
    assert (high.pixels, high.probability, high.foreground) == pytest.approx((4, 0.9, 0.75))
    assert (low.low, low.high) == pytest.approx((1 / 15, 2 / 15))


def test_bounds_belong_to_the_upper_bin_and_one_to_the_last() -> None:
    totals = CalibrationTotals.of(np.array([0.0, 0.2, 1.0]), np.zeros(3, bool))
    assert np.flatnonzero(totals.pixels).tolist() == [0, 3, 14]


def test_probabilities_that_come_true_are_calibrated() -> None:
    random = np.random.default_rng(0)
    probability = random.random((600, 600))
    truth = random.random((600, 600)) < probability
    assert CalibrationTotals.of(probability, truth).expected_calibration_error < 0.01
    sure = np.where(probability > 0.5, 1.0, 0.0)
    # Always certain, and wrong in a quarter of the cases.
    error = CalibrationTotals.of(sure, truth).expected_calibration_error
    assert error == pytest.approx(0.25, abs=0.01)


def test_no_pixels_have_no_error() -> None:
    assert CalibrationTotals.none().expected_calibration_error is None
    assert CalibrationTotals.none().reliability_curve() == ()


@pytest.mark.parametrize(
    ("probability", "truth"),
    [
        (np.array([[1.01]]), np.array([[True]])),
        (np.array([[-0.01]]), np.array([[True]])),
        (np.array([[np.nan]]), np.array([[True]])),
        (np.array([[0.5]]), np.array([[1]])),
        (np.array([[0.5, 0.5]]), np.array([[True]])),
    ],
)
def test_other_values_are_refused(probability: np.ndarray, truth: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must have one shape|from 0 to 1"):
        CalibrationTotals.of(probability, truth)
