"""Whether what is called likely comes true that often."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from prs_med.report import numbers
from prs_med.report.charts import svg
from prs_med.report.charts.frame import BOTTOM, LEFT, RIGHT, TOP, Frame, framed
from prs_med.report.charts.scales import Scale

_SMALLEST, _LARGEST = 2.5, 7.0


def reliability_chart(curve: Sequence[Mapping[str, Any]], name: str) -> Markup:
    """Share of foreground over mean probability, a point for each bin, larger with more pixels.

    Args:
        curve: points with ``low``, ``high``, ``pixels``, ``probability`` and ``foreground``.
        name: of what the pixels are.
    """
    frame = Frame(
        Scale(0.0, 1.0, LEFT, RIGHT),
        Scale(0.0, 1.0, BOTTOM, TOP),
        "predicted probability",
        "share that is foreground",
    )
    diagonal = svg.line(LEFT, BOTTOM, RIGHT, TOP, class_="ideal")
    hint = svg.text(RIGHT - 62, TOP + 16, "ideal", text_anchor="end", class_="mark-name")
    places = [
        (frame.x.place(point["probability"]), frame.y.place(point["foreground"])) for point in curve
    ]
    path = svg.element(
        "polyline",
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places),
        class_="curve series-0",
    )
    most = max((point["pixels"] for point in curve), default=1)
    dots = [_dot(place, point, most) for place, point in zip(places, curve, strict=True)]
    title = f"Reliability curve of {name}: {numbers.counted(len(curve), 'point')}"
    return framed(frame, title, [diagonal, hint, path, *dots])


def _dot(place: tuple[float, float], point: Mapping[str, Any], most: int) -> Markup:
    # Nearly all pixels are certain background: by area alone the others could not be seen.
    share = math.log1p(point["pixels"]) / math.log1p(most)
    hint = (
        f"probability {point['low']:.2f} to {point['high']:.2f}: "
        f"{numbers.counted(point['pixels'], 'pixel')}, {numbers.percent(point['foreground'])} "
        "of them foreground"
    )
    return svg.element(
        "circle",
        svg.element("title", hint),
        cx=place[0],
        cy=place[1],
        r=_SMALLEST + share * (_LARGEST - _SMALLEST),
        class_="dot series-0",
    )
