"""The learning rate over a run."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prs_med.train.schedule import learning_rate_factor

STEPS = st.integers(1, 100)
RATIO = st.floats(0, 0.99)


def factors(total: int, warmup_ratio: float, min_ratio: float) -> list[float]:
    """Of every step, and of the one after the last."""
    return [learning_rate_factor(s, total, warmup_ratio, min_ratio) for s in range(total + 1)]


def test_a_run_by_hand() -> None:
    # Half a cosine over four steps: how high it still is at each quarter.
    height = [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0]
    expected = [0.5, 1.0] + [0.1 + 0.9 * share for share in height]
    assert factors(6, 1 / 3, 0.1) == pytest.approx(expected)


@given(STEPS, RATIO, RATIO)
@settings(max_examples=60)
def test_it_rises_to_the_peak_and_falls_to_the_end(
    total: int, warmup_ratio: float, min_ratio: float
) -> None:
    found = factors(total, warmup_ratio, min_ratio)
    warmup = math.ceil(total * warmup_ratio)
    rise, fall = found[:warmup], found[warmup:]
    assert all(a < b for a, b in pairwise(rise))
    assert all(a >= b for a, b in pairwise(fall))
    assert max(found) == 1
    assert found[max(0, warmup - 1)] == 1
    assert all(0 < factor <= 1 for factor in found[:-1])


@given(STEPS, RATIO, RATIO, st.integers(0, 50))
@settings(max_examples=60)
def test_it_ends_at_the_lowest_and_stays_there(
    total: int, warmup_ratio: float, min_ratio: float, beyond: int
) -> None:
    assume(math.ceil(total * warmup_ratio) < total)
    factor = learning_rate_factor(total + beyond, total, warmup_ratio, min_ratio)
    assert factor == pytest.approx(min_ratio)


@given(STEPS, RATIO)
@settings(max_examples=60)
def test_the_rise_is_a_straight_line_that_starts_above_zero(
    total: int, warmup_ratio: float
) -> None:
    warmup = math.ceil(total * warmup_ratio)
    for step, factor in enumerate(factors(total, warmup_ratio, 0.0)[:warmup]):
        assert factor == pytest.approx((step + 1) / warmup)


def test_without_warm_up_the_first_step_is_the_peak() -> None:
    assert learning_rate_factor(0, 10, 0.0, 0.1) == 1
