"""The separate pieces of a mask: pixels that touch, also at their corners, belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Component:
    """One piece of a mask. The sides of its box are pixel numbers, both included."""

    label: int
    """Its number in the label image, from 1."""
    area: int
    """Its pixels."""
    left: int
    top: int
    right: int
    bottom: int

    @property
    def middle(self) -> tuple[float, float]:
        """Row and column of its box's middle."""
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2


@dataclass(frozen=True)
class Pieces:
    """The pieces of a mask that count."""

    masks: list[np.ndarray]
    """Each (H, W) bool, in reading order: by the middles of their boxes from top to bottom, and
    from left to right where these are level."""
    dropped: int
    """Pieces that were too small."""
    left_out: int
    """Pieces that were large enough, but smaller than as many others as count."""


def pieces(mask: np.ndarray, min_share: float, most: int) -> Pieces:
    """Divide a mask into the pieces that count.

    Args:
        mask: (H, W); nonzero or True where the structure is.
        min_share: pieces of a smaller share of the image's pixels are dropped.
        most: of more pieces than these, the largest count.
    """
    labels, components = label_components(mask)
    large = [component for component in components if component.area >= min_share * mask.size]
    # The label decides between equals, so that the same mask always gives the same pieces.
    kept = sorted(large, key=lambda piece: (-piece.area, piece.middle, piece.label))[:most]
    kept.sort(key=lambda piece: (piece.middle, piece.label))
    return Pieces(
        masks=[labels == piece.label for piece in kept],
        dropped=len(components) - len(large),
        left_out=len(large) - len(kept),
    )


def label_components(mask: np.ndarray) -> tuple[np.ndarray, list[Component]]:
    """Find the pieces of a mask.

    Args:
        mask: (H, W); nonzero or True where the structure is.

    Returns:
        The label image, (H, W) int32 with 0 for the background, and the pieces by label, which is
        the order of their first pixels, row by row.
    """
    height, width = mask.shape
    # An empty column on either side keeps the runs of one row from touching those of the next in
    # the flat image.
    stride = width + 2
    padded = np.zeros((height, stride), dtype=np.int8)
    padded[:, 1:-1] = mask != 0
    flat = padded.ravel()
    steps = np.diff(flat)
    starts, ends = np.flatnonzero(steps == 1) + 1, np.flatnonzero(steps == -1) + 1
    # A run touches those of the row below that end no earlier than it starts, and start no later
    # than one pixel beyond its last.
    first = np.searchsorted(ends, starts + stride, side="left").tolist()
    beyond = np.searchsorted(starts, ends + stride, side="right").tolist()
    roots = _roots(first, beyond)
    numbers, labels = np.unique(roots, return_inverse=True)

    label_image = np.zeros(flat.size, dtype=np.int32)
    label_image[flat > 0] = np.repeat(labels + 1, ends - starts)
    rows, lefts, rights = starts // stride, starts % stride - 1, ends % stride - 2
    boxes = np.empty((4, numbers.size), dtype=np.int64)
    boxes[:2], boxes[2:] = max(height, width), -1
    np.minimum.at(boxes[0], labels, lefts)
    np.minimum.at(boxes[1], labels, rows)
    np.maximum.at(boxes[2], labels, rights)
    np.maximum.at(boxes[3], labels, rows)
    areas = np.zeros(numbers.size, dtype=np.int64)
    np.add.at(areas, labels, ends - starts)
    components = [
        Component(number + 1, area, *box)
        for number, (area, box) in enumerate(zip(areas.tolist(), boxes.T.tolist(), strict=True))
    ]
    return label_image.reshape(height, stride)[:, 1:-1], components


def _roots(first: Sequence[int], beyond: Sequence[int]) -> np.ndarray:
    """For each run the first run of its piece; run n touches runs ``first[n]`` to ``beyond[n]``,
    the last excluded."""
    parents = list(range(len(first)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    for run, (start, end) in enumerate(zip(first, beyond, strict=True)):
        for other in range(start, end):
            one, two = root(run), root(other)
            parents[max(one, two)] = min(one, two)
    return np.array([root(run) for run in range(len(parents))], dtype=np.int64)
