"""Read a mask, whatever its format, on the slices of its scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from prs_med.data.records import DataError
from prs_med.data.scans import cases
from prs_med.data.scans.dicom import read_dicom_labels, read_headers
from prs_med.data.scans.grid import Grid, reordered, same_grid
from prs_med.data.scans.libraries import reading
from prs_med.data.scans.nifti import read_nifti_labels
from prs_med.data.scans.scan import Scan
from prs_med.data.scans.segmentation import is_segmentation, read_segmentation


def read_mask(path: Path, scan: Scan, label: int | None) -> np.ndarray:
    """Where a mask has foreground on the slices of its scan: (N, H, W) bool.

    A mask is never resampled. NIfTI and DICOM masks must consist of the scan's own points; only the
    order of their axes may be another one. A NIfTI mask of a NIfTI scan must have its shape and
    affine. PNG masks are for single DICOM images.

    Args:
        path: a NIfTI, DICOM or PNG file, or a folder with the DICOM slices.
        scan: the scan.
        label: the value that counts, in a DICOM segmentation the segment; None for all above 0.

    Raises:
        DataError: the mask cannot be read, or lies on other points than the scan.
    """
    if cases.has_ending(path, *cases.NIFTI):
        values, grid = read_nifti_labels(path)
        if scan.stored_grid is not None and not same_grid(grid, scan.stored_grid):
            raise _differ(path, grid, scan, scan.stored_grid)
        return _foreground(_on_slices(values, grid, path, scan), label)
    if cases.has_ending(path, cases.PICTURE):
        return _foreground(_picture(path, scan), label)
    headers = read_headers(path)
    segmentations = [file for file, header in headers.items() if is_segmentation(header)]
    if segmentations:
        if len(headers) > 1:
            raise DataError(f"{path}: {segmentations[0].name} must be the only file of the mask")
        return read_segmentation(segmentations[0], headers[segmentations[0]], scan, label)
    values, stored = read_dicom_labels(path, headers)
    if stored is not None and scan.grid is not None:
        return _foreground(_on_slices(values, stored, path, scan), label)
    # Without positions only the order of slices tells which belongs to which.
    placed = stored is not None or scan.grid is not None
    if values.shape != scan.shape or (placed and len(values) > 1):
        raise _differ(path, stored or values.shape, scan, scan.grid or scan.shape)
    return _foreground(values, label)


def _on_slices(values: np.ndarray, grid: Grid, path: Path, scan: Scan) -> np.ndarray:
    if scan.grid is None:
        raise DataError(
            f"{path}: {scan.path} does not say where it lies in the patient, so this mask cannot "
            "be laid on it; save the mask as PNG or DICOM of the same size"
        )
    result = reordered(values, grid, scan.grid)
    if result is None:
        raise _differ(path, grid, scan, scan.grid)
    return result


def _foreground(values: np.ndarray, label: int | None) -> np.ndarray:
    result: np.ndarray = values > 0 if label is None else values == label
    return result


def _picture(path: Path, scan: Scan) -> np.ndarray:
    """The values of a PNG mask: (1, H, W); of a colour one the strongest channel of each pixel."""
    # Another library may have told Pillow to fill what is missing with grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with reading(path, "PNG"), Image.open(path, formats=("PNG",)) as image:
        image.load()
        plain = image.mode in ("1", "L", "P") or image.mode.startswith("I")
        values = np.asarray(image if plain else image.convert("RGB")).astype(np.int64)
    if values.ndim == 3:
        values = values.max(axis=2)
    if not scan.frames or scan.shape != (1, *values.shape):
        raise _differ(path, (1, *values.shape), scan, scan.shape)
    return values[None]


def _differ(
    path: Path, mask: Grid | tuple[int, ...], scan: Scan, wanted: Grid | tuple[int, ...]
) -> DataError:
    found, needed = (
        one.text() if isinstance(one, Grid) else " x ".join(map(str, one)) + " pixels, no position"
        for one in (mask, wanted)
    )
    return DataError(
        f"{path}: the mask has another grid than {scan.path}: {found}; the scan has {needed}; "
        "resample the mask onto the scan first"
    )
