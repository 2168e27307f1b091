"""Evaluation asks about the images that training held out, whatever happened to the data since."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from prs_med.answering_config import EvaluationSettings
from prs_med.config import Settings
from prs_med.data.contents import content_digests
from prs_med.data.dataset.build import Layout, build
from prs_med.data.records import DataError
from prs_med.data.rows import divide_usable, read_records, verify_files
from prs_med.data.split import divide
from prs_med.data.stored_split import StoredSplit
from prs_med.evaluate.open_questions import open_split
from prs_med.storage.directory import DirectoryStore

HEADER = "image_path,mask_path,question,answer,patient_id"
MIB = 2**20


def add(root: Path, name: str, patient: object, grey: int) -> None:
    """An image with its mask and its row."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey if kind == "images" else 255).save(root / kind / name)
    table = root / "annotations" / "a.csv"
    if not table.exists():
        table.parent.mkdir()
        table.write_text(HEADER + "\n")
    with table.open("a") as file:
        file.write(f"images/{name},masks/{name},Where?,Top left.,{patient}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten patients with three images each and no labels, in a layout of two folders."""
    for number in range(30):
        add(tmp_path / "data", f"{number:02d}.png", number // 3, 3 + number)
    return tmp_path / "data"


def of(root: Path, **changes: object) -> Settings:
    return Settings(data_root=str(root), **changes)  # type: ignore[arg-type]


def trained(settings: Settings) -> tuple[set[str], bytes]:
    """The names of the images that a training on these data validates with, and its split.json."""
    verified = verify_files(read_records(settings).records, None, 1, show_progress=False)
    splits = divide(verified.records, settings, settings.seed)
    rows = {record.image_path: record.row_id for record in verified.records}
    content = StoredSplit.of(splits, content_digests(rows, 1, show_progress=False)).dumps()
    return {record.image_path.name for record in splits.val}, content


def asked(
    root: Path, settings: Settings, content: bytes | None, split: str = "val", **changes: object
) -> set[str]:
    given = EvaluationSettings(data_root=str(root), split=split, **changes)  # type: ignore[arg-type]
    questions = open_split(given, settings, given.strict, content).questions
    return {Path(questions.question(n).image).name for n in range(len(questions))}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "prs_med")
    return caplog


def test_another_name_of_the_data_root_changes_nothing(
    root: Path, said: pytest.LogCaptureFixture
) -> None:
    settings = of(root)
    val, content = trained(settings)
    assert len(val) == 3
    moved = root.rename(root.with_name("elsewhere"))
    assert asked(moved, settings, content) == val
    assert asked(moved, settings, content, "train").isdisjoint(val)
    assert not said.messages


def test_training_build_and_evaluation_skip_the_same_rows(root: Path, tmp_path: Path) -> None:
    before, _ = trained(of(root))
    for number in range(7):
        add(root, f"bad{number}.png", f"b{number}", 90 + number)
    for number in range(3):
        (root / "images" / f"bad{number}.png").write_bytes(b"no image")
    for number in range(3, 6):
        (root / "masks" / f"bad{number}.png").unlink()
    Image.new("L", (9, 9)).save(root / "masks" / "bad6.png")
    settings = of(root, on_bad_rows="skip")
    val, content = trained(settings)
    assert val == before
    assert asked(root, settings, content) == val
    # Also with weights that come without split.json.
    splits, bad_rows = divide_usable(read_records(settings).records, settings, 0, 1, False)
    assert {record.image_path.name for record in splits.val} == val
    assert len(bad_rows) == 4
    built = build(
        splits, root, DirectoryStore(tmp_path / "set"), Layout(MIB, MIB, shuffle=True, seed=0),
        held_out=splits.how, skip_bad_rows=True, allow_duplicates=True, workers=1,
        show_progress=False,
    )  # fmt: skip
    there = StoredSplit.parse((tmp_path / "set" / "split.json").read_bytes(), "x")
    assert there.read_back(read_records(settings).records, "val").records == splits.val
    assert built.index.splits["val"].rows == len(val)


def test_images_that_broke_since_training_are_still_asked_about(
    root: Path, said: pytest.LogCaptureFixture
) -> None:
    settings = of(root)
    val, content = trained(settings)
    first, second, third = sorted(val)
    (root / "images" / first).write_bytes(b"no image")
    (root / "masks" / second).unlink()
    (root / "images" / third).unlink()
    given = EvaluationSettings(data_root=str(root), split="val")
    questions = open_split(given, settings, False, content).questions
    assert len(questions) == 3
    for number in range(3):
        with pytest.raises(DataError):
            questions.pixels(number)
    assert said.messages == [
        "--split val: 1 image with another content than in training, taken by path"
    ]


def test_a_column_that_names_patients_decides_nothing_that_training_decided(root: Path) -> None:
    settings = of(root)
    val, content = trained(settings)
    assert asked(root, settings, content, group_column="mask_path") == val
    with pytest.raises(DataError, match=r"no row is labelled val, the weights come without split"):
        asked(root, settings, None, group_column="mask_path")
    held_out = replace(settings, test_fraction=0.2)
    with pytest.raises(DataError, match=r"no row is labelled test, the weights come without split"):
        asked(root, held_out, None, "test", group_column="mask_path")


def test_a_test_that_was_held_out_can_be_evaluated(root: Path) -> None:
    settings = of(root, test_fraction=0.2)
    splits = divide(read_records(settings).records, settings, 0)
    _, content = trained(settings)
    test = {record.image_path.name for record in splits.test}
    assert len(test) == 6
    assert asked(root, settings, content, "test") == test
    assert asked(root, settings, None, "test") == test


def test_each_fold_is_evaluated_on_its_own_images(root: Path) -> None:
    found = []
    for number in range(1, 6):
        settings = of(root, fold=f"{number}/5")
        val, content = trained(settings)
        assert asked(root, settings, content) == val
        found.append(val)
    assert sorted(name for val in found for name in val) == [f"{n:02d}.png" for n in range(30)]


def test_weights_without_a_split_are_divided_again_and_it_is_said(
    root: Path, said: pytest.LogCaptureFixture
) -> None:
    settings = of(root)
    val, _ = trained(settings)
    assert asked(root, settings, None) == val
    assert [message.split(",")[0] for message in said.messages] == [
        "--split val: the weights come without split.json"
    ]
    with pytest.raises(DataError, match=r"was decided when the dataset sets/a was built"):
        asked(root, replace(settings, data="sets/a", data_root=""), None)


def test_patients_in_several_labelled_splits_are_counted(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    for number in range(12):
        split = "train" if number < 8 else "test"
        add(root / split, f"{number}.png", f"{number % 5}.0" if split == "test" else number % 5, 7)
    # Two tables of the same patients, one with 0, 1, ... and one with 0.0, 1.0, ...
    (root / "annotations").mkdir()
    for split in ("train", "test"):
        header, *lines = (root / split / "annotations" / "a.csv").read_text().splitlines()
        lines = [
            ",".join([f"{split}/{part}" if part.endswith(".png") else part
                      for part in line.split(",")]) + f",{split}"
            for line in lines
        ]  # fmt: skip
        text = "\n".join([f"{header},split", *lines]) + "\n"
        (root / "annotations" / f"{split}_rows.csv").write_text(text)
        shutil.rmtree(root / split / "annotations")
    settings = of(root)
    splits = divide(read_records(settings).records, settings, 0)
    assert splits.shared_groups_text == (
        "4 of 5 patients or studies are in several splits, as labelled (train and test: 4)"
    )
    _, content = trained(settings)
    asked(root, settings, content, "test")
    asked(root, settings, None, "test")
    assert said.messages == [
        "--split test: 4 of 4 patients or studies are by their names in other splits of the "
        "training, too (train: 3, val: 1)",
        splits.shared_groups_text,
    ]
