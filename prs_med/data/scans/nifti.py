"""Read a NIfTI file, and turn it the way radiologists look at it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prs_med.data.records import DataError
from prs_med.data.scans.grid import Grid
from prs_med.data.scans.libraries import library, reading
from prs_med.data.scans.limits import check_volume
from prs_med.data.scans.scan import Scan

PLANES = {
    "axial": ("S", "P", "L"),
    "coronal": ("P", "I", "L"),
    "sagittal": ("L", "I", "P"),
}
"""Where slice number, row and column count to, in the radiological convention. Axial slices are
seen from below: the patient's right is on the left of the image, anterior on top. Coronal ones are
seen from the front, superior on top, and sagittal ones from the patient's left, anterior on the
left."""


def read_nifti(path: Path, plane: str) -> Scan:
    """A NIfTI volume as slices of one plane.

    Axes are exchanged and turned as the file's affine tells (the nearest axis where it is oblique);
    values are not resampled, so pixels that are not square in the patient are drawn as squares.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file; values are scaled by its slope and intercept.
        plane: one of :data:`PLANES`.

    Raises:
        DataError: the file is damaged, does not say where it lies, or is not a volume of numbers.
    """
    orientations = library("nibabel.orientations")
    values, stored = _volume(path)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: values that are no numbers (NaN or infinity); replace them")
    wanted = orientations.axcodes2ornt(PLANES[plane])
    with reading(path, "NIfTI"):
        change = orientations.ornt_transform(orientations.io_orientation(stored.affine), wanted)
        turned = np.asarray(orientations.apply_orientation(values, change), np.float32)
        affine = stored.affine @ orientations.inv_ornt_aff(change, stored.shape)
    shape = (turned.shape[0], turned.shape[1], turned.shape[2])
    scan = Scan(path=path, pixels=np.ascontiguousarray(turned), grid=Grid(shape, affine))
    return replace(scan, stored_grid=stored)


def read_nifti_labels(path: Path) -> tuple[np.ndarray, Grid]:
    """A mask in NIfTI, as stored: whole numbers and where they lie.

    Raises:
        DataError: besides the errors of :func:`read_nifti`, values between whole numbers.
    """
    values, grid = _volume(path)
    if not np.issubdtype(values.dtype, np.integer):
        if not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
            raise DataError(
                f"{path}: values between whole numbers; a mask needs labels, so divide "
                "probabilities at a threshold first"
            )
        values = values.astype(np.int64)
    return values, grid


def _volume(path: Path) -> tuple[np.ndarray, Grid]:
    """The array (I, J, K) as stored, scaled, and its grid."""
    nibabel = library("nibabel")
    with reading(path, "NIfTI"):
        image: Any = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise DataError(f"{path}: not a NIfTI file with header and voxels in one")
        check_volume(image.shape, image.header.get_data_dtype().itemsize, path)
        if not (image.header["sform_code"] > 0 or image.header["qform_code"] > 0):
            raise DataError(
                f"{path}: neither sform nor qform is set, so left and right are unknown; save it "
                "with its orientation"
            )
        values = np.asarray(image.dataobj)
        affine = np.asarray(image.affine, np.float64)
    if values.dtype.kind not in "iufb" or values.ndim > 4 or values.size == 0:
        raise DataError(f"{path}: not a volume of numbers ({values.ndim} axes of {values.dtype})")
    slices, volumes = (*values.shape, 1, 1)[2:4] if values.ndim > 1 else (1, 1)
    if volumes != 1:
        raise DataError(f"{path}: {volumes} volumes in one file; save one of them")
    values = values.reshape(*(*values.shape, 1)[:2], slices)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(f"{path}: its affine does not span the three directions of space")
    return values, Grid((values.shape[0], values.shape[1], values.shape[2]), affine)
