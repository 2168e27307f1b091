"""Means and differences with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from prs_med.report import numbers
from prs_med.report.charts import svg
from prs_med.report.charts.frame import WIDTH
from prs_med.report.charts.scales import Scale, scale_for

_ROW = 36
_LEFT, _RIGHT = 10.0, WIDTH - 10.0
_FOOT = 24
_NAME_CHARACTERS = 26


@dataclass(frozen=True)
class Interval:
    """A row of the chart."""

    name: str
    summary: dict[str, Any]
    """``mean``, ``low`` and ``high``, each a number or None."""


def interval_chart(
    rows: Sequence[Interval],
    show: Callable[[float | None], str],
    title: str,
    *,
    mark: Callable[[float], str] = numbers.short,
    zero_line: bool = False,
) -> Markup:
    """A dot for each mean and a bar for its interval, each under its name.

    Args:
        rows: from top to bottom; None as a mean is written out as missing.
        show: how a value is written.
        title: in words what the chart shows.
        mark: how a tick of the axis is written.
        zero_line: mark where there is no difference, in the middle.
    """
    known = [
        value
        for row in rows
        for value in (row.summary["mean"], row.summary["low"], row.summary["high"])
        if value is not None
    ]
    if zero_line and known:
        furthest = max(map(abs, known)) or 1.0
        known = [-furthest, furthest]
    scale = scale_for(known, _LEFT, _RIGHT, about=4)
    foot = _ROW * len(rows) + 6.0
    content = [
        _ticks(scale, foot, mark),
        *([_zero(scale, foot)] if zero_line else []),
        *(_row(row, scale, _ROW * number, show) for number, row in enumerate(rows)),
    ]
    words = "; ".join(f"{row.name} {_in_words(row, show)}" for row in rows)
    return svg.drawing(WIDTH, foot + _FOOT, f"{title}: {words}", *content)


def interval_strip(summary: dict[str, Any], title: str) -> Markup:
    """A small bar from 0 to 1 with a mean and its interval, for a figure beside it."""
    width = 200.0
    scale = Scale(0.0, 1.0, 4.0, width - 4)
    parts = [svg.line(4, 7, width - 4, 7, class_="track")]
    if summary["low"] is not None and summary["high"] is not None:
        ends = scale.place(summary["low"]), scale.place(summary["high"])
        parts.append(svg.line(ends[0], 7, ends[1], 7, class_="range"))
    if summary["mean"] is not None:
        parts.append(
            svg.element("circle", cx=scale.place(summary["mean"]), cy=7, r=4, class_="dot")
        )
    return svg.drawing(width, 14, title, *parts)


def _row(row: Interval, scale: Scale, top: float, show: Callable[[float | None], str]) -> Markup:
    name = svg.element(
        "text",
        svg.element("title", row.name),
        svg.shortened(row.name, _NAME_CHARACTERS),
        x=_LEFT,
        y=top + 14.0,
        class_="row-name",
    )
    value = svg.text(
        _RIGHT, top + 14, show(row.summary["mean"]), text_anchor="end", class_="row-value"
    )
    y = top + 25
    track = svg.line(_LEFT, y, _RIGHT, y, class_="grid")
    mean, low, high = row.summary["mean"], row.summary["low"], row.summary["high"]
    if mean is None:
        return name + value + track
    dot = svg.element(
        "circle",
        svg.element("title", _in_words(row, show)),
        cx=scale.place(mean),
        cy=y,
        r=4.5,
        class_="dot series-0",
    )
    if low is None or high is None:
        return name + value + track + dot
    bar = svg.line(scale.place(low), y, scale.place(high), y, class_="range")
    return name + value + track + bar + dot


def _in_words(row: Interval, show: Callable[[float | None], str]) -> str:
    mean, low, high = row.summary["mean"], row.summary["low"], row.summary["high"]
    if mean is None or low is None or high is None:
        return show(mean)
    return f"{show(mean)}, 95 % interval {show(low)} to {show(high)}"


def _ticks(scale: Scale, foot: float, mark: Callable[[float], str]) -> Markup:
    return Markup("").join(
        svg.line(place, 18, place, foot, class_="grid")
        + svg.text(place, foot + 15, mark(tick), text_anchor=_anchor(place))
        for tick in scale.ticks(4)
        for place in [scale.place(tick)]
    )


def _anchor(place: float) -> str:
    """Labels at the ends stay inside the drawing."""
    if place <= _LEFT + 8:
        return "start"
    return "end" if place >= _RIGHT - 8 else "middle"


def _zero(scale: Scale, foot: float) -> Markup:
    place = scale.place(0.0)
    return svg.line(place, 18, place, foot, class_="zero")
