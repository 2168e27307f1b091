"""How a score is spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from prs_med.report import numbers
from prs_med.report.charts import svg
from prs_med.report.charts.frame import BOTTOM, LEFT, RIGHT, TOP, Frame, framed
from prs_med.report.charts.scales import Scale, scale_for

BINS = 20


def histogram(values: Sequence[float], name: str) -> Markup:
    """Bars of how many values, each from 0 to 1, lie in each of 20 ranges, and their median.

    Raises:
        ValueError: there is no value, or one is not from 0 to 1.
    """
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError("a histogram needs values from 0 to 1")
    counts, edges = np.histogram(values, bins=BINS, range=(0, 1))
    frame = Frame(
        Scale(0.0, 1.0, LEFT, RIGHT),
        scale_for([0, int(counts.max())], BOTTOM, TOP, about=min(5, int(counts.max()))),
        name,
        "questions",
    )
    bars = [
        _bar(frame, float(low), float(high), int(count))
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    ]
    return framed(
        frame, f"Histogram of {name}: {spread_in_words(values)}", [*bars, _median(frame, values)]
    )


def spread_in_words(values: Sequence[float]) -> str:
    """Number, median and quartiles of values from 0 to 1, of which there is at least one."""
    low, middle, high = (float(part) for part in np.quantile(values, [0.25, 0.5, 0.75]))
    return (
        f"n {numbers.count(len(values))}, median {numbers.score(middle)}, middle half from "
        f"{numbers.score(low)} to {numbers.score(high)}"
    )


def _bar(frame: Frame, low: float, high: float, count: int) -> Markup:
    left, right, top = frame.x.place(low), frame.x.place(high), frame.y.place(count)
    hint = f"{low:.2f} to {high:.2f}: {numbers.counted(count, 'question')}"
    return svg.element(
        "rect",
        svg.element("title", hint),
        x=left + 0.75,
        y=top,
        width=right - left - 1.5,
        height=BOTTOM - top,
        class_="bar",
    )


def _median(frame: Frame, values: Sequence[float]) -> Markup:
    median = statistics.median(values)
    place = frame.x.place(median)
    name = f"dashed: median {numbers.score(median)}"
    return svg.line(place, TOP, place, BOTTOM, class_="mark") + svg.text(
        RIGHT, 11, name, text_anchor="end", class_="mark-name"
    )
