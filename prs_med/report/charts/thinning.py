"""Fewer points for the same curve."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float | None]
"""Place and value; None where there is none, a gap in the curve."""


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most ``limit`` of the points, in order, that draw the same curve.

    The first and the last point stay. Of every stretch between them stay its lowest and its
    highest point and, where there are any, its first gap; so no peak and no gap is lost.

    Raises:
        ValueError: fewer than five points are allowed.
    """
    if limit < 5:
        raise ValueError(f"a curve needs five points or more, got a limit of {limit}")
    if len(points) <= limit:
        return list(points)
    inner = range(1, len(points) - 1)
    stretches = (limit - 2) // 3
    kept = {0, len(points) - 1}
    for number in range(stretches):
        stretch = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        kept.update(_telling(points, stretch))
    return [points[index] for index in sorted(kept)]


def _telling(points: Sequence[Point], stretch: range) -> set[int]:
    """Indices of the extremes and the first gap."""
    values = [(value, index) for index in stretch if (value := points[index][1]) is not None]
    gaps = (index for index in stretch if points[index][1] is None)
    extremes = {min(values)[1], max(values)[1]} if values else set()
    first_gap = next(gaps, None)
    return extremes if first_gap is None else extremes | {first_gap}
