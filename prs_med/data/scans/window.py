"""Which values of a scan become black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prs_med.checked_settings import SettingError

PRESETS: dict[str, tuple[float, float]] = {
    "lung": (-600, 1500),
    "soft_tissue": (40, 400),
    "brain": (40, 80),
    "bone": (400, 1800),
    "mediastinum": (50, 350),
}
"""Centre and width in Hounsfield units, as CT viewers commonly offer them."""

AUTO = "auto"
PERCENTILES = (0.5, 99.5)
"""Of all values of a volume; what ``auto`` shows of a scan that names no window."""


@dataclass(frozen=True)
class Window:
    """Values from ``low`` (black) to ``high`` (white), in the units of the scan."""

    low: float
    high: float

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape as uint8 of the same shape: a straight ramp, rounded to the nearest.
        NaN, where nothing was scanned, is black.

        A window without width divides black (up to ``low``) from white.
        """
        values = np.asarray(values, np.float32)
        if self.high <= self.low:
            return np.where(values > self.low, np.uint8(255), np.uint8(0))
        shares = (values - np.float32(self.low)) / np.float32(self.high - self.low)
        return np.rint(np.nan_to_num(np.clip(shares, 0, 1)) * 255).astype(np.uint8)


def exact(center: float, width: float) -> Window:
    """The values within half a width of the centre: LINEAR_EXACT of DICOM PS3.3 C.11.2.1.3.2."""
    return Window(center - width / 2, center + width / 2)


def linear(center: float, width: float) -> Window:
    """LINEAR of DICOM PS3.3 C.11.2.1.2.1, which a scan means where it names no function: it counts
    whole grey values, so black and white begin half a value further in."""
    return Window(center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def parse_window(text: str) -> Window | None:
    """The window that ``--window`` names; None for ``auto``.

    Raises:
        SettingError: it is neither ``auto``, nor a preset, nor a centre and a width.
    """
    if text == AUTO:
        return None
    if text in PRESETS:
        return exact(*PRESETS[text])
    try:
        center, width = (float(part) for part in text.split(","))
    except ValueError:
        center = width = np.nan
    if not (np.isfinite(center) and np.isfinite(width) and width > 0):
        raise SettingError(
            f"--window {text}: allowed are {AUTO}, {', '.join(PRESETS)}, or CENTER,WIDTH with a "
            "width above 0, such as 40,400"
        )
    return exact(center, width)


def own_window(pairs: Sequence[tuple[float, float, str] | None]) -> Window | None:
    """The window that a DICOM scan asks for.

    Args:
        pairs: of each slice the first window centre and width, and the name of the function.

    Returns:
        None if slices name none, one without a width, a curve instead of a ramp, or different ones:
        one tissue must have one brightness in all slices.
    """
    first = pairs[0]
    if first is None or any(pair != first for pair in pairs):
        return None
    center, width, function = first
    if function == "LINEAR_EXACT" and width > 0:
        return exact(center, width)
    return linear(center, width) if function == "LINEAR" and width >= 1 else None


def percentile_window(values: np.ndarray) -> Window:
    """From the 0.5 to the 99.5 percentile of a whole volume, so that single bright voxels do not
    darken the rest. What is NaN, where nothing was scanned, does not count."""
    outside = np.isnan(values)
    if outside.any():
        values = values[~outside]
    if not values.size:
        return Window(0, 1)
    low, high = np.percentile(values, PERCENTILES)
    return Window(float(low), float(high))
