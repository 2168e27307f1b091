"""Where a structure lies in an image, by the rule that wrote the data set's answers.

The rule looks at the bounding box of the mask (first and last covered row and column, both
included) and at the image centre ``(width // 2, height // 2)``:

* a box that spans the image centre on both axes is in the ``center``, and is near the centre by
  definition, however far its own middle lies from it;
* any other box is ``top`` or ``bottom`` and ``left`` or ``right`` by its middle, a tie counting as
  bottom and as right; it is near the centre when its middle is less than 0.2 image widths away.

Left and right are those of the image as displayed, not the patient's: flipping an image changes
its position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ZONES = ("center", "top left", "top right", "bottom left", "bottom right")
"""The zones an answer can name."""

NEAR_CENTER_WIDTHS = 0.2
"""An off-centre box is near the centre below this distance, in image widths."""


@dataclass(frozen=True)
class Position:
    """A zone of the image and whether it is near the centre.

    Raises:
        ValueError: the zone is none of `ZONES`, or the centre is said not to be near the centre.
    """

    zone: str
    near_center: bool

    def __post_init__(self) -> None:
        if self.zone not in ZONES:
            raise ValueError(f"unknown zone {self.zone!r}: use one of {', '.join(ZONES)}")
        if self.zone == "center" and not self.near_center:
            raise ValueError("zone 'center' is near the centre by definition")


def position_of(mask: np.ndarray) -> Position:
    """Apply the rule to a mask.

    Args:
        mask: (H, W); nonzero or True where the structure is.

    Raises:
        ValueError: the mask is not two-dimensional, or it is empty.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions (H, W), this one has shape {mask.shape}")
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise ValueError("the mask is empty: it has no position")
    height, width = mask.shape
    center_x, center_y = width // 2, height // 2
    left, right = int(columns[0]), int(columns[-1])
    top, bottom = int(rows[0]), int(rows[-1])
    if left <= center_x <= right and top <= center_y <= bottom:
        return Position("center", near_center=True)
    box_x, box_y = (left + right) / 2, (top + bottom) / 2
    vertical = "top" if box_y < center_y else "bottom"
    horizontal = "left" if box_x < center_x else "right"
    distance = math.hypot(box_x - center_x, box_y - center_y)
    return Position(f"{vertical} {horizontal}", distance < NEAR_CENTER_WIDTHS * width)


def describe(name: str, position: Position) -> str:
    """The answer in words: "The tumor is located in the top left of the image."."""
    near = ", near the center" if position.near_center else ""
    return f"The {name} is located in the {position.zone} of the image{near}."


def position_statement(name: str, position: Position) -> str:
    """The text of the ``position`` column, which also says when the centre is far away."""
    near = "near" if position.near_center else "away from"
    return f"The position of the {name} is {position.zone} and it is {near} the center."
