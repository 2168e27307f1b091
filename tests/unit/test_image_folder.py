"""Inference asks about the images of a folder, and says what else lies there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from prs_med.answering_config import InferenceSettings
from prs_med.config import Settings
from prs_med.data.records import DataError
from prs_med.evaluate.image_folder import image_folder
from prs_med.evaluate.open_questions import open_asked


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(root / name, "png")


def names(root: Path, written: tuple[Path, ...] = ()) -> list[str]:
    return [path.relative_to(root).as_posix() for path in image_folder(root, written).images]


def test_images_are_found_in_all_folders_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "b.png", "a/c.JPG", "a/b/x.webp", ".hidden.png", ".trash/d.png")
    assert names(tmp_path) == ["a/b/x.webp", "a/c.JPG", "b.png"]


def test_masks_are_not_asked_about(tmp_path: Path) -> None:
    fill(
        tmp_path,
        *("train_images/a.png", "train_masks/a.png", "train_masks_parts/a_1.png", "masks/b.png"),
        *("ISIC_1.jpg", "ISIC_1_segmentation.png", "images_and_masks/c.png", "gas_masks.png"),
    )
    found = image_folder(tmp_path)
    assert names(tmp_path) == [
        *("ISIC_1.jpg", "gas_masks.png", "images_and_masks/c.png", "train_images/a.png")
    ]
    assert found.passed_over() == "4 masks are passed over"
    assert names(tmp_path / "masks") == ["b.png"]  # asked for by its name


def test_results_are_not_asked_about(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "run/overlays/000000.png", "old/overlays/000000.png", "overlays/b.png")
    (tmp_path / "old/made_by.json").write_text("{}")
    written = (tmp_path / "run" / "overlays",)
    assert names(tmp_path, written) == ["a.png", "overlays/b.png"]
    passed_over = image_folder(tmp_path, written).passed_over()
    assert passed_over == f"the results in {tmp_path / 'old'} are passed over"


def test_scans_and_other_files_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    for name in ("a.dcm", "B.DCM", "c.nii.gz", "d.nii", "notes.txt", "README"):
        (tmp_path / name).write_text("")
    assert image_folder(tmp_path).passed_over() == (
        "6 files that are no pictures (.dcm 2, .nii 1, .nii.gz 1, .txt 1, without an ending 1) are "
        "passed over; scans become pictures by 'launch/data.py slices'"
    )
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"no image file \(.*; 6 files .*slices"):
        image_folder(tmp_path)


def test_an_interrupted_inference_asks_the_same_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, "a.png", "b.png", "masks/a.png")
    settings = InferenceSettings(
        checkpoint="x", images=str(tmp_path), question="Where?", output_dir=str(tmp_path / "out")
    )
    written = [tmp_path / "out" / name for name in ("masks", "overlays", "results.csv")]
    first = open_asked(settings, Settings(), None, written)
    assert f"--images {tmp_path}: 1 masks are passed over" in caplog.messages
    fill(tmp_path, "out/overlays/000000.png", "out/masks/000000.png")
    (tmp_path / "out/made_by.json").write_text("{}")
    caplog.set_level(logging.WARNING)
    again = open_asked(settings, Settings(), None, written)
    assert (len(again.questions), again.identity) == (2, first.identity)
