"""How large a scan may be: what is made of it is in memory as a whole."""

from __future__ import annotations

from math import prod
from pathlib import Path

from prs_med.data.picture_file import check_size
from prs_med.data.records import DataError

MAX_VOXELS = 2**29
"""Most voxels of a scan (537 million): as many take 2 GiB."""
_MOST_SQUEEZED = 1100
"""A byte of a file that gzip wrote stands for so many at most (the format's limit is 1032)."""


def check_slices(slices: int, height: int, width: int, path: Path) -> None:
    """Refuse a scan of too many or too large slices, before room is made for them.

    Args:
        slices: number of slices.
        height: of each, in pixels.
        width: of each, in pixels.
        path: the scan.

    Raises:
        DataError: it is too large, or has no slice.
    """
    check_size(width, height, str(path))
    if slices < 1 or slices * height * width > MAX_VOXELS:
        raise DataError(
            f"{path}: {slices} slices of {width} x {height} pixels; allowed are 1 slice or more, "
            f"and {MAX_VOXELS} voxels in all: divide the scan"
        )


def check_volume(shape: tuple[int, ...], bytes_per_voxel: int, path: Path) -> None:
    """Refuse a NIfTI file that says it holds more than is allowed, or than it can.

    Args:
        shape: of its array, as its header says.
        bytes_per_voxel: as its header says.
        path: the file.

    Raises:
        DataError: it is too large, or the file is too short.
    """
    voxels = prod(shape)
    if voxels > MAX_VOXELS:
        raise DataError(
            f"{path}: {voxels} voxels; allowed are {MAX_VOXELS}: divide the scan, or scale it down"
        )
    if voxels * bytes_per_voxel > _MOST_SQUEEZED * path.stat().st_size:
        raise DataError(f"{path}: too short for the {voxels} voxels that its header names")
