"""Small pictures of an image and its masks that a page carries inside itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from prs_med.data.overlay import overlay

SIDE = 256
"""Longest side in pixels."""
_QUALITY = 82


def image_thumbnail(image: Image.Image) -> Image.Image:
    """An RGB image with its longest side at `SIDE` pixels."""
    return image.convert("RGB").resize(thumbnail_size(image.size), Image.Resampling.LANCZOS)


def mask_thumbnail(
    image: Image.Image, mask: np.ndarray, colour: tuple[int, int, int]
) -> Image.Image:
    """:func:`image_thumbnail` with a mask over it, half transparent and with an outline.

    Args:
        image: RGB.
        mask: (H, W) bool, of the image's size.
        colour: red, green and blue from 0 to 255.

    Raises:
        ValueError: the mask is not bool or has another size than the image.
    """
    if mask.dtype != np.bool_ or mask.shape != (image.height, image.width):
        raise ValueError(
            f"a mask over an image of {image.width} x {image.height} pixels must be bool and "
            f"{(image.height, image.width)}, got {mask.dtype} and {mask.shape}"
        )
    small = image_thumbnail(image)
    area = _shrunk(mask, small.size)
    pixels = np.asarray(overlay(small, area, colour)).copy()
    # Without it an outline is lost on tissue of its own colour.
    pixels[_grown(area) & ~area] = 255
    pixels[_outline(area)] = colour
    return Image.fromarray(pixels)


def data_uri(image: Image.Image) -> str:
    """An image as a ``data:`` address, as WebP."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height with the longer at `SIDE` and the other at least one pixel."""
    scale = SIDE / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def _shrunk(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask at another width and height; one that is not empty does not become so."""
    levels = Image.fromarray(mask.astype(np.uint8) * 255)
    resized = np.asarray(levels.resize(size, Image.Resampling.BOX))
    # Pillow rounds a share of a large image's pixel to nothing; its place must still show.
    if mask.any() and not resized.any():
        row, column = (int(places[0]) for places in np.nonzero(mask))
        area = np.zeros(resized.shape, dtype=bool)
        area[row * size[1] // mask.shape[0], column * size[0] // mask.shape[1]] = True
        return area
    area = resized > 127
    return area if area.any() else resized > 0


def _outline(area: np.ndarray) -> np.ndarray:
    """The outermost two pixels of an area, (H, W) bool."""
    return area & ~_eroded(_eroded(area))


def _eroded(area: np.ndarray) -> np.ndarray:
    return ~_grown(~area, outside=True)


def _grown(area: np.ndarray, outside: bool = False) -> np.ndarray:
    """The area and its neighbours; ``outside`` says whether what lies beyond the image is in it."""
    padded = np.pad(area, 1, constant_values=outside)
    return area | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
