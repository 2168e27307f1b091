"""Numbers as pages write them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.report import numbers

SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9}


@given(st.floats(-1e30, 1e30, allow_subnormal=False))
def test_short_numbers_are_the_number_within_rounding(value: float) -> None:
    text = numbers.short(value)
    read = float(text[:-1]) * SUFFIXES[text[-1]] if text[-1] in SUFFIXES else float(text)
    assert read == pytest.approx(value, rel=6e-4, abs=0)
    assert len(text) <= 11
    assert "+" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0"), (0.25, "0.25"), (120.0, "120"), (2500.0, "2500"), (9999.9, "10k")),
        *((15_000.0, "15k"), (2e6, "2M"), (999_999.0, "1M"), (1e-5, "1e-5"), (3e15, "3e15")),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert numbers.short(value) == text


def test_scores_and_their_differences() -> None:
    assert numbers.score(0.84249) == "0.842"
    assert numbers.percent(0.875) == "87.5 %"
    assert numbers.pixels(3.04) == "3.0 px"
    assert numbers.signed_score(0.0423) == "+0.042"
    assert numbers.signed_points(-0.031) == "-3.1 points"
    assert numbers.signed_pixels(-0.04) == numbers.signed_pixels(0.0) == "0.0 px"
    assert numbers.percent_mark(0.07) == "7"
    everything = ("score", "percent", "pixels", "signed_score", "signed_points", "signed_pixels")
    assert {getattr(numbers, name)(None) for name in everything} == {"n/a"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "none"), ("", "none"), ([], "none"), (True, "yes"), (False, "no")),
        *((0.5, "0.5"), (1e-5, "1e-05"), (64, "64"), ("a", "a"), ([1, "b"], "1, b")),
        (math.inf, "inf"),
    ],
)
def test_plain_values(value: Any, text: str) -> None:
    assert numbers.plain(value) == text


def test_counted_things_have_their_plural() -> None:
    assert numbers.counted(1, "question") == "1 question"
    assert numbers.counted(12_345, "question") == "12,345 questions"
