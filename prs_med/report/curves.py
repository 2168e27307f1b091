"""Curves out of the lines of ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prs_med.report.charts.lines import Series

_NOT_CURVES = frozenset({"step", "epoch", "val_samples"})


def curve(rows: Iterable[Mapping[str, Any]], name: str) -> Series:
    """One number over the steps.

    A run that was killed goes on from its last checkpoint and writes some steps again. What was
    written later counts, and what had been written beyond that step is dropped.

    Args:
        rows: in the order of the file, each with ``step``; those without ``name`` do not matter.
        name: of the number; a value of None is a gap.
    """
    points: list[tuple[float, float | None]] = []
    for row in rows:
        if name not in row:
            continue
        while points and points[-1][0] >= row["step"]:
            points.pop()
        points.append((row["step"], row[name]))
    return Series(name, points)


def curve_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of all numbers in the rows, in the order in which they first appear."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(
            dict.fromkeys(
                name
                for name, value in row.items()
                if name not in _NOT_CURVES and (value is None or _is_number(value))
            )
        )
    return list(names)


def gaps(one: Series) -> list[int]:
    """Steps at which a number was not finite."""
    return [round(step) for step, value in one.points if value is None]


def last_value(one: Series) -> float | None:
    """The value at the last step that has one."""
    return next((value for _, value in reversed(one.points) if value is not None), None)


def highest(one: Series) -> tuple[int, float] | None:
    """Step and value of the first highest point."""
    known = [(value, -step) for step, value in one.points if value is not None]
    if not known:
        return None
    value, step = max(known)
    return round(-step), value


def present(series: Sequence[Series]) -> list[Series]:
    """Those that have points, gaps included."""
    return [one for one in series if one.points]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
