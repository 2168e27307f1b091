"""Where the pixels of a volume lie in the patient, and whether two volumes share their points."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

TOLERANCE = 0.1
"""Two points are the same if they are less than this share of a voxel apart. Headers round to some
1e-3 mm; half a voxel would already move an outline."""

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM counts millimetres to the patient's Left, Posterior and Superior (PS3.3 C.7.6.2.1.1), NIfTI
to the Right, Anterior and Superior (nifti1.h, "3D image orientation")."""


@dataclass(frozen=True)
class Grid:
    """The points of a volume."""

    shape: tuple[int, int, int]
    """Points along each axis of the array."""

    affine: np.ndarray
    """(4, 4) float64, from array indices to millimetres right, anterior and superior."""

    def text(self) -> str:
        """Shape, voxel size and first point, for messages."""
        sides = " x ".join(str(side) for side in self.shape)
        sizes = " x ".join(f"{size:.4g}" for size in np.linalg.norm(self.affine[:3, :3], axis=0))
        first = ", ".join(f"{value:.4g}" for value in self.affine[:3, 3])
        return f"{sides} voxels of {sizes} mm from ({first})"

    def corners(self) -> np.ndarray:
        """Array indices of the eight corner points: (4, 8) float64, the last row ones."""
        ends = product(*((0, side - 1) for side in self.shape))
        return np.array([(*corner, 1) for corner in ends], np.float64).T


def same_grid(one: Grid, other: Grid) -> bool:
    """Whether arrays of both grids have the same voxel at every index."""
    if one.shape != other.shape:
        return False
    corners = one.corners()
    apart = np.linalg.solve(one.affine, other.affine @ corners) - corners
    return bool(np.abs(apart).max() < TOLERANCE)


def reordered(values: np.ndarray, grid: Grid, wanted: Grid) -> np.ndarray | None:
    """Values of one grid in the array order of another: axes exchanged and turned, never resampled.

    Args:
        values: an array of ``grid.shape``.
        grid: where its values lie.
        wanted: the grid of the result.

    Returns:
        An array of ``wanted.shape``, or None if the grids do not consist of the same points.
    """
    steps = np.linalg.solve(grid.affine, wanted.affine)[:3, :3]
    axes = [int(axis) for axis in np.abs(steps / np.linalg.norm(steps, axis=0)).argmax(axis=0)]
    if sorted(axes) != [0, 1, 2]:
        return None
    turned = [
        axis
        for axis, source in enumerate(axes)
        if steps[source, axis] < 0 and wanted.shape[axis] > 1
    ]
    result: np.ndarray = np.flip(values.transpose(axes), tuple(turned))
    # The affine of the reordered array: its axes' steps, and the voxel that is now the first.
    affine = grid.affine.copy()
    for axis, source in enumerate(axes):
        affine[:3, axis] = grid.affine[:3, source] * (-1 if axis in turned else 1)
        if axis in turned:
            affine[:3, 3] += grid.affine[:3, source] * (grid.shape[source] - 1)
    shape = tuple(grid.shape[source] for source in axes)
    return result if same_grid(wanted, Grid((shape[0], shape[1], shape[2]), affine)) else None
