"""Read a mask, whatever its format, on the slices of its scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prs_med.data.images import check_classes, decode_labels, decode_mask, read_bytes
from prs_med.data.mask_levels import present_values
from prs_med.data.records import DataError
from prs_med.data.scans import cases
from prs_med.data.scans.dicom import read_dicom_labels, read_headers
from prs_med.data.scans.grid import Grid, reordered, same_grid
from prs_med.data.scans.nifti import read_nifti_labels
from prs_med.data.scans.scan import Scan
from prs_med.data.scans.segmentation import is_segmentation, read_segmentation, segments_of
from prs_med.mask_classes import MaskClass

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class ScanMask:
    """What a mask shows on the slices of its scan."""

    structures: dict[MaskClass | None, np.ndarray]
    """Where each class is, (N, H, W) bool; under None where no classes are named."""
    united: tuple[int, ...] = ()
    """The values that count as one structure, if there are several and no setting chose."""


def read_mask(
    path: Path, scan: Scan, label: int | None, classes: Sequence[MaskClass] = ()
) -> ScanMask:
    """Where a mask has foreground on the slices of its scan.

    A mask is never resampled. NIfTI and DICOM masks must consist of the scan's own points; only the
    order of their axes may be another one. A NIfTI mask of a NIfTI scan must have its shape and
    affine. PNG masks are for single DICOM images.

    Args:
        path: a NIfTI, DICOM or PNG file, or a folder with the DICOM slices.
        scan: the scan.
        label: the value that counts, in a DICOM segmentation the segment; None for all above 0.
        classes: the classes of its values, instead of ``label``; one that it lacks is empty.

    Raises:
        DataError: the mask cannot be read, lies on other points than the scan, or has values
            besides those of the classes.
    """
    if cases.has_ending(path, *cases.NIFTI):
        values, grid = read_nifti_labels(path)
        if scan.stored_grid is not None and not same_grid(grid, scan.stored_grid):
            raise _differ(path, grid, scan, scan.stored_grid)
        return _structures(_on_slices(values, grid, path, scan), label, classes, path)
    if cases.has_ending(path, cases.PICTURE):
        return _of_picture(path, scan, label, classes)
    headers = read_headers(path)
    segmentations = [file for file, header in headers.items() if is_segmentation(header)]
    if segmentations:
        if len(headers) > 1:
            raise DataError(f"{path}: {segmentations[0].name} must be the only file of the mask")
        return _of_segmentation(segmentations[0], headers[segmentations[0]], scan, label, classes)
    values, stored = read_dicom_labels(path, headers)
    if stored is not None and scan.grid is not None:
        return _structures(_on_slices(values, stored, path, scan), label, classes, path)
    # Without positions only the order of slices tells which belongs to which.
    placed = stored is not None or scan.grid is not None
    if values.shape != scan.shape or (placed and len(values) > 1):
        raise _differ(path, stored or values.shape, scan, scan.grid or scan.shape)
    return _structures(values, label, classes, path)


def _structures(
    values: np.ndarray, label: int | None, classes: Sequence[MaskClass], path: Path
) -> ScanMask:
    if classes:
        check_classes(present_values(values), classes[0].known, str(path))
        return ScanMask({one: values == one.value for one in classes})
    if label is not None:
        return ScanMask({None: values == label})
    united = [int(value) for value in present_values(values) if value > 0]
    return ScanMask({None: values > 0}, tuple(united) if len(united) > 1 else ())


def _of_segmentation(
    path: Path, header: Dataset, scan: Scan, label: int | None, classes: Sequence[MaskClass]
) -> ScanMask:
    segments = segments_of(header, path)
    if not classes:
        mask = read_segmentation(path, header, scan, label)
        united = label is None and len(segments) > 1
        return ScanMask({None: mask}, tuple(segments) if united else ())
    check_classes(np.array(segments), classes[0].known, str(path))
    return ScanMask(
        {
            one: read_segmentation(path, header, scan, one.value)
            if one.value in segments
            else np.zeros(scan.shape, bool)
            for one in classes
        }
    )


def _of_picture(
    path: Path, scan: Scan, label: int | None, classes: Sequence[MaskClass]
) -> ScanMask:
    """A PNG mask of a scan of one slice. Without a label or classes it is read as all masks are."""
    data = read_bytes(path)
    one_structure = label is None and not classes
    read = decode_mask if one_structure else decode_labels
    values = read(data, str(path))[None]
    if not scan.frames or scan.shape != values.shape:
        raise _differ(path, values.shape, scan, scan.shape)
    return _structures(values, label, classes, path)


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
