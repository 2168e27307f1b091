"""A picture, opened by one set of rules: its format, size and pages, and which way up it is.

Whatever of a file would be dropped in silence is an error: other pages, or what is transparent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from prs_med.data.records import DataError

MAX_PIXELS = 2**26
"""Most pixels of a picture (67 million): what is made of one takes memory by its pixels."""
MAX_SIDE = 2**14
"""Longest side in pixels: the CLIP tower's input may be padded to a square of it."""
MAX_RATIO = 50
"""How often the shorter side goes into the longer one at most: scaling the shorter side to an
encoder's input makes the other one as much longer."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
"""Whatever a file is called: of others, Pillow hands PostScript to Ghostscript, which runs it."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientations, and what makes of the stored pixels what a viewer shows."""


@dataclass(frozen=True)
class Picture:
    """An opened picture."""

    image: Image.Image
    """Decoded, as a viewer shows it, in the mode that Pillow has for the file."""
    orientation: int
    """EXIF orientation, which ``image`` has been turned by: 1 where it was stored as shown."""
    deep_colour: bool
    """Whether the file has 16 bits for each colour, of which Pillow keeps the upper 8."""


def open_picture(data: bytes, where: str) -> Picture:
    """A picture from the bytes of its file; ``where`` names it in errors.

    Raises:
        DataError: it is damaged, of another format, too large, or has several pages.
    """
    # Another library may have told Pillow to fill missing pixels with grey; a model would then
    # train on them without a word.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise _unreadable(where, f"not one of {', '.join(_FORMATS)}") from error
    # On damaged bytes its parsers raise nearly every type there is.
    except Exception as error:
        raise _unreadable(where, error) from error
    with image:
        return shown_picture(image, where)


def shown_picture(image: Image.Image, where: str) -> Picture:
    """A picture that Pillow has opened, or that was made in memory; otherwise :func:`open_picture`.

    Pixels that have not been read yet are read from the image's file.
    """
    check_size(image.width, image.height, where)
    try:
        if getattr(image, "is_animated", False):
            raise DataError(f"{where}: holds several pictures or pages; save the one that is meant")
        deep_colour = ";16" in str(getattr(image, "tile", ""))
        orientation = _orientation(image)
        image.load()
        if orientation in _TURNS and image.format != "TIFF":  # Pillow turns a TIFF by itself.
            image = image.transpose(_TURNS[orientation])
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(where, error) from error
    return Picture(image, orientation, deep_colour and image.mode in ("RGB", "RGBA", "CMYK"))


def check_size(width: int, height: int, where: str) -> None:
    """Refuse a picture of which too much would be made; sizes in pixels.

    Raises:
        DataError: it is empty, too large or too long.
    """
    longer, shorter = max(width, height), min(width, height)
    if shorter < 1 or longer > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"{where}: {width} x {height} pixels; allowed are sides of 1 to {MAX_SIDE} and "
            f"{MAX_PIXELS} pixels in all: scale it down"
        )
    if longer > MAX_RATIO * shorter:
        raise DataError(
            f"{where}: {width} x {height} pixels; the longer side may be {MAX_RATIO} times the "
            "shorter one at most: crop it"
        )


def opacity(image: Image.Image, where: str) -> np.ndarray | None:
    """How opaque each pixel is, from 0 to 255, (H, W) uint8; None where all of them wholly are."""
    if not image.has_transparency_data:
        return None
    if is_wide(image):
        # One of the grey values stands for what is transparent.
        values = np.where(np.asarray(image) == image.info["transparency"], 0, 255)
    else:
        values = np.asarray(converted(image, "RGBA", where).getchannel("A"))
    return None if values.min() == 255 else values.astype(np.uint8)


def is_wide(image: Image.Image) -> bool:
    """Whether its pixels have one number of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def converted(image: Image.Image, mode: str, where: str) -> Image.Image:
    """The image in another mode of Pillow's.

    Raises:
        DataError: it has none for these pixels.
    """
    try:
        return image.convert(mode)
    except (ValueError, OSError) as error:
        raise DataError(f"{where}: pixels of the kind {image.mode}; save it in RGB") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    # Metadata that cannot be read are none to viewers either.
    except Exception:
        return 1


def _unreadable(where: str, error: Exception | str) -> DataError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return DataError(
        f"{where}: not a readable image ({reason}); replace the file or remove its rows"
    )
