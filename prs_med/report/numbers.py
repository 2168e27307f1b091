"""Numbers as people read them; the same in every page and table."""

from __future__ import annotations

import math

NOT_AVAILABLE = "n/a"


def score(value: float | None) -> str:
    """A score from 0 to 1 with three decimals."""
    return NOT_AVAILABLE if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share from 0 to 1 as percent with one decimal."""
    return NOT_AVAILABLE if value is None else f"{100 * value:.1f} %"


def pixels(value: float | None) -> str:
    """A distance in pixels with one decimal."""
    return NOT_AVAILABLE if value is None else f"{value:.1f} px"


def signed_score(value: float | None) -> str:
    """A difference of two scores, with its sign."""
    return NOT_AVAILABLE if value is None else _signed(value, 3)


def signed_points(value: float | None) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return NOT_AVAILABLE if value is None else f"{_signed(100 * value, 1)} points"


def signed_pixels(value: float | None) -> str:
    """A difference of two distances, with its sign."""
    return NOT_AVAILABLE if value is None else f"{_signed(value, 1)} px"


def count(value: int) -> str:
    """A whole number with commas between the thousands."""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """A whole number with what it counts: "1 question", "2 questions"."""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")


def short(value: float) -> str:
    """A number of any size in a few characters, for axes: 0.25, 120, 15k, 2M, 1e-5."""
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    # From here on four digits would round up to five.
    for least, unit, suffix in ((999_950_000, 1e9, "G"), (999_950, 1e6, "M"), (9999.5, 1e3, "k")):
        if size >= least:
            return f"{value / unit:.4g}{suffix}"
    return f"{value:.4g}"


def percent_mark(value: float) -> str:
    """A share from 0 to 1 in a few characters, as percent without the sign for it, for axes."""
    return short(round(100 * value, 9))


def plain(value: object) -> str:
    """A setting or other value as it is: words for yes, no and nothing, numbers without noise."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value)


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]
