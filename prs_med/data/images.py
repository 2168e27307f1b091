"""Decode images and masks, and the geometric steps between a file and the CLIP tower."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from prs_med.data.records import DataError

# What Pillow's decoders raise on damaged files, over the formats the data sets use.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def load_image(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB, pixels as stored (an EXIF rotation is not applied).

    16-bit grayscale is divided by 256, a fixed scale: stretching each image to its own range would
    give the same tissue another brightness in every image.

    Raises:
        DataError: the file is missing, unreadable or truncated, or holds values beyond 16 bits.
    """
    return decode_image(_bytes(path), str(path))


def decode_image(data: bytes, where: str) -> Image.Image:
    """:func:`load_image` from the bytes of a file; ``where`` names it in errors."""
    image = _decode(data, where)
    if image.mode == "F" or image.mode.startswith("I"):
        values = _wide_values(image, where)
        return Image.fromarray((values // 256).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def load_mask(path: Path) -> np.ndarray:
    """Read a mask as uint8 (H, W) of zeros and ones.

    A mask of zeros and ones counts every one. Any other is thresholded at half its range (8 or 16
    bits), so the noise that JPEG leaves around an outline does not join it. Of a colour mask the
    strongest channel counts.

    Raises:
        DataError: the file is missing, unreadable or truncated, or its values reach neither 0/1
            nor the upper half of the range, so that it would be silently empty.
    """
    return decode_mask(_bytes(path), str(path))


def decode_mask(data: bytes, where: str) -> np.ndarray:
    """:func:`load_mask` from the bytes of a file; ``where`` names it in errors."""
    image = _decode(data, where)
    if image.mode == "F" or image.mode.startswith("I"):
        values = _wide_values(image, where)
    elif image.mode in ("1", "L"):
        values = np.asarray(image.convert("L"))
        if image.mode == "1":
            values = values // 255
    else:
        values = np.asarray(image.convert("RGB")).max(axis=2)
    highest = int(values.max())
    if highest <= 1:
        return (values > 0).astype(np.uint8)
    threshold = 127 if highest <= 255 else 32767
    if highest <= threshold:
        raise DataError(
            f"{where}: mask values reach only {highest}, so nothing is foreground; "
            "save the mask with values 0 and 1, or 0 and 255"
        )
    return (values > threshold).astype(np.uint8)


def check_same_size(image: Image.Image, mask: np.ndarray, where: str) -> None:
    """Refuse an image and a mask (H, W) of different sizes; `where` names the row at fault.

    Raises:
        DataError: the sizes differ.
    """
    height, width = mask.shape
    if image.size != (width, height):
        raise DataError(
            f"{where}: the image is {image.width} x {image.height} pixels and its mask "
            f"{width} x {height}; they must have the same size"
        )


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


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
"""Whatever a file is called: of others, Pillow hands PostScript to Ghostscript, which runs it."""


def _decode(data: bytes, where: str) -> Image.Image:
    # Another library may have told Pillow to fill missing pixels with grey; a model would then
    # train on them without a word.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            return image
    except _DECODE_ERRORS as error:
        raise DataError(
            f"{where}: not a readable image ({error}); replace the file or remove its rows"
        ) from error


def _wide_values(image: Image.Image, where: str) -> np.ndarray:
    """The pixels of a 16-bit image; wider types have no scale to reduce them by."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise DataError(f"{where}: pixels wider than 16 bits; save the file as 8 or 16 bits")
    return values
