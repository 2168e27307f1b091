"""Summaries and paired differences against SciPy and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prs_med.evaluate.statistics import (
    Summary,
    paired_difference,
    paired_differences,
    summarise_values,
)


def test_values_that_are_not_defined_are_left_out_and_counted() -> None:
    summary = summarise_values([1.0, None, 3.0, None, 8.0])
    assert summary.n == summary.groups == 3
    assert summary.mean == 4
    assert summary.sd == pytest.approx(np.sqrt((9 + 1 + 16) / 2))
    assert summary == summarise_values([1.0, 3.0, 8.0])


def test_truths_count_as_one() -> None:
    summary = summarise_values([True, False, True, None, True])
    assert (summary.n, summary.mean) == (4, 0.75)


def test_too_few_values_have_no_interval() -> None:
    assert summarise_values([]) == summarise_values([None]) == Summary(0, 0, *[None] * 4)
    assert summarise_values([2.0]) == Summary(1, 1, 2.0, None, None, None)
    # Many questions about one image tell nothing about other images.
    one_image = summarise_values([1.0, 2.0, 3.0], ["a", "a", "a"])
    assert (one_image.n, one_image.groups, one_image.mean, one_image.sd) == (3, 1, 2, 1)
    assert one_image.low is one_image.high is None


@pytest.mark.parametrize("size", [5, 40, 700])
def test_the_interval_is_that_of_scipy(size: int) -> None:
    values = np.random.default_rng(size).beta(4, 1, size)
    found = summarise_values(list(values), resamples=20_000)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    # Both draw at random: a fiftieth of the width is some four deviations of their ends.
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=width / 50)
    assert found.high == pytest.approx(expected.high, abs=width / 50)


def coverage(draw, groups: list[int] | None) -> float:
    random = np.random.default_rng(5)
    inside = 0
    for trial in range(400):
        summary = summarise_values(list(draw(random)), groups, resamples=400, seed=trial)
        assert summary.low is not None
        assert summary.high is not None
        inside += summary.low <= 0 <= summary.high
    return inside / 400


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    assert 0.90 <= coverage(lambda random: random.standard_normal(50), None) <= 0.98


def test_questions_about_one_image_are_drawn_together() -> None:
    """Eight questions share most of their score; without groups the interval is far too narrow."""
    groups = [image for image in range(40) for _ in range(8)]

    def draw(random: np.random.Generator) -> np.ndarray:
        return np.repeat(random.standard_normal(40), 8) + 0.3 * random.standard_normal(320)

    assert 0.90 <= coverage(draw, groups) <= 0.98
    assert coverage(draw, None) < 0.7


@settings(max_examples=40)
@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=12),
    st.integers(1, 4),
)
def test_asking_each_image_again_makes_nothing_surer(values: list[float], times: int) -> None:
    once = summarise_values(values, resamples=200)
    repeated = [value for value in values for _ in range(times)]
    groups = [number for number in range(len(values)) for _ in range(times)]
    more = summarise_values(repeated, groups, resamples=200)
    assert (more.n, more.groups) == (times * len(values), len(values))
    assert (more.low, more.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert once.mean == pytest.approx(more.mean, abs=1e-9)


def test_groups_of_different_sizes_weigh_by_their_values() -> None:
    values, groups = [0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"]
    summary = summarise_values(values, groups)
    assert summary.mean == 0.25
    # Draws: aa (0), ab and ba (1/4), bb (1).
    assert (summary.low, summary.high) == (0, 1)
    assert summarise_values(values, groups, seed=3) == summarise_values(values, groups, seed=3)


def test_the_interval_does_not_depend_on_how_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = list(np.random.default_rng(0).random(30))
    whole = summarise_values(values)
    monkeypatch.setattr("prs_med.evaluate.statistics._DRAWS_AT_ONCE", 7 * 30)
    assert summarise_values(values) == whole


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        summarise_values([1.0, value])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values need as many groups, not 1"):
        summarise_values([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="resamples"):
        summarise_values([1.0, 2.0], resamples=0)
    with pytest.raises(ValueError, match="two runs"):
        paired_differences({"a": {"x": 1.0}})


FIRST = {"a": 0.5, "b": 0.9, "c": None, "d": 0.4, "only first": 1.0}
SECOND = {"a": 0.6, "b": 0.4, "c": 0.7, "d": 0.4, "only second": 0.0}


def test_runs_are_compared_where_both_have_a_score() -> None:
    pair = paired_difference(FIRST, SECOND)
    assert [sample for sample, _ in pair.changes] == ["b", "a", "d"]
    assert [change for _, change in pair.changes] == pytest.approx([-0.5, 0.1, 0])
    assert pair.left_out == 3
    assert pair.difference == summarise_values([0.6 - 0.5, 0.4 - 0.9, 0.0])
    assert pair.first == summarise_values([0.5, 0.9, 0.4])
    assert pair.second == summarise_values([0.6, 0.4, 0.4])


def test_the_other_way_round_the_difference_has_the_other_sign() -> None:
    there, back = paired_difference(FIRST, SECOND), paired_difference(SECOND, FIRST)
    assert there.difference.mean == pytest.approx(-back.difference.mean)
    assert there.difference.low == pytest.approx(-back.difference.high, abs=0.02)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    random = np.random.default_rng(2)
    hard = random.random(60)
    first = {str(number): score for number, score in enumerate(hard)}
    second = {
        number: score + 0.02 + 0.01 * random.standard_normal() for number, score in first.items()
    }
    pair = paired_difference(first, second)
    assert 0.015 < pair.difference.low < pair.difference.high < 0.025
    assert pair.second.low < pair.first.mean


def test_groups_are_kept_in_differences() -> None:
    random = np.random.default_rng(3)
    of_image = random.standard_normal(20)
    second = {f"{image}:{q}": of_image[image] for image in range(20) for q in range(10)}
    first = dict.fromkeys(second, 0.0)
    groups = {sample: sample.split(":")[0] for sample in second}
    grouped = paired_difference(first, second, groups).difference
    alone = paired_difference(first, second).difference
    assert (grouped.n, grouped.groups, alone.groups) == (200, 20, 200)
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_several_runs_are_compared_on_what_all_share() -> None:
    third = {"a": 1.0, "d": 0.0, "b": None}
    compared = paired_differences({"base": FIRST, "x": SECOND, "y": third})
    assert list(compared) == ["x", "y"]
    for pair in compared.values():
        assert {sample for sample, _ in pair.changes} == {"a", "d"}
        assert pair.left_out == 4
        assert pair.first.mean == pytest.approx(0.45)
    assert compared["y"].difference.mean == pytest.approx((0.5 - 0.4) / 2)
