"""Read a DICOM segmentation, DICOM PS3.3 A.51: each frame shows one segment on one slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prs_med.data.records import DataError
from prs_med.data.scans.dicom_file import Frame, frames_of, grouped_value, labels_in
from prs_med.data.scans.grid import TOLERANCE
from prs_med.data.scans.libraries import reading
from prs_med.data.scans.scan import Scan

if TYPE_CHECKING:
    from pydicom import Dataset

# SOP classes of segmentations and of label map segmentations, DICOM PS3.4 table B.5-1.
_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


def is_segmentation(header: Dataset) -> bool:
    """Whether a file is a DICOM segmentation."""
    return str(header.get("SOPClassUID")) in _CLASSES


def segments_of(header: Dataset, path: Path) -> list[int]:
    """The numbers of the segments that a segmentation has."""
    with reading(path, "DICOM"):
        return [int(item.SegmentNumber) for item in header.get("SegmentSequence") or []]


def read_segmentation(path: Path, header: Dataset, scan: Scan, label: int | None) -> np.ndarray:
    """Where a segmentation has foreground on the slices of a scan: (N, H, W) bool.

    A frame belongs to the slice in its place (PlanePositionSequence); if it or the scan has no
    position, to the slice that its DerivationImageSequence names. Of fractions, one half and more
    counts. Slices without a frame have no foreground.

    Args:
        path: the segmentation.
        header: its header.
        scan: a DICOM scan.
        label: number of the segment that counts; None for all.

    Raises:
        DataError: a frame lies on no slice, or on another than it names; the pixels or the frame of
            reference differ; there is no such segment.
    """
    if not scan.frames:
        raise DataError(
            f"{path}: a DICOM segmentation of {scan.path}, which is not DICOM; convert one of them"
        )
    frames = frames_of(header, path)
    values = labels_in(path)
    if frames[0].size != scan.shape[1:] or len(values) != len(frames):
        height, width = frames[0].size
        raise DataError(
            f"{path}: slices of {width} x {height} pixels, but those of {scan.path} are "
            f"{scan.shape[2]} x {scan.shape[1]}; resample the mask onto the scan first"
        )
    if frames[0].space and scan.frames[0].space and frames[0].space != scan.frames[0].space:
        raise DataError(
            f"{path}: another frame of reference than {scan.path}; is it of another scan?"
        )
    with reading(path, "DICOM"):
        kind = str(header.get("SegmentationType") or "BINARY")
        highest = int(header.get("MaximumFractionalValue") or 255)
        segments = [
            grouped_value(header, n, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
            for n in range(len(frames))
        ]
    numbers = segments_of(header, path)
    if label is not None and label not in numbers:
        raise DataError(f"{path}: no segment {label}; there are {', '.join(map(str, numbers))}")
    mask = np.zeros(scan.shape, bool)
    planes = [one.plane for one in scan.frames]
    places: dict[str, list[tuple[int, int]]] = {}
    for place, one in enumerate(scan.frames):
        places.setdefault(one.uid, []).append((place, one.number + 1))
    for frame, content, segment in zip(frames, values, segments, strict=True):
        if kind == "LABELMAP":
            shown = content == label if label is not None else content > 0
        elif label is None or segment == label:
            shown = content >= highest / 2 if kind == "FRACTIONAL" else content > 0
        else:
            continue
        mask[_slice_of(frame, _named(header, frame, places), planes, scan)] |= shown
    return mask


def _named(
    header: Dataset, frame: Frame, places: Mapping[str, Sequence[tuple[int, int]]]
) -> set[int]:
    """The slices of the scan that a frame of a segmentation names as its source.

    Args:
        header: of the segmentation.
        frame: of the segmentation.
        places: for each SOP instance UID of the scan the slices, and their numbers in the file from
            1, as references count them.
    """
    named = set()
    with reading(frame.path, "DICOM"):
        sources = grouped_value(
            header, frame.number, "DerivationImageSequence", "SourceImageSequence"
        )
        for source in sources or []:
            numbers = source.get("ReferencedFrameNumber")
            several = [numbers] if isinstance(numbers, int) else list(numbers or [])
            for place, number in places.get(str(source.get("ReferencedSOPInstanceUID")), ()):
                if not several or number in several:
                    named.add(place)
    return named


def _slice_of(
    frame: Frame, named: set[int], planes: Sequence[np.ndarray | None], scan: Scan
) -> int:
    where = f"{frame.path}: frame {frame.number + 1}"
    plane = frame.plane
    if plane is None or any(one is None for one in planes):
        if len(named) != 1:
            raise DataError(
                f"{where} has no position in common with {scan.path} and names {len(named)} of its "
                "slices, so it belongs to none"
            )
        return min(named)
    assert frame.spacing is not None
    apart = [np.abs(plane - one).max() for one in planes if one is not None]
    nearest = int(np.argmin(apart))
    # Positions are text of at most 16 characters, often rounded to 0.01 mm.
    if apart[nearest] > max(TOLERANCE * frame.spacing.min(), 0.01):
        raise DataError(
            f"{where} lies on no slice of {scan.path}: the nearest is {apart[nearest]:.2f} mm off; "
            "resample the mask onto the scan first"
        )
    if named and nearest not in named:
        raise DataError(
            f"{where} lies on {scan.frames[nearest].path.name}, but names "
            f"{scan.frames[min(named)].path.name} as its source"
        )
    return nearest
