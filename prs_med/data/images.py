"""Decode images and masks: one set of rules for every program, wherever the pixels come from.

What a conversion would drop is an error: transparency, other pages, other classes, bits.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from prs_med.data.mask_levels import foreground_of_colours, foreground_of_greys
from prs_med.data.picture_file import (
    Picture,
    converted,
    is_wide,
    opacity,
    open_picture,
    shown_picture,
)
from prs_med.data.records import DataError
from prs_med.mask_classes import MaskClass

_ORIENTATION = "prs_med orientation"
_LOSSY = ("JPEG", "JPEG2000", "WEBP")
_USED_SHARE = 4
"""Of 16 bits, values must reach this part of the range: less is what 12 or 14 bits are, and would
be black or nearly so."""
_SHOWN = 10


def load_image(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB, turned as a viewer shows it (by its EXIF orientation).

    16 bits are divided by 256, a fixed scale: stretching each image to its own range would give the
    same tissue another brightness in every image.

    Raises:
        DataError: the file is missing, unreadable, too large or truncated, has transparent pixels
            or several pages, or holds values beyond 16 bits, or of so few that it would be black.
    """
    return decode_image(read_bytes(path), str(path))


def decode_image(data: bytes, where: str) -> Image.Image:
    """:func:`load_image` from the bytes of a file; ``where`` names it in errors."""
    return _rgb(open_picture(data, where), where)


def as_rgb(image: Image.Image, where: str) -> Image.Image:
    """:func:`load_image` from an image that Pillow has opened, or that was made in memory."""
    return _rgb(shown_picture(image, where), where)


def load_mask(path: Path, chosen: MaskClass | None = None) -> np.ndarray:
    """Read a mask as uint8 (H, W) of zeros and ones.

    A mask of zeros and ones counts every one. Any other is thresholded at half its range (8 or 16
    bits), so the noise that JPEG leaves around an outline does not join it. Of a colour mask the
    strongest channel counts; of a palette, its colours.

    Args:
        path: the file.
        chosen: the class that counts, in a mask with a number for each class. There, the numbers
            of a palette's colours count, not the colours.

    Raises:
        DataError: the file is missing, unreadable or truncated; its values reach neither 0/1 nor
            the upper half of the range, so that it would be silently empty; it has more than two
            levels, or without ``chosen`` several classes; what is transparent is not what is
            background; or it is stored turned, and a viewer shows it otherwise.
    """
    return decode_mask(read_bytes(path), str(path), chosen)


def decode_mask(data: bytes, where: str, chosen: MaskClass | None = None) -> np.ndarray:
    """:func:`load_mask` from the bytes of a file; ``where`` names it in errors."""
    picture = _mask_picture(data, where)
    if chosen is not None:
        values = _numbers(picture.image, where)
        check_classes(np.unique(values), chosen.known, where)
        return (values == chosen.value).astype(np.uint8)
    mask = _foreground(picture.image, where)
    opaque = opacity(picture.image, where)
    if opaque is not None and not np.array_equal(mask, opaque > 127):
        raise DataError(
            f"{where}: what is transparent in it is not what its colours show as background; save "
            "the mask without transparency, with values 0 and 255"
        )
    return mask


def decode_labels(data: bytes, where: str) -> np.ndarray:
    """The numbers of a mask in which each class has one: (H, W), of whole numbers.

    Raises:
        DataError: it has colours instead, or cannot be used as :func:`load_mask` says.
    """
    return _numbers(_mask_picture(data, where).image, where)


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask (H, W) of zeros and ones, or bool, as a PNG file of 0 and 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(file, "PNG")
    return file.getvalue()


def check_classes(values: np.ndarray, known: frozenset[int], where: str) -> None:
    """Refuse a mask with numbers that are no class; 0 is none in any mask.

    Raises:
        DataError: it has others than the known ones.
    """
    others = [int(value) for value in values if value and int(value) not in known]
    if others:
        listed = ", ".join(map(str, others[:_SHOWN]))
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise DataError(
            f"{where}: --classes does not name its values {listed}{more}; name them, or leave them "
            f"out on purpose: --classes ...,{others[0]}:"
        )


def check_same_size(image: Image.Image, mask: np.ndarray, where: str) -> None:
    """Refuse an image and a mask (H, W) that a viewer does not show alike; `where` names the row at
    fault.

    Raises:
        DataError: the sizes differ, or the image is stored turned and its size does not tell
            whether the mask was drawn on it as a viewer shows it.
    """
    height, width = mask.shape
    if image.size != (width, height):
        raise DataError(
            f"{where}: the image is {image.width} x {image.height} pixels and its mask "
            f"{width} x {height}; they must have the same size"
        )
    orientation = image.info.get(_ORIENTATION, 1)
    swaps_sides = orientation >= 5 and width != height
    if orientation != 1 and not swaps_sides:
        raise DataError(
            f"{where}: the image is stored turned (EXIF orientation {orientation}), and its mask "
            "may have been drawn on either; save the image as it is shown, and its mask alike"
        )


def _rgb(picture: Picture, where: str) -> Image.Image:
    image = picture.image
    opaque = opacity(image, where)
    if opaque is not None:
        raise DataError(
            f"{where}: {int((opaque < 255).sum())} pixels are transparent, and what is seen there "
            "depends on what lies behind; save the image without transparency"
        )
    if is_wide(image):
        values = _wide_values(image, where)
        _check_used_bits(int(values.max()), 65535, where)
        rgb = Image.fromarray((values // 256).astype(np.uint8)).convert("RGB")
    else:
        rgb = converted(image, "RGB", where)
        if picture.deep_colour:
            _check_used_bits(int(np.asarray(rgb).max()), 255, where)
    rgb.info = {_ORIENTATION: picture.orientation}
    return rgb


def _mask_picture(data: bytes, where: str) -> Picture:
    picture = open_picture(data, where)
    if picture.orientation != 1:
        raise DataError(
            f"{where}: the mask is stored turned (EXIF orientation {picture.orientation}); save it "
            "as it is shown"
        )
    if picture.deep_colour:
        raise DataError(
            f"{where}: a mask with 16 bits for each colour, of which half would be lost; save it "
            "with 8 bits"
        )
    return picture


def _foreground(image: Image.Image, where: str) -> np.ndarray:
    exact = image.format not in _LOSSY
    if is_wide(image):
        return foreground_of_greys(_wide_values(image, where), where, exact=exact)
    if image.mode in ("1", "L"):
        return foreground_of_greys(_greys(image), where, exact=exact)
    numbers = []
    if image.mode == "P":
        numbers = np.unique(np.asarray(image)).tolist()
        _check_palette(image.getpalette("RGB") or [], numbers, where)
    pixels = np.asarray(converted(image, "RGB", where))
    return foreground_of_colours(pixels, where, numbers, exact)


def _numbers(image: Image.Image, where: str) -> np.ndarray:
    if opacity(image, where) is not None:
        raise DataError(f"{where}: a mask with a number for each class has no transparent pixels")
    if is_wide(image):
        return _wide_values(image, where)
    if image.mode == "P":
        return np.asarray(image)
    if image.mode in ("1", "L"):
        return _greys(image)
    pixels = np.asarray(converted(image, "RGB", where))
    if not np.array_equal(pixels.min(axis=2), pixels.max(axis=2)):
        raise DataError(f"{where}: a mask in colours; save it with a number for each class")
    return pixels[..., 0]


def _check_palette(palette: list[int], numbers: Sequence[int], where: str) -> None:
    """Refuse a palette that shows two of the numbers in use alike."""
    first: dict[tuple[int, ...], int] = {}
    for number in numbers:
        colour = tuple(palette[3 * number : 3 * number + 3])
        other = first.setdefault(colour, number)
        if other != number:
            raise DataError(
                f"{where}: its palette shows the values {other} and {number} in one colour; save "
                "the mask with values 0 and 255, or name its classes when data is prepared: "
                f"--classes {number}:NAME"
            )


def _greys(image: Image.Image) -> np.ndarray:
    values = np.asarray(image.convert("L"))
    return values // 255 if image.mode == "1" else values


def _wide_values(image: Image.Image, where: str) -> np.ndarray:
    """The pixels of a 16-bit image; wider types have no scale to reduce them by."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise DataError(f"{where}: pixels wider than 16 bits; save the file as 8 or 16 bits")
    return values


def _check_used_bits(highest: int, top: int, where: str) -> None:
    if 0 < highest <= top // _USED_SHARE:
        bits = ((highest + 1) * (65536 // (top + 1)) - 1).bit_length()
        raise DataError(
            f"{where}: 16-bit pixels that use {bits} bits alone, so that the image would be nearly "
            "black; scale its values to 16 bits, or save it as 8 bits"
        )


def read_bytes(path: Path) -> bytes:
    """The content of an image's file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r}: no name of a file ({error})") from None
