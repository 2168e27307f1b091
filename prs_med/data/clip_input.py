"""The geometric steps between an image and the input of the CLIP tower."""

from __future__ import annotations

from PIL import Image


def pad_to_square(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Centre an RGB image on a square of its longer side, as LLaVA's ``expand2square`` does."""
    side = max(image.size)
    if image.width == image.height:
        return image
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def resize_shortest_edge_center_crop(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter edge to `size` (bicubic) and keep the central `size` x `size` pixels.

    Pixel for pixel what transformers' CLIPImageProcessor does with a PIL image.
    """
    short = min(image.size)
    width, height = (size if edge == short else int(size * edge / short) for edge in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return scaled.crop((left, top, left + size, top + size))
