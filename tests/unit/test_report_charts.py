"""Charts show the numbers that they are given."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.report import numbers
from prs_med.report.charts.frame import BOTTOM, LEFT, RIGHT, TOP, WIDTH
from prs_med.report.charts.histogram import BINS, histogram, spread_in_words
from prs_med.report.charts.intervals import Interval, interval_chart
from prs_med.report.charts.lines import LIMIT, Series, line_chart
from prs_med.report.charts.reliability import reliability_chart
from prs_med.report.charts.scales import scale_for, wants_log
from prs_med.report.charts.thinning import thinned
from tests.unit.html_reading import Element, read_html

finite = st.floats(-1e30, 1e30, allow_nan=False, allow_subnormal=False)
positive = st.floats(1e-30, 1e30, allow_subnormal=False)
curves = st.lists(st.one_of(st.none(), st.floats(-100, 100)), max_size=400).map(
    lambda values: [(float(step), value) for step, value in enumerate(values)]
)


@given(st.lists(finite, max_size=20))
def test_straight_axes_hold_all_values_and_their_ticks(values: list[float]) -> None:
    scale = scale_for(values, BOTTOM, TOP)
    assert scale.low < scale.high
    for value in values:
        assert TOP - 1e-3 <= scale.place(value) <= BOTTOM + 1e-3
    assert scale.place(scale.low) == pytest.approx(BOTTOM)
    assert scale.place(scale.high) == pytest.approx(TOP)
    check_ticks(scale.ticks(), scale)


@given(st.lists(positive, min_size=1, max_size=20))
def test_log_axes_hold_all_values_and_their_ticks(values: list[float]) -> None:
    scale = scale_for(values, LEFT, RIGHT, log=True)
    for value in values:
        assert LEFT - 1e-3 <= scale.place(value) <= RIGHT + 1e-3
    check_ticks(scale.ticks(), scale)
    assert scale.place(math.sqrt(scale.low * scale.high)) == pytest.approx((LEFT + RIGHT) / 2)


def check_ticks(ticks: list[float], scale: Any) -> None:
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    span = abs(scale.end - scale.start)
    low, high = sorted((scale.start, scale.end))
    assert all(low - span / 1e6 <= scale.place(tick) <= high + span / 1e6 for tick in ticks)


@given(finite, finite, finite)
def test_a_larger_value_lies_further_along_the_axis(a: float, b: float, c: float) -> None:
    low, middle, high = sorted((a, b, c))
    scale = scale_for([low, high], LEFT, RIGHT)
    assert scale.place(low) <= scale.place(middle) <= scale.place(high)


def test_ticks_are_round_numbers() -> None:
    assert scale_for([0.0, 0.93], 0, 1).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert scale_for([3.0, 11.0], 0, 1).ticks() == [2, 4, 6, 8, 10, 12]
    assert scale_for([0.002, 7.0], 0, 1, log=True).ticks() == [0.01, 0.1, 1, 10]
    assert scale_for([0.4, 7.0], 0, 1, log=True).ticks() == [0.2, 0.5, 1, 2, 5, 10]


def test_only_positive_values_of_a_wide_range_want_a_log_axis() -> None:
    assert wants_log([0.001, 1])
    assert not wants_log([0.5, 1])
    assert not wants_log([0.0, 1])
    assert not wants_log([-1.0, 100])
    assert not wants_log([])


@given(curves, st.integers(5, 50))
def test_thinning_keeps_ends_extremes_and_a_gap(points: list, limit: int) -> None:
    kept = thinned(points, limit)
    assert len(kept) <= limit
    assert kept == [point for point in points if point in kept]
    if points:
        assert kept[0] == points[0]
        assert kept[-1] == points[-1]
    values = [value for _, value in points if value is not None]
    kept_values = [value for _, value in kept if value is not None]
    if values:
        assert max(kept_values) == max(values)
        assert min(kept_values) == min(values)
    assert any(value is None for _, value in points) == any(value is None for _, value in kept)


def test_short_curves_are_not_thinned() -> None:
    points = [(0.0, 1.0), (1.0, None), (2.0, 3.0)]
    assert thinned(points, 5) == points
    with pytest.raises(ValueError, match="limit of 4"):
        thinned(points, 4)


def chart(markup: Any) -> Element:
    return read_html(str(markup))


def test_line_charts_break_at_gaps_and_mark_them() -> None:
    points = [(10.0, 1.0), (20.0, 2.0), (30.0, None), (40.0, 4.0), (50.0, 3.0), (60.0, None)]
    page = chart(line_chart([Series("loss", points)], "step", "loss", "Loss"))
    lines = page.all("polyline")
    assert [len(line.attributes["points"].split()) for line in lines] == [2, 2]
    crosses = page.with_class("cross")
    assert [cross.children[0].text for cross in crosses] == [
        "loss is not finite at 30",
        "loss is not finite at 60",
    ]
    assert page.with_class("legend") == []
    (svg,) = page.all("svg")
    assert svg.attributes["role"] == "img"
    assert svg.attributes["aria-label"] == "Loss: loss 1 at 10, 3 at 50, from 1 to 4"


def test_line_charts_name_every_curve_and_tell_them_apart_by_more_than_colour() -> None:
    several = [Series(name, [(0.0, 1.0), (1.0, number)]) for number, name in enumerate("abc")]
    page = chart(line_chart(several, "step", "loss", "Loss"))
    (legend,) = page.with_class("legend")
    assert [item.text for item in legend.all("li")] == ["a", "b", "c"]
    assert len({line.attributes["class"] for line in page.all("polyline")}) == 3


def test_long_curves_stay_small() -> None:
    points = [(float(step), math.sin(step)) for step in range(1_000_000)]
    markup = line_chart([Series("loss", points)], "step", "loss", "Loss")
    assert len(markup) < 40_000
    assert len(chart(markup).all("polyline")[0].attributes["points"].split()) <= LIMIT


def test_line_charts_without_values_are_charts_still() -> None:
    page = chart(line_chart([Series("loss", [(5.0, None)])], "step", "loss", "Loss"))
    assert "loss has no values" in page.all("svg")[0].attributes["aria-label"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_histogram_bars_count_every_value_once(values: list[float]) -> None:
    page = chart(histogram(values, "Dice"))
    hints = [bar.children[0].text for bar in page.with_class("bar")]
    assert len(hints) <= BINS
    assert sum(int(hint.split(": ")[1].split()[0]) for hint in hints) == len(values)
    assert f"n {len(values)}" in spread_in_words(values)


@pytest.mark.parametrize("values", [[], [1.2], [-0.1], [math.nan]])
def test_histograms_refuse_what_is_no_score(values: list[float]) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        histogram(values, "Dice")


def test_histogram_says_median_and_quartiles() -> None:
    words = spread_in_words([0.1, 0.2, 0.3, 0.4, 0.9])
    assert words == "n 5, median 0.300, middle half from 0.200 to 0.400"


def test_intervals_show_mean_and_both_ends() -> None:
    rows = [
        Interval("mri", {"mean": 0.8, "low": 0.7, "high": 0.9}),
        Interval("ct", {"mean": 0.5, "low": None, "high": None}),
        Interval("us", {"mean": None, "low": None, "high": None}),
    ]
    page = chart(interval_chart(rows, numbers.score, "Dice"))
    label = page.all("svg")[0].attributes["aria-label"]
    assert label == "Dice: mri 0.800, 95 % interval 0.700 to 0.900; ct 0.500; us n/a"
    assert [value.text for value in page.with_class("row-value")] == ["0.800", "0.500", "n/a"]
    assert len(page.with_class("range")) == 1
    assert len(page.with_class("dot")) == 2
    assert page.with_class("zero") == []
    (bar,) = page.with_class("range")
    dot = page.with_class("dot")[0]
    x1, x2, cx = (
        float(bar.attributes["x1"]),
        float(bar.attributes["x2"]),
        float(dot.attributes["cx"]),
    )
    assert (x1 + x2) / 2 == pytest.approx(cx, abs=0.02)


def test_the_zero_line_is_in_the_middle() -> None:
    rows = [Interval("b", {"mean": 0.3, "low": 0.2, "high": 0.4})]
    page = chart(interval_chart(rows, numbers.signed_score, "Difference", zero_line=True))
    (zero,) = page.with_class("zero")
    (dot,) = page.with_class("dot")
    assert float(zero.attributes["x1"]) == WIDTH / 2 < float(dot.attributes["cx"])
    same = [Interval("b", {"mean": 0.0, "low": 0.0, "high": 0.0})]
    page = chart(interval_chart(same, numbers.signed_score, "Difference", zero_line=True))
    assert float(page.with_class("dot")[0].attributes["cx"]) == WIDTH / 2


def test_reliability_points_say_what_they_stand_for() -> None:
    curve = [
        {"low": 0.0, "high": 0.1, "pixels": 900, "probability": 0.05, "foreground": 0.02},
        {"low": 0.9, "high": 1.0, "pixels": 1, "probability": 1.0, "foreground": 1.0},
    ]
    page = chart(reliability_chart(curve, "all"))
    first, last = page.with_class("dot")
    hint = "probability 0.00 to 0.10: 900 pixels, 2.0 % of them foreground"
    assert first.children[0].text == hint
    assert float(first.attributes["r"]) > float(last.attributes["r"])
    assert (float(last.attributes["cx"]), float(last.attributes["cy"])) == (RIGHT, TOP)
    assert float(first.attributes["cx"]) == pytest.approx(LEFT + 0.05 * (RIGHT - LEFT), abs=0.01)
    assert float(first.attributes["cy"]) == pytest.approx(BOTTOM - 0.02 * (BOTTOM - TOP), abs=0.01)


def test_names_in_charts_are_escaped() -> None:
    name = '"><script>alert(1)</script>'
    for markup in (
        line_chart([Series(name, [(0.0, 1.0)]), Series("b", [])], name, name, name),
        interval_chart([Interval(name, {"mean": 1.0, "low": 0.0, "high": 2.0})], str, name),
        histogram([0.5], name),
        reliability_chart([], name),
    ):
        assert "<script" not in markup
        assert name in chart(markup).all("svg")[0].attributes["aria-label"]
