"""Axes with ticks and names around a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prs_med.report import numbers
from prs_med.report.charts import svg
from prs_med.report.charts.scales import Scale

WIDTH = 360
HEIGHT = 220
LEFT, RIGHT = 46.0, 350.0
TOP, BOTTOM = 22.0, 180.0


@dataclass(frozen=True)
class Frame:
    """Where a chart's numbers lie, from `LEFT` to `RIGHT` and from `BOTTOM` up to `TOP`."""

    x: Scale
    y: Scale
    x_name: str
    y_name: str


def framed(frame: Frame, title: str, content: Sequence[Markup]) -> Markup:
    """A chart with its axes; ``title`` says in words what it shows."""
    return svg.drawing(
        WIDTH,
        HEIGHT,
        title,
        _horizontal_lines(frame.y),
        _feet(frame.x),
        _names(frame),
        *content,
    )


def _horizontal_lines(scale: Scale) -> Markup:
    return Markup("").join(
        svg.line(LEFT, place, RIGHT, place, class_="grid")
        + svg.text(LEFT - 6, place + 3.5, numbers.short(tick), text_anchor="end")
        for tick in scale.ticks()
        for place in [scale.place(tick)]
    )


def _feet(scale: Scale) -> Markup:
    axis = svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, class_="axis")
    return axis + Markup("").join(
        svg.line(place, BOTTOM, place, BOTTOM + 4, class_="axis")
        + svg.text(place, BOTTOM + 16, numbers.short(tick), text_anchor="middle")
        for tick in scale.ticks()
        for place in [scale.place(tick)]
    )


def _names(frame: Frame) -> Markup:
    y_name = f"{frame.y_name} (log scale)" if frame.y.log else frame.y_name
    return svg.text(LEFT - 38, 11, y_name, class_="axis-name") + svg.text(
        RIGHT, HEIGHT - 6, frame.x_name, text_anchor="end", class_="axis-name"
    )
