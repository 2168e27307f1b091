"""Masks drawn over images."""

from __future__ import annotations

import numpy as np
from PIL import Image

TRUTH_COLOUR = (46, 160, 67)
PREDICTION_COLOUR = (217, 72, 15)
_BAND = 256
"""Rows that are drawn at once."""


def overlay(image: Image.Image, mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """An RGB image with half of the colour where ``mask``, (H, W) bool, is True."""
    pixels = np.array(image)
    for top in range(0, image.height, _BAND):
        # All at once, the numbers between would take gigabytes for a large image.
        band, area = pixels[top : top + _BAND], mask[top : top + _BAND]
        band[area] = (band[area].astype(np.uint16) + np.array(colour, np.uint16)) // 2
    return Image.fromarray(pixels)


def fitted(image: Image.Image, side: int) -> Image.Image:
    """An image as large as it can be in the middle of a grey square."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    square = Image.new("RGB", (side, side), (238, 238, 238))
    square.paste(image.resize(size), ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
