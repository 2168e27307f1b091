"""Pictures of an answer: the mask on its image, alone and beside the truth."""

from __future__ import annotations

import numpy as np
from PIL import Image

from prs_med.data.overlay import PREDICTION_COLOUR, TRUTH_COLOUR, overlay

MARGIN = 10
_UNKNOWN_COLOUR = (238, 238, 238)


def draw_overlay(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image with the predicted mask, (H, W) bool, in the image's own size."""
    return overlay(image, mask, PREDICTION_COLOUR)


def draw_triplet(image: Image.Image, truth: np.ndarray | None, mask: np.ndarray) -> Image.Image:
    """Image, true mask and predicted mask side by side in the image's own size.

    ``truth`` and ``mask`` are (H, W) bool; without a truth its place stays grey.
    """
    sheet = Image.new("RGB", (3 * image.width + 2 * MARGIN, image.height), "white")
    middle = (
        Image.new("RGB", image.size, _UNKNOWN_COLOUR)
        if truth is None
        else overlay(image, truth, TRUTH_COLOUR)
    )
    for column, tile in enumerate((image, middle, draw_overlay(image, mask))):
        sheet.paste(tile, (column * (image.width + MARGIN), 0))
    return sheet
