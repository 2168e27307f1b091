"""Curves over training steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prs_med.report import numbers
from prs_med.report.charts import svg
from prs_med.report.charts.frame import BOTTOM, LEFT, RIGHT, TOP, Frame, framed
from prs_med.report.charts.scales import Scale, scale_for, wants_log
from prs_med.report.charts.thinning import Point, thinned

LIMIT = 1000
"""Most points drawn of a curve."""
STYLES = 6
"""Curves with looks of their own."""
_WITH_DOTS = 40


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    points: Sequence[Point]
    """By place, each place once."""


def line_chart(
    series: Sequence[Series], x_name: str, y_name: str, title: str, *, may_be_log: bool = False
) -> Markup:
    """Curves with axes and, for two or more, a legend.

    A place without a value is a gap in the curve and a cross at the foot of the chart.

    Args:
        series: the curves; of each at most `LIMIT` points are drawn.
        x_name, y_name: names of the axes.
        title: in words what the chart shows.
        may_be_log: make the y axis logarithmic where values are positive and range widely.
    """
    drawn = [Series(one.name, thinned(one.points, LIMIT)) for one in series]
    values = [value for one in drawn for _, value in one.points if value is not None]
    places = [place for one in drawn for place, _ in one.points]
    frame = Frame(
        _x_scale(places),
        scale_for(values, BOTTOM, TOP, log=may_be_log and wants_log(values)),
        x_name,
        y_name,
    )
    curves = [
        part for number, one in enumerate(drawn) for part in _curve(frame, one, _style(number))
    ]
    chart = framed(frame, f"{title}: {'; '.join(map(_in_words, series))}", curves)
    return chart + _legend([one.name for one in series]) if len(series) > 1 else chart


def ends_in_words(series: Sequence[Series]) -> str:
    """First and last value of each curve."""
    return "; ".join(_ends(one) for one in series)


def _ends(one: Series) -> str:
    known = [value for _, value in one.points if value is not None]
    if not known:
        return f"{one.name} has no values"
    return f"{one.name} {numbers.short(known[0])} to {numbers.short(known[-1])}"


def _in_words(one: Series) -> str:
    known = [(place, value) for place, value in one.points if value is not None]
    if not known:
        return f"{one.name} has no values"
    (first, begins), (last, ends) = known[0], known[-1]
    values = [value for _, value in known]
    return (
        f"{one.name} {numbers.short(begins)} at {first:.0f}, {numbers.short(ends)} at {last:.0f}, "
        f"from {numbers.short(min(values))} to {numbers.short(max(values))}"
    )


def _x_scale(places: Sequence[float]) -> Scale:
    if not places or min(places) == max(places):
        return scale_for(places, LEFT, RIGHT)
    return Scale(min(0.0, *places), max(places), LEFT, RIGHT)


def _style(number: int) -> str:
    return f"series-{number % STYLES}"


def _curve(frame: Frame, one: Series, style: str) -> Iterator[Markup]:
    for stretch in _stretches(one.points):
        places = [(frame.x.place(x), frame.y.place(y)) for x, y in stretch]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield svg.element("polyline", points=path, class_=f"curve {style}")
        if len(places) == 1 or len(one.points) <= _WITH_DOTS:
            for (x, y), (place, value) in zip(places, stretch, strict=True):
                yield _dot(x, y, f"{one.name} {numbers.short(value)} at {place:.0f}", style)
    for place in (place for place, value in one.points if value is None):
        yield _cross(frame.x.place(place), f"{one.name} is not finite at {place:.0f}", style)


def _stretches(points: Sequence[Point]) -> Iterator[list[tuple[float, float]]]:
    """The runs of points between gaps."""
    run: list[tuple[float, float]] = []
    for place, value in points:
        if value is not None:
            run.append((place, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _dot(x: float, y: float, hint: str, style: str) -> Markup:
    title = svg.element("title", hint)
    return svg.element("circle", title, cx=x, cy=y, r=2.5, class_=f"dot {style}")


def _cross(x: float, hint: str, style: str) -> Markup:
    y = BOTTOM - 5
    path = f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"
    return svg.element("path", svg.element("title", hint), d=path, class_=f"cross {style}")


def _legend(names: Sequence[str]) -> Markup:
    items = Markup("").join(
        svg.element("li", _swatch(_style(number)), name) for number, name in enumerate(names)
    )
    return svg.element("ul", items, class_="legend")


def _swatch(style: str) -> Markup:
    return svg.element(
        "svg",
        svg.line(0, 5, 26, 5, class_=f"curve {style}"),
        viewBox="0 0 26 10",
        class_="swatch",
        aria_hidden="true",
    )
