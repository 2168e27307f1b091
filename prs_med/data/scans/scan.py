"""A scan in memory: slices as they are shown, and what is known of where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prs_med.data.scans.dicom_file import Frame
from prs_med.data.scans.grid import Grid
from prs_med.data.scans.patient import Patient
from prs_med.data.scans.window import Window

_NOBODY: Mapping[str, str] = {}


@dataclass(frozen=True)
class Scan:
    """N slices of H × W pixels."""

    path: Path
    """The file or folder that was read."""

    pixels: np.ndarray
    """(N, H, W) float32 in the scan's own units, such as Hounsfield units, NaN where nothing was
    scanned (DICOM's padding); or (N, H, W, 3) uint8 RGB."""

    grid: Grid | None
    """Of the array (N, H, W); None where the scan does not say where it lies."""

    stored_grid: Grid | None = None
    """Of a NIfTI file: of the array as stored."""

    frames: tuple[Frame, ...] = ()
    """Of a DICOM scan: where each slice was read."""

    window: Window | None = None
    """The window that a DICOM scan asks for."""

    inverted: bool = False
    """Low values are bright: MONOCHROME1 of DICOM PS3.3 C.7.6.3.1.2."""

    patient: Patient = field(default_factory=lambda: Patient("", _NOBODY))
    """Whom a DICOM scan is of."""

    burned_in: bool = False
    """The scan says that its pixels show text that identifies the patient (DICOM PS3.3 C.7.6.1)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        slices, height, width = self.pixels.shape[:3]
        return slices, height, width

    def picture(self, number: int, window: Window) -> np.ndarray:
        """Slice ``number`` as (H, W) uint8 through a window, or (H, W, 3) uint8 as it is."""
        values = self.pixels[number]
        if values.ndim == 3:
            return values
        shown = window.apply(values)
        if self.inverted:
            shown = 255 - shown
            shown[np.isnan(values)] = 0
        return shown
