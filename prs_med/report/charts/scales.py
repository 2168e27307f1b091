"""From numbers to places in a drawing, and where an axis has its ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# Values closer together than this share of their size count as one value.
_SAME = 1e-9
# From this ratio of largest to smallest on, small values would lie on the axis.
_WIDE_RATIO = 30


@dataclass(frozen=True)
class Scale:
    """A straight or logarithmic axis."""

    low: float
    """The number at the axis' start."""
    high: float
    """The number at its end, larger than ``low``."""
    start: float
    """Where the axis starts in the drawing."""
    end: float
    """Where it ends; smaller than ``start`` for an axis that points up."""
    log: bool = False
    """Equal ratios, not differences, have equal lengths; ``low`` is positive then."""

    def place(self, value: float) -> float:
        """Where a number lies in the drawing."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers on the axis, some ``about`` of them, in order."""
        return _log_ticks(self, about) if self.log else _even_ticks(self, about)


def scale_for(
    values: Iterable[float], start: float, end: float, *, log: bool = False, about: int = 5
) -> Scale:
    """An axis from a round number below all values to one above them.

    Args:
        values: finite numbers; on a logarithmic axis positive. Without any, 0 to 1 is shown.
        start, end: the axis in the drawing.
        log: make it logarithmic.
        about: how many ticks it will have.
    """
    known = list(values)
    if not known:
        return Scale(0.0, 1.0, start, end)
    low, high = min(known), max(known)
    if log:
        return Scale(_round_down(low), _round_up(high), start, end, log=True)
    if high - low <= _SAME * max(abs(low), abs(high)):
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = _round_step((high - low) / about)
    return Scale(math.floor(low / step) * step, math.ceil(high / step) * step, start, end)


def wants_log(values: Iterable[float]) -> bool:
    """Whether values are all positive and range so widely that a straight axis hides the small."""
    known = list(values)
    return bool(known) and min(known) > 0 and max(known) / min(known) > _WIDE_RATIO


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50 and so on (and 0.5, 0.2, ...) that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(
        (factor * power for factor in (1, 2, 5) if factor * power >= least * (1 - _SAME)),
        10 * power,
    )


def _even_ticks(scale: Scale, about: int) -> list[float]:
    step = _round_step((scale.high - scale.low) / about)
    first = math.ceil(scale.low / step - 1e-6)
    last = math.floor(scale.high / step + 1e-6)
    # Rounding keeps 0.30000000000000004 off the axis.
    digits = 12 - math.floor(math.log10(max(abs(scale.low), abs(scale.high))))
    return [round(number * step, digits) for number in range(first, last + 1)]


def _log_ticks(scale: Scale, about: int) -> list[float]:
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    inside = [
        factor * 10.0**power
        for power in range(first, last + 1)
        for factor in (1, 2, 5)
        if scale.low * (1 - _SAME) <= factor * 10.0**power <= scale.high * (1 + _SAME)
    ]
    if len(inside) <= about + 2:
        return inside
    every = math.ceil((last - first) / about)
    powers = [10.0**power for power in range(first, last + 1) if power % every == 0]
    return [tick for tick in powers if scale.low * (1 - _SAME) <= tick <= scale.high * (1 + _SAME)]


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(
        (factor * power for factor in (1, 2, 5) if factor * power <= value), default=power / 2
    )


def _round_up(value: float) -> float:
    low = _round_down(value)
    power = 10.0 ** math.floor(math.log10(low) + _SAME)
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power > low * 1.01)
