"""Scans become slices that show every voxel where radiologists expect it, in the right grey, with
its own mask, and without the patient's name."""

from __future__ import annotations

import builtins
import csv
import gzip
import hashlib
import importlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")

from pydicom.encaps import encapsulate

from prs_med.checked_settings import SettingError
from prs_med.data.annotate import annotate, find_pairs
from prs_med.data.records import DataError
from prs_med.data.scans.slices import Summary, write_slices
from prs_med.data.scans.window import parse_window
from prs_med.mask_classes import parse_classes
from prs_med.storage.store import StorageError
from tests.unit import scan_files as files

VOLUME = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)


def run(root: Path, masks: bool = False, output: str = "out", **settings: Any) -> Summary:
    """``write_slices`` of the folders ``scans`` and ``masks``."""
    values: dict[str, Any] = {
        "task": "liver",
        "modality": "CT",
        "split": "train",
        "window": "96,192",
        "plane": "axial",
        "label": None,
        "every": 1,
        "keep_empty": False,
        "workers": 1,
        "show_progress": False,
        **settings,
    }
    return write_slices(root / "scans", root / "masks" if masks else None, root / output, **values)


def pictures(root: Path, kind: str = "images", output: str = "out") -> dict[str, np.ndarray]:
    folder = root / output / "liver" / f"train_{kind}"
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def rows(root: Path) -> list[dict[str, str]]:
    with (root / "out" / "liver_pairs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shown(values: np.ndarray, low: float = 0, high: float = 192) -> np.ndarray:
    """A straight ramp by hand."""
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


# A patient of 8 x 6 x 4 voxels: index 0 is the patient's right, anterior and inferior end.


def stored_as(axes: tuple[int, ...], flips: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """VOLUME in another order of axes, and the affine that says so."""
    patient = VOLUME.transpose(2, 1, 0)  # (to the left, to the back, upwards)
    affine = np.diag([-0.75, -0.5, 2.0, 1.0])  # millimetres to the right, front and up
    affine[:3, 3] = (10, 20, 30)
    values = np.flip(patient.transpose(axes), [axis for axis in range(3) if flips[axis]])
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for axis, source in enumerate(axes):
        change[source, axis] = -1 if flips[axis] else 1
        change[source, 3] += (values.shape[axis] - 1) if flips[axis] else 0
    return np.ascontiguousarray(values), affine @ change


ORDERS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((0, 1), repeat=3)
]


def test_every_order_of_axes_gives_the_same_pictures(tmp_path: Path) -> None:
    assert len(ORDERS) == 48
    for number, order in enumerate(ORDERS):
        values, affine = stored_as(*order)
        files.nifti(tmp_path / f"scans/case{number:02d}.nii.gz", values, affine)
        files.nifti(tmp_path / f"masks/case{number:02d}.nii", values % 5 // 4, affine)
    run(tmp_path, masks=True)
    images, masks = pictures(tmp_path), pictures(tmp_path, "masks")
    assert len(images) == len(masks) == 48 * 4
    for name, image in images.items():
        expected = VOLUME[int(name[-4:])]
        assert np.array_equal(image, shown(expected)), name
        assert np.array_equal(masks[name], (expected % 5 == 4) * 255), name


@pytest.mark.parametrize(
    ("affine", "index"),
    [
        # NIfTI's own axes: to the right, to the front, up.
        (np.diag([1.0, 1.0, 1.0, 1.0]), (7, 5, 0)),
        # DICOM's: to the left, to the back, up.
        (np.diag([-1.0, -1.0, 1.0, 1.0]), (0, 0, 0)),
        # Stored upside down.
        (np.diag([-1.0, -1.0, -1.0, 1.0]), (0, 0, 3)),
        # Slightly oblique, as when the head was tilted.
        (np.array([[1, 0.1, 0, 5], [-0.1, 1, 0.1, 5], [0, -0.1, 1, 5], [0, 0, 0, 1]]), (7, 5, 0)),
    ],
)
def test_right_anterior_inferior_voxel_is_first_slice_top_left(
    tmp_path: Path, affine: np.ndarray, index: tuple[int, int, int]
) -> None:
    values = np.zeros((8, 6, 4), np.int16)
    values[index] = 192
    files.nifti(tmp_path / "scans/a.nii", values, affine)
    run(tmp_path)
    images = pictures(tmp_path)
    assert images["a_slice_0000"][0, 0] == 255
    assert sum(int(image.astype(int).sum()) for image in images.values()) == 255


@pytest.mark.parametrize(
    ("plane", "number", "row", "column"),
    [
        ("axial", 1, 2, 3),
        ("coronal", 2, 4 - 1 - 1, 3),
        ("sagittal", 3, 4 - 1 - 1, 2),
    ],
)
def test_planes(tmp_path: Path, plane: str, number: int, row: int, column: int) -> None:
    # 3 from the right, 2 from the front, 1 from below, in a file with DICOM's axes.
    values = np.zeros((8, 6, 4), np.int16)
    values[3, 2, 1] = 192
    files.nifti(tmp_path / "scans/a.nii", values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    run(tmp_path, plane=plane)
    assert pictures(tmp_path)[f"a_slice_{number:04d}"][row, column] == 255


def test_dicom_plane_is_the_stored_one(tmp_path: Path) -> None:
    files.series(tmp_path / "scans/a", VOLUME, orientation=(1, 0, 0, 0, 0, -1))
    run(tmp_path, plane="coronal")
    assert len(pictures(tmp_path)) == 4
    with pytest.raises(DataError, match="--plane sagittal"):
        run(tmp_path, plane="sagittal")


@pytest.mark.parametrize(
    ("window", "low", "high"),
    [
        ("lung", -1350, 150),
        ("soft_tissue", -160, 240),
        ("brain", 0, 80),
        ("bone", -500, 1300),
        ("mediastinum", -125, 225),
        ("10.5,21", 0, 21),
    ],
)
def test_window_by_hand(tmp_path: Path, window: str, low: float, high: float) -> None:
    values = np.linspace(-1500, 1500, 192).reshape(8, 6, 4).astype(np.float32)
    files.nifti(tmp_path / "scans/a.nii", values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    run(tmp_path, window=window)
    for number in range(4):
        found = pictures(tmp_path)[f"a_slice_{number:04d}"].astype(int)
        expected = shown(values[:, :, number].T.astype(np.float64), low, high)
        assert np.abs(found - expected).max() <= 1  # float32 against float64
        assert set(np.unique(found)) >= {0, 255}


@pytest.mark.parametrize("window", ["liver", "", "40", "40,0", "40,-5", "1,2,3", "nan,4"])
def test_unknown_window(window: str) -> None:
    with pytest.raises(SettingError, match=r"auto, lung, soft_tissue, brain, bone, mediastinum"):
        parse_window(window)


def test_dicom_window_and_rescale(tmp_path: Path) -> None:
    files.series(
        tmp_path / "scans/a",
        VOLUME,
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=[50, 400],
        WindowWidth=[101, 2000],
    )
    run(tmp_path, window="auto")
    # PS3.3 C.11.2.1.2.1: black up to 50 - 0.5 - 50, white from 50 - 0.5 + 50.
    expected = shown(VOLUME * 2.0 - 100, -0.5, 99.5)
    for number, image in enumerate(pictures(tmp_path).values()):
        assert np.array_equal(image, expected[number])


def test_percentiles_of_the_whole_volume(tmp_path: Path) -> None:
    files.series(tmp_path / "scans/a", VOLUME)
    run(tmp_path, window="auto")
    low, high = np.percentile(VOLUME, [0.5, 99.5])
    for number, image in enumerate(pictures(tmp_path).values()):
        assert np.array_equal(image, shown(VOLUME[number], low, high))


def test_slices_that_ask_for_different_windows_share_one(tmp_path: Path) -> None:
    for number, pixels in enumerate(VOLUME):
        files.dicom(
            tmp_path / f"scans/a/{number}.dcm",
            pixels,
            SeriesInstanceUID=files.uid("one"),
            InstanceNumber=number,
            WindowCenter=10 + number,
            WindowWidth=20,
        )
    run(tmp_path, window="auto")
    low, high = np.percentile(VOLUME, [0.5, 99.5])
    assert np.array_equal(pictures(tmp_path)["a_slice_0002"], shown(VOLUME[2], low, high))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    files.dicom(tmp_path / "scans/a.dcm", VOLUME[0].astype(np.uint16), "MONOCHROME1")
    run(tmp_path)
    assert np.array_equal(pictures(tmp_path)["a_slice_0000"], 255 - shown(VOLUME[0]))


def test_modality_lut_of_each_frame(tmp_path: Path) -> None:
    item = files.item
    groups = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-number)],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, -3.0 * number])],
        )
        for number in range(4)
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(files.AXIAL))],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1])],
    )
    files.dicom(
        tmp_path / "scans/a.dcm",
        VOLUME,
        PerFrameFunctionalGroupsSequence=groups,
        SharedFunctionalGroupsSequence=[shared],
    )
    run(tmp_path)
    for number, image in enumerate(pictures(tmp_path).values()):
        stored = 3 - number  # the last frame is the lowest
        assert np.array_equal(image, shown(VOLUME[stored] - stored))


def test_colours(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    files.dicom(tmp_path / "scans/rgb.dcm", rgb, "RGB")
    grey = np.stack([rgb[0, ..., 0], *[np.full((6, 8), 128, np.uint8)] * 2], axis=-1)
    files.dicom(tmp_path / "scans/ybr.dcm", grey, "YBR_FULL")
    wide = rgb.astype(np.uint16) * 256 + 255
    files.dicom(tmp_path / "scans/wide.dcm", wide, "RGB")
    run(tmp_path, window="auto")
    images = pictures(tmp_path)
    assert np.array_equal(images["rgb_slice_0000"], rgb[0])
    assert np.array_equal(images["rgb_slice_0001"], rgb[1])
    assert np.array_equal(images["wide_slice_0000"], wide[0] // 256)
    assert np.array_equal(images["ybr_slice_0000"], np.repeat(rgb[0, ..., :1], 3, axis=2))


def test_slices_are_ordered_by_position(tmp_path: Path) -> None:
    names = ["q.dcm", "a.dcm", "IM9", "sub/k.dcm"]
    instances = [7, 2, 9, 1]
    for number, name in enumerate(names):
        files.dicom(
            tmp_path / "scans/a" / name,
            VOLUME[number],
            SeriesInstanceUID=files.uid("one"),
            InstanceNumber=instances[number],
            ImagePositionPatient=[0, 0, -50 + 2.5 * number],
            ImageOrientationPatient=list(files.AXIAL),
            PixelSpacing=[1, 1],
        )
    (tmp_path / "scans/a/DICOMDIR").write_bytes(b"an index")
    run(tmp_path)
    for number, image in enumerate(pictures(tmp_path).values()):
        assert np.array_equal(image, shown(VOLUME[number]))


def test_without_positions_the_instance_number_orders(tmp_path: Path) -> None:
    for number, name in enumerate(["q.dcm", "a.dcm", "m.dcm", "k.dcm"]):
        files.dicom(
            tmp_path / "scans/a" / name,
            VOLUME[number],
            SeriesInstanceUID=files.uid("one"),
            InstanceNumber=number + 5,
        )
    run(tmp_path)
    for number, image in enumerate(pictures(tmp_path).values()):
        assert np.array_equal(image, shown(VOLUME[number]))
    (tmp_path / "scans/a/m.dcm").unlink()
    with pytest.raises(DataError, match=r"missing between a\.dcm and k\.dcm.*6 to 8"):
        run(tmp_path)


def test_missing_slice(tmp_path: Path) -> None:
    files.series(tmp_path / "scans/a", np.concatenate([VOLUME, VOLUME]))
    (tmp_path / "scans/a/slice003.dcm").unlink()
    with pytest.raises(DataError, match=r"4\.00 mm apart between slice002\.dcm and slice004\.dcm"):
        run(tmp_path)
    assert not (tmp_path / "out/liver_pairs.csv").exists()


def test_missing_slice_of_three(tmp_path: Path) -> None:
    files.series(tmp_path / "scans/a", VOLUME)
    (tmp_path / "scans/a/slice001.dcm").unlink()
    with pytest.raises(DataError, match=r"between slice000\.dcm and slice002\.dcm"):
        run(tmp_path)


def test_duplicate_slice(tmp_path: Path) -> None:
    files.series(tmp_path / "scans/a", VOLUME)
    copy = (tmp_path / "scans/a/slice002.dcm").read_bytes()
    (tmp_path / "scans/a/copy.dcm").write_bytes(copy)
    with pytest.raises(DataError, match=r"copy\.dcm and slice002\.dcm lie at the same place"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"SeriesInstanceUID": files.uid("other")}, "of different series"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "different orientations"),
        ({"PixelSpacing": [0.5, 0.5]}, "pixels of different size"),
        ({"Rows": 8, "Columns": 6}, "8 x 6 MONOCHROME2 and 6 x 8 MONOCHROME2"),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
    ],
)
def test_mixed_series(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    folder = files.series(tmp_path / "scans/a", VOLUME)
    attributes = {
        "SeriesInstanceUID": files.uid(folder, "series"),
        "ImagePositionPatient": [-10, -20, 38],
        "ImageOrientationPatient": list(files.AXIAL),
        "PixelSpacing": [0.5, 0.75],
        **other,
    }
    files.dicom(folder / "zz.dcm", VOLUME[0], **attributes)
    with pytest.raises(DataError, match=message) as error:
        run(tmp_path)
    assert "zz.dcm" in str(error.value)


def test_slice_that_is_shifted_sideways(tmp_path: Path) -> None:
    folder = files.series(tmp_path / "scans/a", VOLUME)
    files.dicom(
        folder / "slice001.dcm",
        VOLUME[1],
        SeriesInstanceUID=files.uid(folder, "series"),
        ImagePositionPatient=[-10, -14, 32],
        ImageOrientationPatient=list(files.AXIAL),
        PixelSpacing=[0.5, 0.75],
    )
    with pytest.raises(DataError, match=r"slice001\.dcm lies 6\.00 mm beside the line"):
        run(tmp_path)


def test_orientation_that_is_none(tmp_path: Path) -> None:
    files.series(tmp_path / "scans/a", VOLUME, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    with pytest.raises(DataError, match=r"slice000\.dcm is not a pair of perpendicular"):
        run(tmp_path)


def test_nifti_mask_of_another_grid(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    files.nifti(tmp_path / "scans/a.nii", VOLUME.T, affine)
    mask = np.ones((8, 6, 4), np.uint8)
    moved = affine.copy()
    moved[0, 3] = 0.3
    wrong = [(mask, moved), (mask, affine * 1.02), (mask, -affine), (mask[:, :, :3], affine)]
    wrong.append((np.ones((8, 8, 8), np.uint8), affine))
    for values, other in wrong:
        files.nifti(tmp_path / "masks/a.nii.gz", values, other)
        with pytest.raises(DataError, match=r"masks/a\.nii\.gz.*scans/a\.nii.*resample"):
            run(tmp_path, masks=True)
    # The same points in another order: for files of one format a sign of a mistake.
    turned = affine @ np.array([[-1, 0, 0, 7], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    files.nifti(tmp_path / "masks/a.nii.gz", mask, turned)
    with pytest.raises(DataError, match="resample"):
        run(tmp_path, masks=True)
    rounded = affine.copy()
    rounded[0, 3] = 0.01
    files.nifti(tmp_path / "masks/a.nii.gz", mask, rounded)
    assert run(tmp_path, masks=True).slices == 4


@pytest.mark.parametrize("flip", [False, True])
def test_nifti_mask_of_a_dicom_series(tmp_path: Path, flip: bool) -> None:
    files.series(tmp_path / "scans/a", VOLUME)
    marked = VOLUME % 7 == 3
    values, affine = marked.transpose(2, 1, 0).astype(np.uint8), files.series_affine()
    if flip:  # rows from the back to the front, as dcm2niix writes them
        values = np.ascontiguousarray(values[:, ::-1])
        affine[1] = [0, 0.5, 0, affine[1, 3] - 0.5 * 5]
    files.nifti(tmp_path / "masks/a.nii.gz", values, affine)
    run(tmp_path, masks=True)
    images, masks = pictures(tmp_path), pictures(tmp_path, "masks")
    for number in range(4):
        assert np.array_equal(images[f"a_slice_{number:04d}"], shown(VOLUME[number]))
        assert np.array_equal(masks[f"a_slice_{number:04d}"], marked[number] * 255)
    affine[2, 3] += 1
    files.nifti(tmp_path / "masks/a.nii.gz", values, affine)
    with pytest.raises(DataError, match="resample"):
        run(tmp_path, masks=True)


def test_nifti_mask_of_an_oblique_series(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    turned = [1, 0, 0, 0, np.cos(angle), -np.sin(angle)]
    files.series(tmp_path / "scans/a", VOLUME, orientation=[round(x, 6) for x in turned])
    across, down = np.array(turned[:3]), np.array(turned[3:])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * 0.75, down * 0.5, np.cross(across, down) * 2], axis=1)
    affine[:3, 3] = (-10, -20, 30)
    marked = VOLUME % 7 == 3
    values = marked.transpose(2, 1, 0).astype(np.uint8)
    files.nifti(tmp_path / "masks/a.nii", values, np.diag([-1.0, -1, 1, 1]) @ affine)
    run(tmp_path, masks=True)
    for number, mask in enumerate(pictures(tmp_path, "masks").values()):
        assert np.array_equal(mask, marked[number] * 255)


def test_dicom_mask_series(tmp_path: Path) -> None:
    files.series(tmp_path / "scans/a", VOLUME)
    marked = (VOLUME % 7 == 3).astype(np.uint8)
    files.series(tmp_path / "masks/a", marked, names=["d", "c", "b", "a"])
    run(tmp_path, masks=True)
    for number, mask in enumerate(pictures(tmp_path, "masks").values()):
        assert np.array_equal(mask, marked[number] * 255)
    files.series(tmp_path / "masks/a", marked, names=["d", "c", "b", "a"], origin=(0, 0, 0))
    with pytest.raises(DataError, match="resample"):
        run(tmp_path, masks=True)


def test_dicom_mask_without_positions(tmp_path: Path) -> None:
    files.dicom(tmp_path / "scans/a.dcm", VOLUME.astype(np.uint16))
    marked = (VOLUME % 7 == 3).astype(np.uint8)
    files.dicom(tmp_path / "masks/a.dcm", marked)
    run(tmp_path, masks=True)
    for number, mask in enumerate(pictures(tmp_path, "masks").values()):
        assert np.array_equal(mask, marked[number] * 255)
    files.dicom(tmp_path / "masks/a.dcm", marked[:3])
    with pytest.raises(DataError, match="resample"):
        run(tmp_path, masks=True)


def test_png_mask_of_an_x_ray(tmp_path: Path) -> None:
    files.dicom(tmp_path / "scans/a.dcm", VOLUME[0].astype(np.uint16))
    (tmp_path / "masks").mkdir()
    labels = (VOLUME[0] % 3).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "masks/a.png")
    with pytest.raises(DataError, match="--classes 1:NAME,2:NAME"):
        run(tmp_path, masks=True)
    run(tmp_path, masks=True, label=2)
    assert np.array_equal(pictures(tmp_path, "masks")["a_slice_0000"], (labels == 2) * 255)
    two = np.where(labels > 0, np.uint8(255), np.uint8(0))
    Image.fromarray(two).save(tmp_path / "masks/a.png")
    run(tmp_path, masks=True)
    assert np.array_equal(pictures(tmp_path, "masks")["a_slice_0000"], two)
    Image.fromarray(two.T.copy()).save(tmp_path / "masks/a.png")
    with pytest.raises(DataError, match="resample"):
        run(tmp_path, masks=True)


def test_a_png_mask_shows_the_colours_of_its_palette(tmp_path: Path) -> None:
    files.dicom(tmp_path / "scans/a.dcm", VOLUME[0].astype(np.uint16))
    (tmp_path / "masks").mkdir()
    structure = VOLUME[0] % 3 == 1
    mask = Image.fromarray((~structure).astype(np.uint8), "P")
    mask.putpalette([255, 255, 255, 0, 0, 0])
    mask.save(tmp_path / "masks/a.png")
    run(tmp_path, masks=True)
    assert np.array_equal(pictures(tmp_path, "masks")["a_slice_0000"], structure * 255)


ONE = VOLUME[0] % 7 == 3
TWO = VOLUME[0] % 5 == 1


@pytest.mark.parametrize(("named", "placed"), [(True, False), (False, True), (True, True)])
def test_segmentation_frames_find_their_slices(tmp_path: Path, named: bool, placed: bool) -> None:
    scan = files.series(tmp_path / "scans/a", VOLUME, names=["d", "c", "b", "a"])
    frames = [(1, 2, ONE), (2, 0, TWO), (2, 2, TWO)]
    files.segmentation(tmp_path / "masks/a.dcm", scan, frames, named=named, placed=placed)
    summary = run(tmp_path, masks=True)
    assert (summary.slices, summary.empty) == (2, 2)
    masks = pictures(tmp_path, "masks")
    assert np.array_equal(masks["a_slice_0000"], TWO * 255)
    assert np.array_equal(masks["a_slice_0002"], (ONE | TWO) * 255)
    run(tmp_path, masks=True, label=1, keep_empty=True)
    masks = pictures(tmp_path, "masks")
    assert not masks["a_slice_0000"].any()
    assert np.array_equal(masks["a_slice_0002"], ONE * 255)
    with pytest.raises(DataError, match="no segment 3; there are 1, 2"):
        run(tmp_path, masks=True, label=3)


def test_half_of_a_fraction_is_foreground(tmp_path: Path) -> None:
    scan = files.series(tmp_path / "scans/a", VOLUME)
    shares = np.zeros((6, 8), np.uint8)
    shares[0, :3] = (99, 100, 200)
    files.segmentation(tmp_path / "masks/a.dcm", scan, [(1, 1, shares)], fractional=True)
    run(tmp_path, masks=True)
    assert pictures(tmp_path, "masks")["a_slice_0001"][0, :4].tolist() == [0, 255, 255, 0]


def test_segmentation_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "scans/a.dcm"
    files.dicom(path, VOLUME.astype(np.uint16), SOPInstanceUID=files.uid(path))
    frames = [(1, 3, ONE), (1, 1, TWO)]
    files.segmentation(tmp_path / "masks/a.dcm", path, frames, named=True, placed=False)
    run(tmp_path, masks=True)
    masks = pictures(tmp_path, "masks")
    assert list(masks) == ["a_slice_0001", "a_slice_0003"]
    assert np.array_equal(masks["a_slice_0001"], TWO * 255)


def test_label_map(tmp_path: Path) -> None:
    scan = files.series(tmp_path / "scans/a", VOLUME)
    labels = np.zeros((6, 8), np.uint8)
    labels[0, :3] = (1, 2, 1)
    files.segmentation(
        tmp_path / "masks/a.dcm",
        scan,
        [(1, 0, labels)],
        fractional=True,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.66.7",
        SegmentationType="LABELMAP",
        SegmentSequence=[files.item(SegmentNumber=1), files.item(SegmentNumber=2)],
    )
    run(tmp_path, masks=True)
    assert pictures(tmp_path, "masks")["a_slice_0000"][0, :4].tolist() == [255, 255, 255, 0]
    run(tmp_path, masks=True, label=2)
    assert pictures(tmp_path, "masks")["a_slice_0000"][0, :4].tolist() == [0, 255, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moved": 0.5}, r"frame 1 lies on no slice of .*scans/a: the nearest is 0\.50 mm off"),
        ({"spacing": (0.5, 0.5)}, "resample"),
        ({"space": files.uid("elsewhere")}, "another frame of reference"),
        ({"placed": False}, "names 0 of its slices"),
        ({"named": True, "moved": 2.0}, r"lies on slice002\.dcm, but names slice001\.dcm"),
    ],
)
def test_segmentation_of_something_else(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    scan = files.series(tmp_path / "scans/a", VOLUME)
    files.segmentation(tmp_path / "masks/a.dcm", scan, [(1, 1, ONE)], **changes)
    with pytest.raises(DataError, match=message):
        run(tmp_path, masks=True)


def test_segmentation_of_another_size(tmp_path: Path) -> None:
    scan = files.series(tmp_path / "scans/a", VOLUME)
    files.segmentation(tmp_path / "masks/a.dcm", scan, [(1, 1, ONE[:5])])
    with pytest.raises(DataError, match=r"slices of 8 x 5 pixels.*8 x 6.*resample"):
        run(tmp_path, masks=True)


def test_nothing_tells_who_the_patient_is(tmp_path: Path) -> None:
    study = files.uid("study of the two")
    cases = ["mrn_0815_4711_before", "xMRN08154711x", f"{files.ACCESSION}", study, "ERIKA-after"]
    for number, case in enumerate(cases):
        files.series(
            tmp_path / "scans" / case, VOLUME + number, StudyInstanceUID=study, BodyPartExamined="X"
        )
        files.nifti(
            tmp_path / f"masks/{case}.nii",
            np.ones((8, 6, 4), np.uint8),
            files.series_affine(),
        )
    summary = run(tmp_path, masks=True)
    digest = hashlib.sha256(files.PATIENT_ID.encode()).hexdigest()
    assert {row["patient_id"] for row in rows(tmp_path)} == {f"p{digest[:16]}"}
    assert len(summary.renamed) == 5
    assert f"p{digest[:16]}_before" in summary.renamed
    told = "\n".join(f"{k}\n{v!r}" for k, v in bytes_below(tmp_path / "out").items()).lower()
    told += summary.text().lower()
    identifiers = [files.PATIENT_ID, "0815", "4711", "erika", "mustermann", "19610412"]
    for identifier in [*identifiers, files.ACCESSION, study, files.uid(tmp_path / "scans" / study)]:
        assert identifier.lower() not in told, identifier
    for path in (tmp_path / "out").rglob("*.png"):
        assert not Image.open(path).info


def test_short_identifiers_are_whole_words(tmp_path: Path) -> None:
    for case in ("7_late", "ct17"):
        files.series(tmp_path / "scans" / case, VOLUME, PatientID="7")
    digest = hashlib.sha256(b"7").hexdigest()[:16]
    assert run(tmp_path).renamed == [f"p{digest}_late"]


def test_one_patient_id_for_all_scans_is_said(tmp_path: Path) -> None:
    for case in ("a", "b"):
        files.series(tmp_path / "scans" / case, VOLUME, PatientID="ANONYMOUS")
    summary = run(tmp_path)
    assert summary.one_patient
    assert "all scans have one patient ID" in summary.text()
    files.series(tmp_path / "scans" / "c", VOLUME, PatientID="7")
    assert not run(tmp_path).one_patient


def test_without_a_patient_id_the_case_is_the_patient(tmp_path: Path) -> None:
    files.series(tmp_path / "scans/a", VOLUME, PatientID="")
    run(tmp_path)
    assert {row["patient_id"] for row in rows(tmp_path)} == {"a"}


def test_two_cases_that_would_get_one_name(tmp_path: Path) -> None:
    for case in ("erika", "mustermann"):
        files.series(tmp_path / "scans" / case, VOLUME)
    with pytest.raises(DataError, match="rename one"):
        run(tmp_path)


def test_rows(tmp_path: Path) -> None:
    files.nifti(tmp_path / "scans/b.nii", VOLUME.T, np.diag([-1.0, -1, 1, 1]))
    files.nifti(tmp_path / "scans/a.nii.gz", VOLUME.T, np.diag([-1.0, -1, 1, 1]))
    labels = np.zeros((8, 6, 4), np.uint8)
    labels[0, 0, 2] = 3
    labels[1, 0, 1:] = 1
    files.nifti(tmp_path / "masks/b.nii", labels, np.diag([-1.0, -1, 1, 1]))
    files.nifti(tmp_path / "masks/a.nii", labels * 0, np.diag([-1.0, -1, 1, 1]))
    files.nifti(tmp_path / "masks/other.nii", labels, np.eye(4))
    (tmp_path / "scans/notes.txt").write_text("x")
    summary = run(tmp_path, masks=True, label=3, workers=2)
    assert rows(tmp_path) == [
        {
            "image_path": "liver/train_images/b_slice_0002.png",
            "mask_path": "liver/train_masks/b_slice_0002.png",
            "task": "liver",
            "modality": "CT",
            "split": "train",
            "patient_id": "b",
            "structure": "",
        }
    ]
    assert (summary.cases, summary.slices, summary.empty) == (2, 1, 7)
    assert summary.empty_cases == ["a"]
    assert [Path(name).name for name in summary.unused] == ["notes.txt", "other.nii"]
    mask = pictures(tmp_path, "masks")["b_slice_0002"]
    assert mask[0, 0] == 255
    assert mask.astype(int).sum() == 255
    with pytest.raises(DataError, match="no slice has foreground with the value 9"):
        run(tmp_path, masks=True, label=9)
    run(tmp_path, masks=True, keep_empty=True, every=3)
    names = [row["image_path"].rpartition("/")[2] for row in rows(tmp_path)]
    assert names == [f"{case}_slice_{n:04d}.png" for case in "ab" for n in (0, 3)]


def test_without_masks_and_other_splits(tmp_path: Path) -> None:
    files.nifti(tmp_path / "scans/a.nii", VOLUME.T, np.diag([-1.0, -1, 1, 1]))
    run(tmp_path, split="test")
    assert [row["mask_path"] for row in rows(tmp_path)] == [""] * 4
    run(tmp_path)
    (tmp_path / "scans/a.nii").rename(tmp_path / "scans/c.nii")
    summary = run(tmp_path, every=2)
    assert [(row["split"], Path(row["image_path"]).stem) for row in rows(tmp_path)] == [
        ("train", "c_slice_0000"),
        ("train", "c_slice_0002"),
        *(("test", f"a_slice_000{number}") for number in range(4)),
    ]
    assert summary.left_over == [f"liver/train_images/a_slice_000{n}.png" for n in range(4)]
    assert "files of an earlier run" in summary.text()
    (tmp_path / "out/liver_pairs.csv").write_text("image_path,note\nx,y\n")
    with pytest.raises(DataError, match="not written by this program"):
        run(tmp_path)


def test_same_bytes_again(tmp_path: Path) -> None:
    for number in range(5):
        files.series(tmp_path / f"scans/case{number}", VOLUME + number)
        scan = tmp_path / f"scans/case{number}"
        files.segmentation(tmp_path / f"masks/case{number}.dcm", scan, [(1, 1, ONE), (1, 3, TWO)])
    run(tmp_path, masks=True, window="auto", workers=3)
    first = bytes_below(tmp_path / "out")
    assert len(first) == 5 * 2 * 2 + 1
    run(tmp_path, masks=True, window="auto", workers=1)
    assert bytes_below(tmp_path / "out") == first


def test_truncated_files_are_named(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1, 1, 1])
    noise = np.random.default_rng(0).integers(0, 999, (8, 6, 4)).astype(np.int16)
    for name in ("scans/a.nii", "scans/a.nii.gz", "scans/a.dcm"):
        path = tmp_path / name
        if path.suffix == ".dcm":
            files.dicom(path, noise[0].astype(np.uint16))
        else:
            files.nifti(path, noise, affine)
        whole = path.read_bytes()
        for kept in {0, 1, 100, 200, 400, len(whole) // 2, len(whole) - 20}:
            path.write_bytes(whole[: min(kept, len(whole) - 1)])
            with pytest.raises(DataError) as error:
                run(tmp_path)
            assert str(path) in str(error.value)
        path.unlink()


def test_compressed_pixels_name_what_decodes_them(tmp_path: Path) -> None:
    path = files.dicom(tmp_path / "scans/a.dcm", VOLUME[0].astype(np.uint16))
    import pydicom

    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 40])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"a\.dcm.*High-Throughput JPEG 2000.*pylibjpeg-openjpeg"):
        run(tmp_path)


@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 1]])
def test_values_that_are_no_numbers(tmp_path: Path, values: list[float]) -> None:
    files.nifti(tmp_path / "scans/a.nii", np.float32([[values]]), np.eye(4))
    with pytest.raises(DataError, match=r"a\.nii.*no numbers"):
        run(tmp_path)


def test_nifti_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "scans/a.nii"
    files.nifti(path, VOLUME, None)
    with pytest.raises(DataError, match=r"a\.nii: neither sform nor qform"):
        run(tmp_path)
    files.nifti(path, np.zeros((2, 2, 2, 3), np.int16), np.eye(4))
    with pytest.raises(DataError, match=r"a\.nii: 3 volumes"):
        run(tmp_path)
    flat = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    files.nifti(path, VOLUME, flat)
    with pytest.raises(DataError, match=r"a\.nii: its affine does not span"):
        run(tmp_path)
    files.nifti(path, VOLUME, np.eye(4))
    files.nifti(tmp_path / "masks/a.nii", np.full((4, 6, 8), 0.5, np.float32), np.eye(4))
    with pytest.raises(DataError, match=r"masks/a\.nii: values between whole numbers"):
        run(tmp_path, masks=True)


@pytest.mark.parametrize(
    "name", ["...nii", "a\\b.nii", "-rf.nii", "a\nb.nii", " a.nii", "a..b.nii"]
)
def test_unsafe_names(tmp_path: Path, name: str) -> None:
    files.nifti(tmp_path / "scans/good.nii", VOLUME, np.eye(4)).rename(tmp_path / "scans" / name)
    with pytest.raises(DataError, match="cannot be part of a file name"):
        run(tmp_path)


def test_settings_are_checked(tmp_path: Path) -> None:
    files.nifti(tmp_path / "scans/a.nii", VOLUME, np.eye(4))
    wrong = [{"task": "../x"}, {"task": ""}, {"split": "x"}, {"plane": "x"}, {"every": 0}]
    for settings in wrong:
        with pytest.raises(SettingError, match="--"):
            run(tmp_path, **settings)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="1 of 1 scans have no mask: a"):
        run(tmp_path, masks=True)
    files.series(tmp_path / "scans/a", VOLUME)
    with pytest.raises(DataError, match="same name"):
        run(tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        run(tmp_path / "nowhere")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in ("pydicom", "nibabel"):
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    def refused(name: str) -> Any:
        raise ModuleNotFoundError(name)

    files.nifti(tmp_path / "scans/a.nii", VOLUME, np.eye(4))
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib, "import_module", refused)
    with pytest.raises(SettingError, match=r"NIfTI.*nibabel: pip install -e '\.\[scans\]'"):
        run(tmp_path)
    (tmp_path / "scans/a.nii").rename(tmp_path / "scans/a.dcm")
    with pytest.raises(SettingError, match=r"DICOM.*pydicom: pip install -e '\.\[scans\]'"):
        run(tmp_path)


def test_text_in_the_pixels_is_reported(tmp_path: Path) -> None:
    files.dicom(tmp_path / "scans/a.dcm", VOLUME[0].astype(np.uint16), BurnedInAnnotation="YES")
    files.dicom(tmp_path / "scans/b.dcm", VOLUME[0].astype(np.uint16), BurnedInAnnotation="NO")
    assert run(tmp_path).burned_in == ["a"]


# Several classes in one mask


def class_labels() -> np.ndarray:
    """(4, 6, 8): class 1 on all slices, class 2 on the last two."""
    labels = np.zeros(VOLUME.shape, np.uint8)
    labels[:, 1:3, 1:3] = 1
    labels[2:, 4, 5:7] = 2
    return labels


def written_as(root: Path, how: str, labels: np.ndarray) -> None:
    """A scan and its mask, in another format each time."""
    if how == "nifti":
        files.nifti(root / "scans/a.nii", VOLUME.T, np.diag([-1.0, -1, 1, 1]))
        files.nifti(root / "masks/a.nii", labels.T, np.diag([-1.0, -1, 1, 1]))
        return
    series = files.series(root / "scans/a", VOLUME)
    if how == "series":
        files.series(root / "masks/a", labels)
        return
    frames = [(value, n, labels[n] == value) for value in (1, 2) for n in range(len(labels))]
    files.segmentation(root / "masks/a.dcm", series, [f for f in frames if f[2].any()])


@pytest.mark.parametrize("how", ["nifti", "series", "segmentation"])
def test_each_class_has_its_masks_where_it_is(tmp_path: Path, how: str) -> None:
    labels = class_labels()
    written_as(tmp_path, how, labels)
    summary = run(tmp_path, masks=True)
    assert summary.united == ["a: 1, 2"]
    assert "count as one structure" in summary.text()
    for path in (tmp_path / "out/liver/train_masks").iterdir():
        path.unlink()
    summary = run(tmp_path, masks=True, classes=parse_classes("1:liver,2:big tumor,3:cyst"))
    masks = pictures(tmp_path, "masks")
    assert sorted(masks) == sorted(
        [f"a_slice_{n:04d}_liver" for n in range(4)]
        + [f"a_slice_{n:04d}_big_tumor" for n in (2, 3)]
    )
    for name, mask in masks.items():
        shown = labels[int(name[8:12])] == (1 if name.endswith("liver") else 2)
        assert np.array_equal(mask, shown * 255)
    told = [(row["structure"], row["mask_path"][-20:]) for row in rows(tmp_path)]
    assert ("big tumor", "ce_0002_big_tumor.png"[-20:]) in told
    assert (summary.slices, len(told), summary.absent, summary.united) == (4, 6, ["cyst"], [])
    with pytest.raises(DataError, match=r"--classes does not name its values 2"):
        run(tmp_path, masks=True, classes=parse_classes("1:liver"))
    with pytest.raises(SettingError, match="--label and --classes"):
        run(tmp_path, masks=True, classes=parse_classes("1:liver,2:"), label=1)


def test_annotation_asks_about_the_classes_of_slices(tmp_path: Path) -> None:
    written_as(tmp_path, "nifti", class_labels())
    run(tmp_path, masks=True, classes=parse_classes("1:liver,2:tumor"))
    root = tmp_path / "out"
    annotate(
        root,
        find_pairs(root, root / "liver_pairs.csv"),
        root / "annotations/a.csv",
        structure=None,
        seed=0,
        min_component=0,
        workers=1,
        show_progress=False,
    )
    with (root / "annotations/a.csv").open(newline="") as file:
        asked = list(csv.DictReader(file))
    assert len(asked) == 6
    for row in asked:
        of_tumor = row["mask_path"].endswith("tumor.png")
        assert ("tumor" in row["position"], "liver" in row["position"]) == (of_tumor, not of_tumor)


# What nothing was scanned of


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_padding_is_no_tissue(tmp_path: Path, photometric: str, kind: type) -> None:
    padding, written = (-2000, 63536) if kind is np.int16 else (63536, 63536)
    volume = np.tile(np.arange(256, dtype=kind).reshape(16, 16) + 1000, (2, 1, 1))
    bare = volume.copy()
    volume[:, :8] = padding
    files.series(
        tmp_path / "scans/a",
        volume,
        photometric=photometric,
        RescaleSlope=2,
        RescaleIntercept=-1024,
        PixelPaddingValue=written if kind is np.uint16 else padding,
    )
    run(tmp_path, window="auto")
    found = pictures(tmp_path)["a_slice_0000"]
    assert (found[:8] == 0).all()
    tissue = bare[0, 8:].astype(float)
    low, high = np.percentile(tissue, (0.5, 99.5))
    expected = shown(tissue, low, high)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(found[8:].astype(int) - expected).max() <= 1


def test_a_range_of_padding_and_nothing_else_is_black(tmp_path: Path) -> None:
    volume = (VOLUME % 3 - 3).astype(np.int16)
    files.series(tmp_path / "scans/a", volume, PixelPaddingValue=-3, PixelPaddingRangeLimit=-1)
    run(tmp_path, window="auto")
    assert not any(picture.any() for picture in pictures(tmp_path).values())


# Limits


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"NumberOfFrames": 3_000_000}, "3000000 frames"),
        ({"NumberOfFrames": -1}, "-1 slices"),
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels"),
        ({"Rows": 60000, "Columns": 1}, "1 x 60000 pixels"),
        ({"NumberOfFrames": 600, "Rows": 1000, "Columns": 1000}, "600 slices of 1000 x 1000"),
    ],
)
def test_a_small_file_that_names_many_pixels_is_refused_at_once(
    tmp_path: Path, attributes: dict[str, int], message: str
) -> None:
    files.dicom(tmp_path / "scans/a.dcm", VOLUME[0].astype(np.uint16), **attributes)
    with pytest.raises(DataError, match=message):
        run(tmp_path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((30000, 30000, 30), "27000000000 voxels"), ((999, 999, 99), "too short")],
)
def test_a_small_volume_that_names_many_voxels_is_refused_at_once(
    tmp_path: Path, shape: tuple[int, int, int], message: str
) -> None:
    path = files.nifti(tmp_path / "whole.nii", VOLUME.T, np.eye(4))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array(shape, "<i2").tobytes()
    for name in ("scans/a.nii", "scans/b.nii.gz"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        packed = gzip.compress(bytes(content)) if name.endswith("gz") else bytes(content)
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(DataError, match=message):
            run(tmp_path)
        (tmp_path / name).unlink()


def test_nothing_is_written_through_links_out_of_the_output(tmp_path: Path) -> None:
    files.nifti(tmp_path / "scans/a.nii", VOLUME.T, np.eye(4))
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/liver").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="a link that leads out"):
        run(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []
