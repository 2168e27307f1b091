"""The geometric steps between an image and the input of the CLIP tower."""

from __future__ import annotations

from PIL import Image

_BAND = 512
"""Rows of the square that are made at once."""


def padded_to_square(image: Image.Image, fill: tuple[int, int, int], size: int) -> Image.Image:
    """An RGB image in the middle of a square of its longer side, as LLaVA's ``expand2square`` puts
    it, scaled to `size` x `size` pixels (bicubic).

    Pillow scales rows first and columns then, so the square of a long image, which may take a
    gigabyte, is made in bands: the result is the same.
    """
    side = max(image.size)
    if image.width == image.height:
        return image.resize((size, size), Image.Resampling.BICUBIC)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    rows_scaled = Image.new("RGB", (size, side), fill)
    for start in range(0, image.height, _BAND):
        rows = image.crop((0, start, image.width, min(start + _BAND, image.height)))
        band = Image.new("RGB", (side, rows.height), fill)
        band.paste(rows, (left, 0))
        scaled = band.resize((size, rows.height), Image.Resampling.BICUBIC)
        rows_scaled.paste(scaled, (0, top + start))
    return rows_scaled.resize((size, size), Image.Resampling.BICUBIC)


def resize_shortest_edge_center_crop(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter edge to `size` (bicubic) and keep the central `size` x `size` pixels.

    Pixel for pixel what transformers' CLIPImageProcessor does with a PIL image.
    """
    short = min(image.size)
    width, height = (size if edge == short else int(size * edge / short) for edge in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return scaled.crop((left, top, left + size, top + size))
