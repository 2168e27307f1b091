"""Synthetic DICOM and NIfTI files with known content in known places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PATIENT_ID = "MRN-0815-4711"
PATIENT_NAME = "Mustermann^Erika"
ACCESSION = "ACC99887766"


def uid(*parts: object) -> str:
    """A UID that depends on the parts only."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def dicom(
    path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", **attributes: Any
) -> Path:
    """Write a DICOM file of (H, W) or (F, H, W) pixels of 8 or 16 bits, for colours (..., 3).

    An attribute that is None is left out."""
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3 and not photometric.startswith("MONO")
    shape = pixels.shape[:-1] if colour else pixels.shape
    bits = pixels.dtype.itemsize * 8
    values: dict[str, Any] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": uid(path),
        "SeriesInstanceUID": uid(path.parent, "series"),
        "StudyInstanceUID": uid(path.parent, "study"),
        "PatientID": PATIENT_ID,
        "PatientName": PATIENT_NAME,
        "PatientBirthDate": "19610412",
        "AccessionNumber": ACCESSION,
        "Modality": "CT",
        "Rows": shape[-2],
        "Columns": shape[-1],
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": photometric,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **attributes,
    }
    if colour:
        values.setdefault("PlanarConfiguration", 0)
    if len(shape) == 3:
        values.setdefault("NumberOfFrames", shape[0])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = values["SOPClassUID"]
    meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(
    folder: Path,
    volume: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    step: float = 2.0,
    spacing: Sequence[float] = (0.5, 0.75),
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
    orientation: Sequence[float] = AXIAL,
    **attributes: Any,
) -> Path:
    """Write (N, H, W) as a folder of DICOM slices, slice n ``n * step`` mm along the normal."""
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    for number, pixels in enumerate(volume):
        name = names[number] if names else f"slice{number:03d}.dcm"
        position = np.array(origin) + number * step * np.cross(across, down)
        own = {
            "SeriesInstanceUID": uid(folder, "series"),
            "FrameOfReferenceUID": uid(folder, "space"),
            "SOPInstanceUID": uid(folder, number),
            "InstanceNumber": number + 1,
            "ImagePositionPatient": [float(value) for value in position],
            "ImageOrientationPatient": list(orientation),
            "PixelSpacing": list(spacing),
        }
        dicom(folder / name, pixels, **{**own, **attributes})
    return folder


def series_affine(
    step: float = 2.0,
    spacing: Sequence[float] = (0.5, 0.75),
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
) -> np.ndarray:
    """The NIfTI affine of :func:`series` (axial) for an array (column, row, slice)."""
    affine = np.diag([-spacing[1], -spacing[0], step, 1.0])
    affine[:3, 3] = (-origin[0], -origin[1], origin[2])
    return affine


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None) -> Path:
    """Write a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def segmentation(
    path: Path,
    scan: Path,
    frames: Sequence[tuple[int, int, np.ndarray]],
    *,
    named: bool = False,
    placed: bool = True,
    moved: float = 0.0,
    step: float = 2.0,
    spacing: Sequence[float] = (0.5, 0.75),
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
    space: str = "",
    fractional: bool = False,
    **attributes: Any,
) -> Path:
    """Write a DICOM segmentation of a :func:`series` (axial).

    Args:
        path: the file.
        scan: the folder of the series, or a file of many frames.
        frames: segment, slice and (H, W) pixels of each frame.
        named: name the slices as sources.
        placed: give the frames positions.
        moved: mm by which they lie off the slices.
        step: of the series, like ``spacing`` and ``origin``.
        spacing: see ``step``.
        origin: see ``step``.
        space: frame of reference UID, if another than that of the series.
        fractional: 8 bits with 200 as the highest value, instead of 1 bit.
        attributes: other values of the file's attributes.
    """
    groups = []
    for segment, number, _ in frames:
        frame = Dataset()
        frame.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=segment)]
        if placed:
            position = [origin[0], origin[1], origin[2] + number * step + moved]
            frame.PlanePositionSequence = [item(ImagePositionPatient=position)]
        if named:
            source = item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uid(scan, number))
            if scan.suffix:  # a file of many frames, which references count from 1
                source.ReferencedSOPInstanceUID = uid(scan)
                source.ReferencedFrameNumber = number + 1
            frame.DerivationImageSequence = [item(SourceImageSequence=[source])]
        groups.append(frame)
    shared = Dataset()
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=list(AXIAL))]
    shared.PixelMeasuresSequence = [item(PixelSpacing=list(spacing))]
    stack = np.stack([pixels for _, _, pixels in frames]).astype(np.uint8)
    bits = np.packbits(stack.reshape(-1), bitorder="little").tobytes()
    values = {
        "SOPClassUID": SEG,
        "Modality": "SEG",
        "FrameOfReferenceUID": space or uid(scan, "space"),
        "SegmentationType": "FRACTIONAL" if fractional else "BINARY",
        "MaximumFractionalValue": 200 if fractional else None,
        "SegmentSequence": [item(SegmentNumber=n) for n in sorted({s for s, _, _ in frames})],
        "PerFrameFunctionalGroupsSequence": groups,
        "SharedFunctionalGroupsSequence": [shared],
        "BitsAllocated": 8 if fractional else 1,
        "BitsStored": 8 if fractional else 1,
        "HighBit": 7 if fractional else 0,
        "PixelData": stack.tobytes() if fractional else bits + b"\0" * (len(bits) % 2),
    }
    return dicom(path, stack, **{**values, **attributes})


def item(**attributes: Any) -> Dataset:
    """An item of a sequence."""
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
