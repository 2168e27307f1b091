"""Read a DICOM scan: a file, or the files of a series."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prs_med.data.records import DataError
from prs_med.data.scans.dicom_file import Frame, frames_of, grey_or_colour, labels_in, read_header
from prs_med.data.scans.grid import Grid
from prs_med.data.scans.libraries import reading
from prs_med.data.scans.limits import check_slices
from prs_med.data.scans.patient import patient_of
from prs_med.data.scans.scan import Scan
from prs_med.data.scans.series import ordered
from prs_med.data.scans.window import own_window

if TYPE_CHECKING:
    from pydicom import Dataset

_DIRECTORY = "DICOMDIR"


def read_dicom(path: Path) -> Scan:
    """A DICOM file, or a folder with the files of one series, as slices.

    Rows and columns are those of the files, slices in the order of
    :func:`prs_med.data.scans.series.ordered`.

    Raises:
        DataError: a file cannot be read, or the files are not one whole series.
    """
    headers = read_headers(path)
    frames, grid = _ordered(headers, path)
    with reading(frames[0].path, "DICOM"):
        patient = patient_of(headers[frames[0].path])
        burned_in = any(header.get("BurnedInAnnotation") == "YES" for header in headers.values())
    return Scan(
        path=path,
        pixels=_gathered(frames, labels=False),
        grid=grid,
        frames=tuple(frames),
        window=own_window([frame.window for frame in frames]),
        inverted=frames[0].photometric == "MONOCHROME1",
        patient=patient,
        burned_in=burned_in,
    )


def read_headers(path: Path) -> dict[Path, Dataset]:
    """The headers of a file, or of all files in a folder and the folders below it.

    Hidden files and the directory of a DICOM disc (``DICOMDIR``) are no slices.

    Raises:
        DataError: there is none, or one is not DICOM.
    """
    paths = [path]
    if path.is_dir():
        paths = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if not name.startswith(".") and name.upper() != _DIRECTORY
        )
    if not paths:
        raise DataError(f"{path}: no DICOM file in this folder")
    return {file: read_header(file) for file in paths}


def read_dicom_labels(path: Path, headers: dict[Path, Dataset]) -> tuple[np.ndarray, Grid | None]:
    """A mask stored as a DICOM file or series: (N, H, W) int32 and where its array lies."""
    frames, grid = _ordered(headers, path)
    return _gathered(frames, labels=True), grid


def _ordered(headers: dict[Path, Dataset], path: Path) -> tuple[list[Frame], Grid | None]:
    frames = [f for file, header in headers.items() for f in frames_of(header, file)]
    check_slices(len(frames), *frames[0].size, path)
    return ordered(frames, path)


def _gathered(frames: list[Frame], *, labels: bool) -> np.ndarray:
    """The values of frames, in their order; one file at a time is in memory besides."""
    result: np.ndarray | None = None
    places: dict[Path, list[tuple[int, int]]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame.path, []).append((place, frame.number))
    for path, numbers in places.items():
        values = labels_in(path) if labels else grey_or_colour(path)
        if result is None:
            kind = np.int32 if labels else values.dtype
            result = np.empty((len(frames), *values.shape[1:]), kind)
        if values.shape[1:] != result.shape[1:]:
            raise DataError(f"{path}: pixels of shape {values.shape[1:]}, not {result.shape[1:]}")
        for place, number in numbers:
            result[place] = values[number]
    assert result is not None
    return result
