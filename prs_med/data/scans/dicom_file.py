"""One DICOM file: its frames, and their values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prs_med.data.records import DataError
from prs_med.data.scans.libraries import library, reading
from prs_med.data.scans.limits import check_slices

if TYPE_CHECKING:
    from pydicom import Dataset

# Transfer syntaxes (DICOM PS3.5 chapter 10 and annex A) and the package that decodes them.
_DECODERS = {
    "1.2.840.10008.1.2.4.5": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.7": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.8": "pyjpegls",
    "1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.5": "pylibjpeg pylibjpeg-rle",
}
_GREY = ("MONOCHROME1", "MONOCHROME2")
# What colours are once decoded: JPEG 2000 undoes its own transforms and keeps their names.
_COLOUR = ("RGB", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class Frame:
    """One image of a file, and where it lies: image plane module, DICOM PS3.3 C.7.6.2."""

    path: Path
    number: int
    """Within the file, from 0."""
    size: tuple[int, int]
    """Rows and columns."""
    photometric: str
    """Photometric interpretation, PS3.3 C.7.6.3.1.2."""
    uid: str
    """SOP instance UID of the file."""
    series: str
    """Series instance UID."""
    space: str
    """Frame of reference UID: positions can be compared where it is the same; may be empty."""
    instance: int | None
    """Instance number of the file."""
    position: np.ndarray | None
    """(3,) float64: mm to the left, posterior and superior of the first pixel's centre."""
    orientation: np.ndarray | None
    """(6,) float64: unit vector along a row, to the next column; unit vector down a column."""
    spacing: np.ndarray | None
    """(2,) float64: mm between rows, mm between columns."""
    window: tuple[float, float, str] | None
    """First window centre and width, and name of the function (PS3.3 C.11.2)."""

    @property
    def plane(self) -> np.ndarray | None:
        """Where the first pixel, the last of its row and the last of its column lie: (3, 3) mm."""
        if self.position is None or self.orientation is None or self.spacing is None:
            return None
        right = self.orientation[:3] * self.spacing[1] * (self.size[1] - 1)
        down = self.orientation[3:] * self.spacing[0] * (self.size[0] - 1)
        return np.stack([self.position, self.position + right, self.position + down])


def read_header(path: Path) -> Dataset:
    """All of a DICOM file but its pixels.

    Raises:
        DataError: it is no DICOM file, or damaged, or holds no image.
    """
    pydicom = library("pydicom")
    with reading(path, "DICOM"):
        try:
            header: Dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            raise DataError(
                f"{path}: not a DICOM file (no DICM after 128 bytes); replace or remove it"
            ) from None
        if not (header.get("Rows") and header.get("Columns")):
            raise DataError(
                f"{path}: DICOM file without an image, or cut off before it; replace or remove it"
            )
        return header


def frames_of(header: Dataset, path: Path) -> list[Frame]:
    """The frames of a file; positions of several frames come from its functional groups."""
    with reading(path, "DICOM"):
        count = int(header.get("NumberOfFrames") or 1)
        check_slices(count, int(header.Rows), int(header.Columns), path)
        if count > path.stat().st_size:
            raise DataError(f"{path}: too short for the {count} frames that it names")
        return [_frame(header, path, number, alone=count == 1) for number in range(count)]


def grouped_value(header: Dataset, number: int, group: str, keyword: str) -> Any:
    """An attribute in the functional groups of a multi-frame file, DICOM PS3.3 C.7.6.16: the one of
    frame ``number``, or else the one that all frames share; None without one."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in (*own[number : number + 1], *shared[:1]):
        items = groups.get(group)
        if items and items[0].get(keyword) not in (None, ""):
            return items[0].get(keyword)
    return None


def grey_or_colour(path: Path) -> np.ndarray:
    """The frames of a file in the units of the scan.

    Grey values go through the rescale slope and intercept, or the modality LUT (PS3.3 C.11.1);
    colours become RGB (PS3.3 C.7.6.3.1.2).

    Returns:
        (F, H, W) float32, NaN where nothing was scanned; or (F, H, W, 3) uint8.

    Raises:
        DataError: the file is damaged, or stored in a way that cannot be decoded.
    """
    dataset, values, photometric = _decoded(path)
    with reading(path, "DICOM"):
        if photometric in _GREY:
            grey = _modality_values(dataset, values).astype(np.float32)
            grey[_padding(dataset, values)] = np.nan
            return grey
        bits = int(dataset.BitsStored)
        if photometric == "PALETTE COLOR":
            values = library("pydicom.pixels").apply_color_lut(values, dataset)[..., :3]
            bits = values.dtype.itemsize * 8
        elif photometric not in _COLOUR:
            raise DataError(f"{path}: colours stored as {photometric}; convert the file to RGB")
        return (values >> max(0, bits - 8)).astype(np.uint8)


def labels_in(path: Path) -> np.ndarray:
    """The frames of a file of labels as stored: (F, H, W) of a type of whole numbers.

    Raises:
        DataError: the file is damaged, or holds colours or fractions.
    """
    _, values, photometric = _decoded(path)
    if photometric not in (*_GREY, "PALETTE COLOR") or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{path}: a mask needs one whole number per pixel, not {photometric}")
    return values


def _frame(header: Dataset, path: Path, number: int, *, alone: bool) -> Frame:
    def value(group: str, keyword: str) -> Any:
        found = grouped_value(header, number, group, keyword)
        # At the top level there is one value, which cannot tell frames apart.
        return header.get(keyword) if found is None and alone else found

    def numbers(group: str, keyword: str, count: int) -> np.ndarray | None:
        found = value(group, keyword)
        if found is None or found == "":
            return None
        if len(found) != count:
            raise DataError(f"{path}: {keyword} needs {count} numbers")
        return np.array([float(one) for one in found], np.float64)

    instance = header.get("InstanceNumber")
    return Frame(
        path=path,
        number=number,
        size=(int(header.Rows), int(header.Columns)),
        photometric=str(header.get("PhotometricInterpretation", "")),
        uid=str(header.get("SOPInstanceUID", "")),
        series=str(header.get("SeriesInstanceUID", "")),
        space=str(header.get("FrameOfReferenceUID") or ""),
        instance=None if instance in (None, "") else int(instance),
        position=numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        spacing=numbers("PixelMeasuresSequence", "PixelSpacing", 2),
        window=_window(header, number),
    )


def _window(header: Dataset, number: int) -> tuple[float, float, str] | None:
    def first(keyword: str) -> Any:
        found = grouped_value(header, number, "FrameVOILUTSequence", keyword)
        found = header.get(keyword) if found is None else found
        several = not isinstance(found, str) and hasattr(found, "__getitem__")
        return (found[0] if len(found) else None) if several else found

    center, width = first("WindowCenter"), first("WindowWidth")
    if center in (None, "") or width in (None, ""):
        return None
    return float(center), float(width), str(first("VOILUTFunction") or "LINEAR")


def _padding(dataset: Dataset, values: np.ndarray) -> np.ndarray:
    """Where pixels only fill the rectangle, as around a round field of view: (F, H, W) bool, by
    PixelPaddingValue and PixelPaddingRangeLimit (DICOM PS3.3 C.7.5.1.1.2)."""
    bounds = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    stored = [int(bound) for bound in bounds if bound not in (None, "")]
    if bounds[0] in (None, "") or not stored:
        return np.zeros(values.shape, bool)
    if values.dtype.kind == "i":
        # Written without a sign, as some programs do: 63536 for -2000.
        highest = np.iinfo(values.dtype).max
        stored = [bound - 2 * (highest + 1) if bound > highest else bound for bound in stored]
    within: np.ndarray = (min(stored) <= values) & (values <= max(stored))
    return within


def _modality_values(dataset: Dataset, values: np.ndarray) -> np.ndarray:
    group = "PixelValueTransformationSequence"
    slopes = [grouped_value(dataset, n, group, "RescaleSlope") for n in range(len(values))]
    if all(slope is None for slope in slopes):
        result: np.ndarray = library("pydicom.pixels").apply_modality_lut(values, dataset)
        return result
    rescaled = values.astype(np.float32)
    for number, slope in enumerate(slopes):
        intercept = grouped_value(dataset, number, group, "RescaleIntercept")
        rescaled[number] = values[number] * float(slope) + float(intercept)
    return rescaled


def _decoded(path: Path) -> tuple[Dataset, np.ndarray, str]:
    """The whole file, its frames (F, H, W) or (F, H, W, samples), and what their values mean."""
    pydicom, pixels = library("pydicom"), library("pydicom.pixels")
    with reading(path, "DICOM"):
        dataset: Dataset = pydicom.dcmread(path)
        syntax = pydicom.uid.UID(dataset.file_meta.TransferSyntaxUID)
        help_text = ""
        if syntax.is_compressed and not syntax.is_deflated:
            package = next((p for uid, p in _DECODERS.items() if syntax.startswith(uid)), "")
            remedy = f"pip install {package}" if package else "store it uncompressed"
            help_text = f"its pixels are stored as {syntax.name}; if it is whole, {remedy}"
        try:
            values, meaning = pixels.get_decoder(syntax).as_array(dataset)
        except (NotImplementedError, RuntimeError) as error:
            if not help_text:
                raise
            raise DataError(f"{path}: cannot be decoded: {help_text}") from error
        frames = int(meaning["number_of_frames"])
        colour = meaning["samples_per_pixel"] > 1
        if values.ndim == (3 if colour else 2):
            values = values[None]
        if len(values) != frames or values.ndim != (4 if colour else 3):
            raise DataError(f"{path}: {len(values)} frames of {frames} are there")
        return dataset, values, str(meaning["photometric_interpretation"])
