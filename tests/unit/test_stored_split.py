"""What a training keeps of its division, and how evaluation reads it back."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.contents import content_digests
from prs_med.data.records import DataError, Record
from prs_med.data.split import split_records
from prs_med.data.stored_split import StoredSplit


def rows_of(root: Path) -> dict[Path, str]:
    return {path: path.name for path in sorted((root / "images").iterdir())}


def records_of(root: Path, label: Callable[[str], str] = lambda name: "") -> list[Record]:
    """A row for each image below ``root``; a name such as ``7_3.png`` is patient 7's."""
    return [
        Record(
            f"a.csv:{line}", path, path, "q", "a", "", None, label(name),
            group=name.partition("_")[0] if "_" in name else "", root=root,
        )
        for line, (path, name) in enumerate(rows_of(root).items(), start=2)
    ]  # fmt: skip


def stored(records: Sequence[Record], root: Path, **shares: float) -> StoredSplit:
    """As a training on these rows stores it, read back from its bytes."""
    splits = split_records(records, shares.get("val", 0.2), 0, test_fraction=shares.get("test", 0))
    made = StoredSplit.of(splits, content_digests(rows_of(root), 1, show_progress=False))
    read = StoredSplit.parse(made.dumps(), "split.json")
    assert read == made
    return read


def names(records: Sequence[Record]) -> set[str]:
    return {record.image_path.name for record in records}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve patients with two images each, and four images of nobody."""
    folder = tmp_path / "root" / "images"
    folder.mkdir(parents=True)
    for patient in range(12):
        for number in range(2):
            (folder / f"{patient}_{number}.png").write_text(f"{patient} {number}")
    for number in range(4):
        (folder / f"x{number}.png").write_text(f"x {number}")
    return tmp_path / "root"


def test_what_was_held_out_is_read_back(root: Path) -> None:
    records = records_of(root)
    kept = stored(records, root, val=0.2, test=0.2)
    splits = split_records(records, 0.2, 0, test_fraction=0.2)
    for name in ("train", "val", "test"):
        read = kept.read_back(records, name)
        assert read.records == getattr(splits, name)
        assert read.notes == []


def test_nobody_is_named(root: Path) -> None:
    shutil.move(root / "images" / "0_0.png", root / "images" / "Li Wei_0.png")
    content = stored(records_of(root), root).dumps().decode()
    assert "Wei" not in content
    assert "wei" not in content
    assert ".png" not in content
    loaded = json.loads(content)
    assert loaded["held_out"] == ["val"]
    assert {len(digits) for images in loaded["images"].values() for digits in images} == {32}


@given(
    seed=st.integers(0, 1000),
    bad=st.integers(0, 5),
    split=st.sampled_from(["train", "val", "test"]),
)
@settings(max_examples=15, deadline=None)
def test_new_rows_and_another_order_and_place_move_no_image(
    tmp_path_factory: pytest.TempPathFactory, seed: int, bad: int, split: str
) -> None:
    folder = tmp_path_factory.mktemp("data") / "one"
    (folder / "images").mkdir(parents=True)
    for number in range(20):
        (folder / "images" / f"{number // 2}_{number}.png").write_text(str(number))
    records = records_of(folder)
    kept = stored(records, folder, val=0.2, test=0.2)
    expected = names(kept.read_back(records, split).records)
    moved = folder.with_name("two")
    shutil.move(folder, moved)
    for number in range(bad):
        (moved / "images" / f"new{number}.png").write_text(f"new {number}")
    rows = records_of(moved)
    random.Random(seed).shuffle(rows)
    assert names(kept.read_back(rows, split).records) == expected


def test_an_image_is_known_again_under_another_path(root: Path) -> None:
    records = records_of(root)
    kept = stored(records, root)
    expected = {r.image_path.read_text() for r in kept.read_back(records, "val").records}
    for path in list((root / "images").iterdir()):
        path.rename(path.with_name(f"again {path.name}"))
    read = kept.read_back(records_of(root), "val")
    assert {record.image_path.read_text() for record in read.records} == expected


def test_another_image_of_the_same_name_is_a_new_one(root: Path) -> None:
    """As in another data set that numbers its images from 1."""
    kept = stored(records_of(root, lambda name: "train" if name < "9" else "test"), root)
    for path in (root / "images").iterdir():
        path.write_text(f"another {path.name}")
    others = records_of(root, lambda name: "test")
    read = kept.read_back(others, "test")
    assert read.records == others
    assert read.notes[0] == ("--split test: 28 images not there in training, labelled test")


def test_another_data_set_with_labels_of_its_own_can_be_evaluated(root: Path) -> None:
    kept = stored(records_of(root), root)
    for path in (root / "images").iterdir():
        path.write_text(f"another {path.name}")
    for split in ("val", "test"):
        others = records_of(root, lambda name, split=split: split)
        assert kept.read_back(others, split).records == others
    with pytest.raises(DataError, match=r"none of the \d+ images that training held out"):
        kept.read_back(records_of(root), "val")


def test_an_image_that_alone_has_changed_is_known_by_its_path(root: Path) -> None:
    records = records_of(root)
    kept = stored(records, root)
    held_out = kept.read_back(records, "val").records
    for record in held_out:
        record.image_path.write_text(f"edited {record.row_id}")
    read = kept.read_back(records, "val")
    assert read.records == held_out
    assert read.notes == [
        f"--split val: {len(held_out)} images with another content than in training, taken by path"
    ]


def test_a_training_image_that_is_labelled_otherwise_now_is_refused(root: Path) -> None:
    def label(name: str) -> str:
        return "test" if name.startswith("x") else "train"

    kept = stored(records_of(root, label), root, val=0)
    changed = records_of(root, lambda name: "test" if name[0] in "x3" else "train")
    with pytest.raises(DataError, match=r"^a\.csv:\d+: is labelled test, but .* 'train' .*\(2 im"):
        kept.read_back(changed, "test")
    # The same file under another name is the same image.
    shutil.copy(root / "images" / "4_0.png", root / "images" / "xcopy.png")
    with pytest.raises(DataError, match=r"labelled test, but its image was in split 'train'"):
        kept.read_back(records_of(root, label), "test")


def test_what_is_not_as_it_was_is_said(root: Path) -> None:
    records = records_of(root)
    kept = stored(records, root)
    held_out = kept.read_back(records, "val").records
    held_out[0].image_path.unlink()
    (root / "images" / "new.png").write_text("new")
    read = kept.read_back(records_of(root), "val")
    assert names(read.records) == names(held_out[1:])
    assert read.notes == [
        f"--split val: 1 of the {len(held_out)} images of the training's split not in the data",
        "--split val: 1 image left out: not there, or bad rows, when training held out images, and "
        "so of no split",
    ]
    for record in held_out[1:]:
        record.image_path.unlink()
    with pytest.raises(DataError, match=r"^--split val: none of the \d+ images that training held"):
        kept.read_back(records_of(root), "val")


def test_patients_of_other_splits_are_counted(root: Path) -> None:
    def label(name: str) -> str:
        return "test" if name in ("0_0.png", "1_0.png", "2_0.png", "2_1.png") else "train"

    records = records_of(root, label)
    read = stored(records, root, val=0).read_back(records, "test")
    assert read.notes == [
        "--split test: 2 of 3 patients or studies are by their names in other splits of the "
        "training, too (train: 2)"
    ]


def test_without_the_content_of_files_paths_tell(root: Path) -> None:
    records = records_of(root)
    splits = split_records(records, 0.2, 0)
    kept = StoredSplit.of(splits, {})
    assert StoredSplit.parse(kept.dumps(), "x") == kept
    assert kept.read_back(records, "val").records == splits.val


def test_an_image_that_cannot_be_read_stays_where_it_was(root: Path) -> None:
    records = records_of(root)
    kept = stored(records, root)
    held_out = kept.read_back(records, "val").records
    held_out[0].image_path.unlink()
    os.mkdir(held_out[0].image_path)
    assert kept.read_back(records, "val").records == held_out


def test_a_dataset_with_training_images_in_the_split_is_refused(root: Path) -> None:
    records = records_of(root)
    kept = stored(records, root, val=0.2, test=0.2)
    kept.refuse_trained(kept, "val", "sets/a")
    kept.refuse_trained(kept, "train", "sets/a")
    digests = content_digests(rows_of(root), 1, show_progress=False)
    other = StoredSplit.of(split_records(records, 0.2, 5, test_fraction=0.2), digests)
    with pytest.raises(
        DataError, match=r"^--split val: \d of the \d images in sets/b were training"
    ):
        kept.refuse_trained(other, "val", "sets/b")
    renamed = [replace(r, image_path=r.image_path.with_name(f"n{r.row_id}")) for r in records]
    contents = {n.image_path: digests[r.image_path] for n, r in zip(renamed, records, strict=True)}
    elsewhere = StoredSplit.of(split_records(renamed, 0.2, 5), contents)
    with pytest.raises(DataError, match="were training images of this checkpoint"):
        kept.refuse_trained(elsewhere, "val", "sets/c")


def test_what_the_weights_to_go_on_from_have_seen_is_counted(root: Path) -> None:
    records = records_of(root)
    digests = content_digests(rows_of(root), 1, show_progress=False)
    before, here = (
        StoredSplit.of(split_records(records, 0.2, 0, fold=(number, 4)), digests)
        for number in (1, 2)
    )
    held_out = sum(name == "val" for name in here.images.values())
    assert before.seen_of(before) == []
    assert before.seen_of(here) == [
        f"{held_out} images of split val here were training images there, so scores on them are "
        "too good"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a description of splits"),
        (b"[]", "not a description of splits"),
        (b'{"format": 1}', "not a description of splits"),
        (b'{"format": 9}', "format 9; this version reads 1"),
        (b"\xff", "not a description of splits"),
    ],
)
def test_what_is_no_such_file_is_said_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"^runs/a/split.json: {message}"):
        StoredSplit.parse(content, "runs/a/split.json")
