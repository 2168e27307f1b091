"""The order of DICOM slices, and whether together they are one whole volume."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from prs_med.data.records import DataError
from prs_med.data.scans.dicom_file import Frame
from prs_med.data.scans.grid import RAS_FROM_LPS, Grid

UNEVEN = 0.1
"""Distances of neighbouring slices may differ from the usual one by this share of it: positions are
often rounded to 0.01 or 0.1 mm, and a missing slice doubles the distance."""

# Slices that are closer, in mm, are the same place: no scanner's slices are.
_SAME_PLACE = 0.01
_ORIENTATION_ROUNDING = 1e-3


def ordered(frames: Sequence[Frame], where: Path) -> tuple[list[Frame], Grid | None]:
    """Frames from the first to the last slice, and where their array (N, H, W) lies.

    Slices are ordered by ImagePositionPatient along the normal of the slices, the cross product of
    the row's and the column's direction (DICOM PS3.3 C.7.6.2.1.1): axial ones from the feet to the
    head. Where no frame has a position, as in X-ray and ultrasound, instance numbers decide, and
    within a file the numbers of frames; there is then no grid.

    Raises:
        DataError: frames of several series, sizes or orientations, or slices that are missing,
            twice there or unevenly spaced. The message names the files.
    """
    _check_alike(frames, where)
    located = [frame for frame in frames if frame.position is not None]
    if not located or any(frame.orientation is None for frame in frames):
        return _by_instance(frames, where), None
    if len(located) < len(frames):
        lost = next(frame for frame in frames if frame.position is None)
        raise DataError(f"{where}: {_name(lost)} has no ImagePositionPatient, but others have")
    return _by_position(frames, where)


def _check_alike(frames: Sequence[Frame], where: Path) -> None:
    first = frames[0]
    for frame in frames:
        both = f"{_name(first)} and {_name(frame)}"
        if frame.series != first.series:
            raise DataError(
                f"{where}: {both} are of different series; give each series a folder of its own"
            )
        if frame.size != first.size or frame.photometric != first.photometric:
            kinds = [f"{f.size[1]} x {f.size[0]} {f.photometric}" for f in (first, frame)]
            raise DataError(f"{where}: {both} differ in kind: {kinds[0]} and {kinds[1]} pixels")
        if not _close(frame.orientation, first.orientation, _ORIENTATION_ROUNDING):
            raise DataError(
                f"{where}: {both} have different orientations (ImageOrientationPatient); remove "
                "overview images, and give each orientation a folder of its own"
            )
        if not _close(frame.spacing, first.spacing, _ORIENTATION_ROUNDING):
            raise DataError(f"{where}: {both} have pixels of different size (PixelSpacing)")


def _by_instance(frames: Sequence[Frame], where: Path) -> list[Frame]:
    if len({frame.path for frame in frames}) == 1:
        return sorted(frames, key=lambda frame: frame.number)
    lost = [frame for frame in frames if frame.instance is None]
    if lost:
        raise DataError(
            f"{where}: {_name(lost[0])} has neither a position nor an InstanceNumber, so its place "
            "among the slices is unknown"
        )
    result = sorted(frames, key=lambda frame: (frame.instance or 0, frame.number, frame.path))
    for before, after in pairwise(result):
        step = (after.instance or 0) - (before.instance or 0)
        both = f"{_name(before)} and {_name(after)}"
        if step == 0 and before.path != after.path:
            raise DataError(f"{where}: {both} have the same InstanceNumber {after.instance}")
        if step > 1:
            raise DataError(
                f"{where}: slices are missing between {both}: InstanceNumber goes from "
                f"{before.instance} to {after.instance}"
            )
    return result


def _by_position(frames: Sequence[Frame], where: Path) -> tuple[list[Frame], Grid | None]:
    first = frames[0]
    assert first.orientation is not None
    across, down = first.orientation[:3], first.orientation[3:]
    lengths = np.array([across @ across, down @ down])
    if np.abs(lengths - 1).max() > 0.01 or abs(across @ down) > 0.01:
        raise DataError(
            f"{where}: ImageOrientationPatient of {_name(first)} is not a pair of perpendicular "
            "unit vectors"
        )
    normal = np.cross(across, down)
    depths = np.array([_position(frame) @ normal for frame in frames])
    # Files in one place keep an order of their own, so that messages are the same on every machine.
    order = sorted(range(len(frames)), key=lambda n: (depths[n], frames[n].path, frames[n].number))
    result = [frames[n] for n in order]
    _check_spacing(result, depths[order], where)
    if first.spacing is None:
        return result, None
    start, end = _position(result[0]), _position(result[-1])
    step = (end - start) / (len(result) - 1) if len(result) > 1 else normal
    _check_straight(result, start, step, float(first.spacing.min()), where)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = down * first.spacing[0]
    affine[:3, 2] = across * first.spacing[1]
    affine[:3, 3] = start
    return result, Grid((len(result), *first.size), RAS_FROM_LPS @ affine)


def _check_spacing(frames: Sequence[Frame], depths: np.ndarray, where: Path) -> None:
    steps = np.diff(depths)
    if not len(steps):
        return
    number = int(steps.argmin())
    if steps[number] < _SAME_PLACE:
        raise DataError(
            f"{where}: {_name(frames[number])} and {_name(frames[number + 1])} lie at the same "
            "place; keep one of them, or give each volume a folder of its own"
        )
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    number = int(np.abs(steps - usual).argmax())
    if abs(steps[number] - usual) > UNEVEN * usual:
        raise DataError(
            f"{where}: slices are {steps[number]:.2f} mm apart between {_name(frames[number])} and "
            f"{_name(frames[number + 1])}, but usually {usual:.2f} mm; add the missing slices, or "
            "divide the series"
        )


def _check_straight(
    frames: Sequence[Frame], start: np.ndarray, step: np.ndarray, pixel: float, where: Path
) -> None:
    for number, frame in enumerate(frames):
        aside = np.linalg.norm(_position(frame) - (start + number * step))
        if aside > max(pixel, float(np.linalg.norm(step))) / 2:
            raise DataError(
                f"{where}: {_name(frame)} lies {aside:.2f} mm beside the line through the first "
                "and the last slice; divide the series"
            )


def _position(frame: Frame) -> np.ndarray:
    assert frame.position is not None
    return frame.position


def _close(one: np.ndarray | None, other: np.ndarray | None, rounding: float) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.abs(one - other).max() <= rounding)


def _name(frame: Frame) -> str:
    return frame.path.name if frame.number == 0 else f"{frame.path.name} (frame {frame.number + 1})"
