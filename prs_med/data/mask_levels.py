"""Which pixels of a picture are foreground, and whether the picture tells.

A mask has two levels: nothing, and the structure. Between them there may be the noise of a lossy
format, and edges that were smoothed. A picture with more levels is a map of several classes: cut at
one half, it would keep some of them and lose the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from prs_med.data.records import DataError

_SOLID = 9
"""As many pixels make a level, if their eight neighbours have exactly their value: smoothed edges
have none such."""
_FEW = 16
"""In a picture of no more values than these, narrow levels count, too: it has no noise."""
_EDGES = 0.5
"""A value of which more lies between others belongs to smoothed edges."""
_SHOWN = 8
"""Levels that a message lists."""


def foreground_of_greys(
    values: np.ndarray, where: str, numbers: Sequence[int] = (), exact: bool = True
) -> np.ndarray:
    """Where a picture with one number for each pixel has foreground.

    Args:
        values: (H, W) of whole numbers from 0 to 65535.
        where: names the picture in errors.
        numbers: those that stand for the values in a palette, if there is one.
        exact: whether its format keeps values as they were.

    Returns:
        (H, W) uint8 of zeros and ones.

    Raises:
        DataError: it has more than two levels, or none that would be foreground.
    """
    present = present_values(values)
    highest = int(present[-1])
    if highest <= 1:
        return (values > 0).astype(np.uint8)
    half = 127 if highest <= 255 else 32767
    if highest <= half:
        raise DataError(
            f"{where}: mask values reach only {highest}, so nothing is foreground; save the mask "
            f"with values 0 and 1, or 0 and 255{_or_classes(numbers or present.tolist())}"
        )
    levels = [level for (level,) in _levels(values, values[..., None], present, half, exact)]
    if _are_classes(levels, half):
        raise DataError(
            f"{where}: a mask has two levels, but this is a map of several classes, with the "
            f"values {_listed(levels)}; save the mask with values 0 and 255"
            + _or_classes(numbers or levels)
        )
    return (values > half).astype(np.uint8)


def foreground_of_colours(
    pixels: np.ndarray, where: str, numbers: Sequence[int] = (), exact: bool = True
) -> np.ndarray:
    """Where a picture in colours has foreground: where its strongest channel has.

    All but ``pixels``, (H, W, 3) uint8, as of :func:`foreground_of_greys`.
    """
    red, green, blue = (pixels[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return foreground_of_greys(np.ascontiguousarray(red), where, numbers, exact)
    strength = np.maximum(np.maximum(red, green), blue)
    codes = (red.astype(np.int32) << 16) | (green.astype(np.int32) << 8) | blue
    half, highest = 127, int(strength.max())
    levels = _levels(codes, pixels, np.unique(codes), half, exact)
    if 1 < highest <= half or _are_classes([max(level) for level in levels], half):
        colours = ["#" + "".join(f"{part:02x}" for part in level) for level in levels]
        raise DataError(
            f"{where}: a mask has two levels, nothing and the structure, but not the colours "
            f"{_listed(colours)}; save the mask with values 0 and 255"
            + (_or_classes(numbers) if numbers else ", or a number for each class for --classes")
        )
    return (strength > (half if highest > 1 else 0)).astype(np.uint8)


def _are_classes(levels: Sequence[int], half: int) -> bool:
    """Whether levels are more than one of nothing and one of the structure."""
    bright = sum(level > half for level in levels)
    if max(levels, default=0) <= 1:
        return len(levels) > 2
    return bright > 1 or len(levels) - bright > 1


def _levels(
    codes: np.ndarray, pixels: np.ndarray, present: np.ndarray, half: int, exact: bool
) -> list[tuple[int, ...]]:
    """The levels of a picture, the darkest first; each has a value for each of C channels.

    Args:
        codes: (H, W), a number for each pixel.
        pixels: (H, W, C), what the numbers stand for.
        present: the numbers that occur.
        half: the highest value that is not foreground.
        exact: whether the format of the picture keeps values as they were.
    """
    found = present
    if len(present) > 2 and min(codes.shape) > 2:
        found = _of_enough(_solid(codes))
        if len(present) <= _FEW:
            between = _between(pixels)
            narrow = _of_enough(codes[~between])
            edges = [code for code in narrow if between[codes == code].mean() > _EDGES]
            found = np.union1d(found, np.setdiff1d(narrow, edges))
    colours = [_channels(int(code), pixels.shape[2]) for code in found]
    nearby = (half + 1) // 4
    bright = pixels[pixels > nearby] if exact and pixels.shape[2] == 1 else pixels[:0]
    lone = bright.size >= _SOLID and bright.min() == bright.max()
    if lone or pixels.max() <= 1:
        # No noise reaches up there, so it is not noise down here either, but labels such as 1 and
        # 2, with 255 for what is to be ignored.
        return colours
    levels: list[tuple[int, ...]] = []
    for colour in colours:
        apart = [max(abs(a - b) for a, b in zip(colour, level, strict=True)) for level in levels]
        if min(apart, default=nearby) >= nearby:
            levels.append(colour)
    return levels


def present_values(values: np.ndarray) -> np.ndarray:
    """The whole numbers that occur in an array, in their order."""
    if values.min() < 0 or values.max() >= 2**16:
        return np.unique(values)
    # A part at a time: counting takes 8 bytes for each.
    parts = np.array_split(values.ravel(), values.size // 2**20 + 1)
    counts = sum(np.bincount(part.astype(np.intp), minlength=2**16) for part in parts)
    return np.flatnonzero(counts)


def _of_enough(codes: np.ndarray) -> np.ndarray:
    """The numbers that occur as often as a level must."""
    numbers, counts = np.unique(codes, return_counts=True)
    enough: np.ndarray = numbers[counts >= _SOLID]
    return enough


def _solid(codes: np.ndarray) -> np.ndarray:
    """The numbers of the pixels that equal their eight neighbours."""
    middle = codes[:, 1:-1]
    in_row = (codes[:, :-2] == middle) & (middle == codes[:, 2:])
    in_column = (middle[:-2] == middle[1:-1]) & (middle[1:-1] == middle[2:])
    solid: np.ndarray = middle[1:-1][in_column & in_row[:-2] & in_row[1:-1] & in_row[2:]]
    return solid


def _between(pixels: np.ndarray) -> np.ndarray:
    """Which pixels may be smoothed edges, (H, W) bool: in each channel in which their neighbours
    differ, one is lower and one is higher. Of the outermost pixels nobody knows."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    lowest, highest = pixels.copy(), pixels.copy()
    for row in range(3):
        for column in range(3):
            neighbour = padded[row : row + height, column : column + width]
            np.minimum(lowest, neighbour, out=lowest)
            np.maximum(highest, neighbour, out=highest)
    constant = lowest == highest
    inside = constant | ((lowest < pixels) & (pixels < highest))
    between: np.ndarray = inside.all(axis=2) & ~constant.all(axis=2)
    between[[0, -1]] = between[:, [0, -1]] = True
    return between


def _channels(code: int, count: int) -> tuple[int, ...]:
    return (code,) if count == 1 else (code >> 16, code >> 8 & 255, code & 255)


def _or_classes(values: Iterable[int]) -> str:
    chosen = [int(value) for value in values if value][:2]
    names = ",".join(f"{value}:NAME" for value in chosen)
    return f", or name its classes when data is prepared: --classes {names}"


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more
